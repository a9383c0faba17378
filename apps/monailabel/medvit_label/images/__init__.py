"""Images of a label project."""
