"""Catalogue of the files and series that a batch found."""
