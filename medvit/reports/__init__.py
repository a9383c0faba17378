"""Reports of a result: statistics, rating, preview, and the record of the run."""
