"""What ``medvit benchmark`` measures: ours beside its peer in one run, agreement printed, ratios pair by pair."""

from medvit.benchmarks.networks import Row, Workload, bundle_workload, compare, random_workload

__all__ = ["Row", "Workload", "bundle_workload", "compare", "random_workload"]
