"""Selection of series, and of the bundle for each, by rules."""
