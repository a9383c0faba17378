"""Calls of a ``Predictor`` that stays in its process: the time of each, and a profile of a later one.

Below the processor time of the calls stands where a later call spends its time, by ``cProfile``: the functions with the
largest time of their own, and the functions that would be set-up, with the time that they and what they call take. The
labels of all calls must be equal.

    python benchmarks/predictor.py [--calls 4] [--image hippocampus.nii.gz] [--bundle NAME]

Without an image, a synthetic one of a hippocampus's size is segmented.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cold_start import synthetic

SET_UP = {
    "load_model": "load the bundle",
    "graph_of": "find the prepared network",
    "_make": "prepare the network",
    "_compile": "compile the graph or a kernel",
    "_find_and_load": "import modules",
}
"""Functions that set something up, with what they do."""


def profile(call: Any) -> pstats.Stats:
    """Run a call under the profiler; return its statistics."""
    with cProfile.Profile() as made:
        call()
    return pstats.Stats(made)


def rows(stats: pstats.Stats, count: int) -> list[tuple[str, int, float]]:
    """Return name, calls and own seconds of the functions that take longest, longest first."""
    found = [
        (name if path == "~" else f"{Path(path).name}: {name}", calls, own)
        for (path, _, name), (_, calls, own, _, _) in stats.stats.items()  # type: ignore[attr-defined]
    ]
    return sorted(found, key=lambda row: -row[2])[:count]


def set_up_seconds(stats: pstats.Stats) -> dict[str, float]:
    """Return the seconds of each function of ``SET_UP``, with what it calls."""
    taken = dict.fromkeys(SET_UP, 0.0)
    for (_, _, name), (_, _, _, whole, _) in stats.stats.items():  # type: ignore[attr-defined]
        if name in taken:
            taken[name] += whole
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--bundle", default="hippocampus_mr_swin_unetr")
    options = parser.parse_args()
    import medvit

    with tempfile.TemporaryDirectory() as folder:
        image = options.image or synthetic(Path(folder))
        print("| call | processor time | wall-clock time |\n|---|---:|---:|")
        start = time.process_time(), time.perf_counter()
        predictor = medvit.Predictor(options.bundle, device="cpu")
        labels = []
        for n in range(options.calls):
            labels.append(np.asarray(predictor(image).labels))
            end = time.process_time(), time.perf_counter()
            name = "Predictor(...) and its first call" if n == 0 else f"call {n + 1}"
            print(f"| {name} | {end[0] - start[0]:.2f} s | {end[1] - start[1]:.2f} s |")
            start = end
        stats = profile(lambda: predictor(image))
    equal = all(np.array_equal(one, labels[0]) for one in labels)
    print(f"\nThe labels of all calls are {'equal' if equal else 'NOT EQUAL'}.")
    total = sum(own for _, _, own in rows(stats, 10**6))
    print("\n| a later call, own time by function | calls | seconds | share |\n|---|---:|---:|---:|")
    for name, calls, own in rows(stats, 10):
        print(f"| `{name.strip('<>')}` | {calls} | {own:.3f} | {100 * own / total:.1f} % |")
    print("\n| set-up in a later call | seconds |\n|---|---:|")
    for name, seconds in set_up_seconds(stats).items():
        print(f"| {SET_UP[name]} (`{name}`) | {seconds:.3f} |")


if __name__ == "__main__":
    main()
