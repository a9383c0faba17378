"""What a person reads of a result: numbers, the rating, a picture, the record of the run."""
