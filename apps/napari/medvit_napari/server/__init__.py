"""Client of a label server."""
