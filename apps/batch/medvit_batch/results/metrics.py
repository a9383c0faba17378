"""Metrics of a batch for Prometheus: ``metrics.prom`` for a node's textfile collector, or served. They hold no patient
data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from medvit.atomic_write import os_errors_as_output_errors, replace_file
from medvit.reports import RATINGS
from medvit_batch.cases import State, sequential_seconds
from medvit_batch.errors import NetworkError
from medvit_batch.journal import Journal, sends_by_state

__all__ = ["metrics_text", "served", "write_metrics"]

_HERE = "127.0.0.1"


def metrics_text(journal: Journal) -> str:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(_Gauges(lambda: nullcontext(journal)).registry()).decode()


class _Gauges(Collector):
    """Gauges of a batch, with the values that its journal has when they are collected."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Journal]]) -> None:
        self._opened = opened

    def registry(self) -> CollectorRegistry:
        """Return a registry that holds these gauges alone."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the journal and yield the gauges."""
        with self._opened() as journal:
            yield from _gauges(journal)


def _gauges(journal: Journal) -> Iterator[GaugeMetricFamily]:
    counts, peak, seconds = journal.counts(), 0.0, 0.0
    ratings = dict.fromkeys(RATINGS, 0)
    for row in journal.cases(State.PUBLISHED):
        peak = max(peak, row["peak_mb"])
        seconds += sum(sequential_seconds(json.loads(row["seconds"])).values())
        ratings[row["rating"]] = ratings.get(row["rating"], 0) + 1
    states = {state.value: counts.get(state.value, 0) for state in State}
    yield _by_label("medvit_batch_cases", "Cases of the batch by state.", "state", states)
    yield _by_label("medvit_batch_ratings", "Published cases by rating.", "rating", ratings)
    for name, words, value in (
        ("medvit_batch_flagged", "Published cases that a person must look at.", journal.flagged()),
        ("medvit_batch_case_seconds_total", "Seconds that published cases took, together.", seconds),
        ("medvit_batch_worker_peak_megabytes", "The most memory that any worker took.", peak),
    ):
        yield GaugeMetricFamily(name, words, value=value)
    sends = dict(sorted(sends_by_state(journal).items()))
    yield _by_label("medvit_batch_sends", "Results for peers by state.", "state", sends)


def _by_label(name: str, words: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, words, labels=[label])
    for value, count in values.items():
        gauge.add_metric([value], count)
    return gauge


def write_metrics(journal: Journal, out: Path) -> None:
    """Write the file of metrics atomically, so that a reader finds either the old or the new one."""
    path = out / "metrics.prom"
    with os_errors_as_output_errors(out), replace_file(path) as aside:
        aside.write_text(metrics_text(journal), encoding="utf-8")


@contextmanager
def served(out: Path, port: int) -> Iterator[None]:
    """Serve current metrics of a batch, on this machine only, while the block runs.

    Args:
        out: folder of the batch.
        port: port to serve at; 0 serves nothing.

    Raises:
        NetworkError: the port cannot be used.
    """
    if not port:
        yield
        return

    try:
        server, thread = start_http_server(port, _HERE, _Gauges(lambda: closing(Journal(out))).registry())
    except (OSError, OverflowError) as error:
        raise NetworkError(
            f"that metrics cannot be served on {_HERE}:{port} ({error})",
            "a free port is needed",
            "Choose another --metrics-port.",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
