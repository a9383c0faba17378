"""Annotation server: MONAI Label's HTTP protocol for medvit's pipeline."""
