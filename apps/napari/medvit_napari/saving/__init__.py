"""Saving of label layers."""
