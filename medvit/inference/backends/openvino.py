"""OpenVINO graph of a network on the CPU: converted once, compared with the network, timed beside it, and cached.

The cache key covers everything that the graph depends on: the network's fingerprint (weights, structure, settings,
sources), the window size and the versions of torch, OpenVINO and medvit. A batch is not faster on a CPU. On many cores
several windows run at once, each on a part of the cores, where that was measured to be faster.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from medvit._version import __version__
from medvit.errors import BackendError
from medvit.inference.backends.cache import estimate, get_or_build
from medvit.inference.backends.deferred_network import DeferredNetwork, built
from medvit.inference.backends.export_norm import as_recorded
from medvit.inference.backends.int8 import Ranges, insert_ranges, missing_instructions, read_ranges
from medvit.inference.backends.network_fingerprint import fingerprint
from medvit.inference.backends.openvino_library import load_openvino, openvino_core
from medvit.inference.backends.streams import fastest_streams
from medvit.progress import Progress

__all__ = ["Graph", "faster_graph_of", "graph_of", "unsupported_reason"]

_REVISION = 2
"""Version of the conversion; a new number makes cached graphs invalid."""

_TOLERANCE = 1e-3
"""Largest allowed difference of a logit between network and fp32 graph, as a share of the largest logit."""

_KIND = "openvino"
"""Kind of the cache's entries."""

_FIXED_SECONDS = 7.0
"""Duration of the preparation of a small network, compilation of numba's code included."""

_SECONDS_OF_WORK = 3e-12
"""Further duration for each parameter and voxel of a window, times the number of threads."""

_HELD = 3
"""Number of graphs kept in memory."""

_WORTH = 1.1
"""Smallest speed-up over the network at which "auto" uses the graph."""

# without a hint, OpenVINO computes in bf16 on processors that support it
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

_IN_MEMORY: OrderedDict[tuple[Any, ...], Graph] = OrderedDict()
_LOCK = Lock()


class Graph:
    """A compiled graph; a call takes (window, channel, *roi) float32 and returns logits.

    Attributes:
        facts: measurements from the conversion: ``difference`` (largest of a logit, as a share of the largest logit),
            ``ratio`` (speed-up over the network), ``seconds`` (duration of the preparation: conversion, comparison and
            timing) and ``expected`` (its duration by the network's size).
        streams: number of windows that run at once.
    """

    def __init__(self, path: Path, precision: str, facts: dict[str, Any], streams: int = 1) -> None:
        self.facts, self.streams = facts, streams
        graph = _compile(path, precision, streams)
        self._requests = [graph.create_infer_request() for _ in range(streams)]
        self._lock = Lock()

    def __call__(self, batch: Tensor) -> Tensor:
        """Return logits (window, class, *roi) in the order of the windows; for a single window they are valid until the
        next call.
        """
        windows = batch.detach().contiguous()[:, None]
        with self._lock:
            made = []
            for first in range(0, len(windows), self.streams):
                part = windows[first : first + self.streams].numpy()
                running = self._requests[: len(part)]
                for request, window in zip(running, part, strict=True):
                    request.start_async([window], share_inputs=True)
                for request in running:
                    request.wait()
                    logits = torch.from_numpy(request.get_output_tensor(0).data)
                    made.append(logits if len(windows) == 1 else logits.clone())
        return made[0] if len(made) == 1 else torch.cat(made)


def unsupported_reason(batch: Tensor, precision: str) -> str | None:
    """Return why no graph can run on windows such as these, or None."""
    if find_spec("openvino") is None:
        return "the package openvino is not installed; install it: pip install openvino"
    if batch.device.type != "cpu":
        return f"it computes on the CPU and the windows lie on {batch.device}"
    if batch.dtype != torch.float32:
        return f"the windows are {batch.dtype}, and it takes torch.float32; convert with .float()"
    if precision == "int8":
        return missing_instructions()
    if precision == "bf16" and "BF16" not in _capabilities():
        return "this processor does not compute in bf16; leave the precision out"
    return None


def graph_of(
    network: nn.Module | DeferredNetwork,
    batch: Tensor,
    precision: str = "fp32",
    streams: int | None = 1,
    progress: Progress | None = None,
    ranges: Path | None = None,
) -> Graph:
    """Return a network's graph for windows of one size, from memory, from the cache, or newly converted.

    Args:
        network: a network on the CPU, in evaluation mode.
        batch: example windows; only their size matters.
        precision: precision of the computation; the graph's weights are stored in fp32.
        streams: number of windows that run at once; None for the number that was measured fastest on this machine.
        progress: told before the network is prepared, or while another process prepares it; can cancel that wait.
        ranges: file of the ranges of the layers that run in int8; None for none.

    Raises:
        BackendError: the network cannot be converted, its graph computes other logits, or the cache cannot be written.
    """
    shape = (1, *batch.shape[1:])
    own = network.fingerprint() if isinstance(network, DeferredNetwork) else fingerprint(network)
    stated = (own, shape, torch.__version__, version("openvino"), __version__, _REVISION)
    key = hashlib.sha256(repr(stated).encode()).hexdigest()[:32]
    threads, name = torch.get_num_threads(), key
    progress = progress or Progress()
    layers = {} if ranges is None else read_ranges(ranges)
    if layers:
        name = f"{key}-{hashlib.sha256(repr(sorted(layers.items())).encode()).hexdigest()[:16]}"

    def make(aside: Path) -> dict[str, Any]:
        plain: nn.Module = built(network)
        expected = _expected_seconds(plain, shape)
        progress.announce(f"Preparing the network for this machine (once, about {estimate(_KIND, expected):.0f} s)")
        return {**_make(plain, shape, aside), "expected": expected}

    def compiled(at_once: int) -> Graph:
        folder, facts = get_or_build(_KIND, key, make, progress)
        if layers:
            plain = folder / "graph.xml"
            folder, _ = get_or_build(_KIND, name, lambda aside: _quantise(plain, layers, aside), progress)
        return Graph(folder / "graph.xml", precision, facts, at_once)

    with _LOCK:
        at_once = streams or fastest_streams(f"{name}-{precision}", threads, compiled, shape)
        held = (name, precision, threads, at_once)
        if held in _IN_MEMORY:
            _IN_MEMORY.move_to_end(held)
            return _IN_MEMORY[held]
        graph = compiled(at_once)
        _IN_MEMORY[held] = graph
        while len(_IN_MEMORY) > _HELD:
            _IN_MEMORY.popitem(last=False)
        return graph


def faster_graph_of(
    network: nn.Module | DeferredNetwork,
    batch: Tensor,
    streams: int | None = 1,
    progress: Progress | None = None,
) -> tuple[Graph | None, str]:
    """Return the fp32 graph if it was faster than the network when converted here, else None; and the reason."""
    try:
        graph = graph_of(network, batch, streams=streams, progress=progress)
    except BackendError as error:
        return None, f"no graph: {error}"
    ratio = graph.facts["ratio"]
    measured = f"measured {ratio:.1f} times as fast as eager when converted on this machine"
    if ratio < _WORTH:
        return None, f"its OpenVINO graph was {measured}"
    return graph, measured


def _expected_seconds(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Estimate the duration of a preparation from the size of network and window, measured with the shipped bundles."""
    work = sum(parameter.numel() for parameter in network.parameters()) * math.prod(shape[2:])
    return _FIXED_SECONDS + _SECONDS_OF_WORK * work / torch.get_num_threads()


def _make(network: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Convert a network, save the graph, compare it with the network, and time both."""
    start = time.perf_counter()
    traced, compared = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    path = folder / "graph.xml"
    load_openvino().save_model(_converted(network, traced), str(path), compress_to_fp16=False)
    made = Graph(path, "fp32", {})
    with torch.inference_mode():
        (wanted, found), (eager, quick) = _timed((network, made), compared)
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if not (found.shape == wanted.shape and difference <= _TOLERANCE):
        raise BackendError(
            f"an OpenVINO graph that differs from its network by {difference:.2g} of the largest logit",
            f"at most {_TOLERANCE:g} is allowed",
            "Use {backend=eager}, and report this.",
            option="backend",
        )
    return {"difference": difference, "ratio": eager / quick, "seconds": time.perf_counter() - start}


def _quantise(path: Path, layers: Ranges, folder: Path) -> dict[str, Any]:
    """Save a graph with some of its layers in int8."""
    graph = openvino_core().read_model(str(path))
    insert_ranges(graph, layers)
    load_openvino().save_model(graph, str(folder / "graph.xml"), compress_to_fp16=False)
    return {"layers": len(layers)}


def _timed(runs: Sequence[Callable[[Tensor], Tensor]], window: Tensor) -> tuple[list[Tensor], list[float]]:
    """Run each function twice, in turns, so that other work of the machine meets all of them; return the results and
    each one's shorter duration."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(2):
        results = []
        for run, seconds in zip(runs, taken, strict=True):
            start = time.perf_counter()
            results.append(run(window))
            seconds.append(time.perf_counter() - start)
    return results, [min(seconds) for seconds in taken]


def _converted(network: nn.Module, example: Tensor) -> Any:
    """Convert a network by recording the operators of one run.

    ``torch.jit.trace`` takes a third of the time of ``torch.export``, but records what a branch on tensor values does
    for the example, without an error. So it serves medvit's own networks, which have no such branch.
    """
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation and tracer warnings inside torch
        written = as_recorded(network)
        if type(network).__module__.partition(".")[0] == "medvit":
            with suppress(Exception):  # what cannot be traced may still be exported
                return _traced(written, example)
        try:
            return load_openvino().convert_model(torch.export.export(written, (example.clone(),), strict=False))
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackendError(
                f"a {type(network).__name__} that cannot be made an OpenVINO graph ({first})",
                "its forward must not branch on tensor values and must use only OpenVINO's operators",
                "Use {backend=eager}.",
                option="backend",
            ) from error


def _traced(network: nn.Module, example: Tensor) -> Any:
    traced = torch.jit.trace(network, example.clone(), check_trace=False)  # type: ignore[no-untyped-call]
    # without the size, OpenVINO keeps every axis open and fails where windows are reshaped
    return load_openvino().convert_model(traced, example_input=example.clone(), input=[tuple(example.shape)])


def _compile(path: Path, precision: str, streams: int) -> Any:
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # other processes may share the processor
    }
    if streams > 1:
        options["NUM_STREAMS"] = streams
    return openvino_core().compile_model(str(path), "CPU", options)


@lru_cache(maxsize=1)
def _capabilities() -> tuple[str, ...]:
    return tuple(openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
