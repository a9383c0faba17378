"""Runs of bundles in the background."""
