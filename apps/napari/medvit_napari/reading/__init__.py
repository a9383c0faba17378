"""Reading of sources into layers."""
