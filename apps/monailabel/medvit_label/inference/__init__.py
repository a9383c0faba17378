"""Runs of models on images of a label project, and corrections by clicks."""
