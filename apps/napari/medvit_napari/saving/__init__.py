"""Saving label layers."""
