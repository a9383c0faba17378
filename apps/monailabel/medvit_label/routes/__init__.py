"""Endpoints of MONAI Label's protocol."""
