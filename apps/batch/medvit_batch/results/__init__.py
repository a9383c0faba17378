"""Results of a batch: reports, tables, charts and metrics."""
