"""The catalogue of files and series that a batch found."""
