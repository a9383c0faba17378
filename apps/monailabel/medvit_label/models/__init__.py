"""Models that a label project offers, with their versions."""
