"""Benchmarks of ``medvit benchmark``: medvit and MONAI in one run, with agreement and paired ratios."""

from medvit.benchmarks.networks import Row, Split, Workload, bundle_workload, compare, random_workload
from medvit.benchmarks.tables import table

__all__ = ["Row", "Split", "Workload", "bundle_workload", "compare", "random_workload", "table"]
