"""Reading sources into layers."""
