"""Inference on images of a label project, and corrections by clicks."""
