"""The client of a label server."""
