"""Labels of a label project."""
