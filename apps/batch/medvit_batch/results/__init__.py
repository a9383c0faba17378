"""Reports, tables, charts and metrics of a batch."""
