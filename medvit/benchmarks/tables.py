"""Table of ``medvit benchmark`` in Markdown, for the terminal and the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from medvit.benchmarks.networks import Row, Split, Workload

__all__ = ["sentence", "table"]

_HEAD = (
    "| network, runtime, inferer | time | ratio (wall) | ratio (processor time) | same labels | largest logit difference "
    "| logits, relative L2 |"
)


def table(work: Workload, rows: Iterable[Row]) -> Iterator[str]:
    """Write the lines of a table: one for each way, and where medvit's ratio comes from.

    Args:
        work: what was run.
        rows: the measurements of ``compare``.
    """
    yield f"{work.name}; {torch.get_num_threads()} threads each; ratios are MONAI in eager PyTorch over the line."
    yield ""
    measured = list(rows)
    yield from (_HEAD, "|---|---|---|---|---|---|---|")
    times = [row.theirs for row in measured if not row.refused]
    if times:
        yield f"| MONAI eager fp32 | {times[0]:.2f} s | 1 | 1 | | | |"
    for row in measured:
        way = row.way if " in " in row.way else f"medvit {row.way}"
        if row.refused:
            yield f"| {way} | not run: {row.refused} | | | | | |"
        else:
            yield (
                f"| {way} | {row.ours:.2f} s | {row.ratio:.2f} | {row.ratio_cpu:.2f} | {row.agreement:.5%} "
                f"| {row.largest:.1e} | {row.difference:.1e} |"
            )
    for row in measured:
        if row.split is not None:
            yield from ("", sentence(row.split))


def sentence(parts: Split) -> str:
    """State in one sentence which part of medvit's ratio is the runtime, the network's form and the engine."""
    return (
        f"By processor time, medvit in OpenVINO is {parts.total:.2f} times as fast as MONAI in eager PyTorch: "
        f"{parts.runtime:.2f} by the runtime (OpenVINO in place of PyTorch), {parts.network:.2f} by medvit's form of "
        f"the network, {parts.engine:.2f} by the engine (windows, streaming, caching)."
    )
