"""The selection of series and of a bundle for each, by rules."""
