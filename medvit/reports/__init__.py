"""What a person reads of a result: numbers, a word on quality, a picture, the record of the run."""
