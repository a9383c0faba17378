"""Benchmarks of ``medvit benchmark``: medvit and MONAI in one run, with agreement and paired ratios."""

from medvit.benchmarks.networks import Row, Workload, bundle_workload, compare, random_workload

__all__ = ["Row", "Workload", "bundle_workload", "compare", "random_workload"]
