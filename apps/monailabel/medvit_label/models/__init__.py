"""Models that a label project offers, and their versions."""
