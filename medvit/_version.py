"""The version of medvit."""

__version__ = "0.1.0"
