"""Execution of the cases of a batch in worker processes or on a cluster."""
