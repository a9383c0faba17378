"""Metrics of a batch for Prometheus: ``metrics.prom`` for a node's textfile collector, or served. They hold no patient
data.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from medvit.atomic_write import os_errors_as_output_errors, replace_file
from medvit.reports import RATINGS
from medvit_batch.cases import State, sequential_seconds
from medvit_batch.errors import NetworkError
from medvit_batch.journal import Journal, sends_by_state

__all__ = ["metrics_text", "served", "write_metrics"]

_HERE = "127.0.0.1"


def metrics_text(journal: Journal) -> str:
    """Return the metrics in Prometheus' text format."""
    counts, peak, seconds = journal.counts(), 0.0, 0.0
    ratings = dict.fromkeys(RATINGS, 0)
    for row in journal.cases(State.PUBLISHED):
        peak = max(peak, row["peak_mb"])
        seconds += sum(sequential_seconds(json.loads(row["seconds"])).values())
        ratings[row["rating"]] = ratings.get(row["rating"], 0) + 1
    lines = ["# HELP medvit_batch_cases Cases of the batch by state.", "# TYPE medvit_batch_cases gauge"]
    lines += [f'medvit_batch_cases{{state="{state.value}"}} {counts.get(state.value, 0)}' for state in State]
    lines += ["# HELP medvit_batch_ratings Published cases by rating.", "# TYPE medvit_batch_ratings gauge"]
    lines += [f'medvit_batch_ratings{{rating="{rating}"}} {n}' for rating, n in ratings.items()]
    for name, words, value in (
        ("medvit_batch_flagged", "Published cases that a person must look at.", float(journal.flagged())),
        ("medvit_batch_case_seconds_total", "Seconds that published cases took, together.", seconds),
        ("medvit_batch_worker_peak_megabytes", "The most memory that any worker took.", peak),
    ):
        lines += [f"# HELP {name} {words}", f"# TYPE {name} gauge", f"{name} {value:g}"]
    sends = sends_by_state(journal)
    lines += ["# HELP medvit_batch_sends Results for peers by state.", "# TYPE medvit_batch_sends gauge"]
    lines += [f'medvit_batch_sends{{state="{state}"}} {n}' for state, n in sorted(sends.items())]
    return "\n".join(lines) + "\n"


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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            with closing(Journal(out)) as journal:
                content = metrics_text(journal).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            """Log nothing about requests."""

    try:
        server = ThreadingHTTPServer((_HERE, port), Handler)
    except (OSError, OverflowError) as error:
        raise NetworkError(
            f"that metrics cannot be served on {_HERE}:{port} ({error})",
            "a free port is needed",
            "Choose another --metrics-port.",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="medvit-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
