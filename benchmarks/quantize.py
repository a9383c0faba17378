"""Ranges for int8: the layers of a bundle that hold the precision check in int8, with their speed.

    python benchmarks/quantize.py BUNDLE --case SCAN --calibration SCAN... [--precision bf16] [--fast] [--write]

Needs the extra ``quantize`` (NNCF), which finds the ranges of the layers' inputs on windows of the calibration scans.
Each block of layers is first quantised alone; its lowest Dice of a label against fp32 on the case and the error of its
logits rank it, beside the relevance of its layers (sum of |input x gradient|). ``--fast`` leaves out the Dice of single
blocks. Blocks are then added in the order of the measured error, and stay where the lowest Dice is at least 0.999.
``--write`` writes the ranges of the layers that stayed into the bundle. With ``--precision bf16`` blocks run in bf16 in
place of int8; nothing is written. Speed is processor time on one thread, in turn with fp32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from medvit.bundles import MIN_DICE
from medvit.inference import LoadedBundle, load_model, with_backend
from medvit.inference.backends import built, load_openvino, openvino_core
from medvit.inference.backends.int8 import insert_ranges, layers_of
from medvit.inference.backends.openvino import _converted
from medvit.pipeline import Predictor
from medvit.reports import dice

WINDOWS, ROUNDS = 12, 7


class Called(nn.Module):
    """A function from windows to logits in place of the network; keeps some of the windows."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run, self.windows = run, []
        self.eval()

    def forward(self, windows: Tensor) -> Tensor:
        self.windows.append(windows.detach().clone())
        return self.run(windows)


@dataclass(frozen=True)
class Layer:
    """A layer: name of its weights, their sha256, and the smallest and largest input."""

    name: str
    digest: str
    low: float
    high: float

    @property
    def block(self) -> str:
        return ".".join(self.name.split(".")[:2])


class Trial:
    """A bundle's graph on the reference case, with some of its layers in lower precision."""

    def __init__(self, bundle: str, case: str, precision: str) -> None:
        loaded = with_backend(load_model(bundle, "cpu"), "eager", "fp32")
        self.model, self.precision = replace(loaded, network=built(loaded.network)), precision
        predictor = Predictor(self.model)
        self.case = predictor.prepare(case)
        taken = Called(self.model.network)
        self.wanted = self._labels(taken)
        self.window = taken.windows[len(taken.windows) // 2][:1]
        self.graph = _converted(self.model.network, self.window)
        self.logits = self.compiled(())(self.window.numpy())

    def _labels(self, network: nn.Module) -> NDArray[np.integer]:
        loaded: LoadedBundle = replace(self.model, network=network)
        return Predictor(loaded).run(self.case).array

    def compiled(self, layers: Iterable[Layer]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        graph, layers = self.graph.clone(), list(layers)
        graph.reshape(list(self.window.shape))
        hint = "f32"
        if self.precision == "int8":
            insert_ranges(graph, {layer.digest: (layer.low, layer.high) for layer in layers})
        elif layers:
            hint, low = "bf16", {layer.digest for layer in layers}
            for digest, node in layers_of(graph).items():
                if digest not in low:
                    _stay_in_fp32(node)
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
        made = openvino_core().compile_model(graph, "CPU", options)
        return lambda window: np.array(made(window)[0])

    def lowest_dice(self, layers: Iterable[Layer]) -> tuple[float, str]:
        run = self.compiled(layers)
        found = self._labels(Called(lambda w: torch.cat([torch.from_numpy(run(one[None].numpy())) for one in w])))
        shares = {}
        for label in self.model.bundle.facts.labels:
            a, b = found == label.id, self.wanted == label.id
            if a.any() or b.any():
                shares[label.name] = dice(a, b)
        worst = min(shares, key=shares.__getitem__)
        return shares[worst], worst

    def error(self, layers: Iterable[Layer]) -> float:
        found = self.compiled(layers)(self.window.numpy())
        return float(np.linalg.norm(found - self.logits) / np.linalg.norm(self.logits))

    def speed(self, layers: Iterable[Layer]) -> float:
        plain, low, window = self.compiled(()), self.compiled(layers), self.window.numpy()
        ratios = []
        for n in range(ROUNDS + 1):
            ratio = _seconds(lambda: plain(window)) / _seconds(lambda: low(window))
            ratios += [ratio] if n else []
        return statistics.median(ratios)


def _stay_in_fp32(node: Any) -> None:
    # the attribute by which OpenVINO keeps a node in fp32 where the rest runs in lower precision
    node.get_rt_info()["precise_0"] = ""


def _seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def calibration_windows(model: LoadedBundle, cases: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the windows of the cases with the most contrast."""
    taken = Called(model.network)
    for case in cases:
        Predictor(replace(model, network=taken))(case)
    chosen = sorted(taken.windows, key=lambda window: -float(window.std()))[:WINDOWS]
    return [window.numpy() for window in chosen]


def calibrated(trial: Trial, windows: Sequence[NDArray[np.float32]]) -> list[Layer]:
    """Return the layers that NNCF quantises, with the ranges of their inputs."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    graph = trial.graph.clone()
    graph.reshape(list(trial.window.shape))
    known = {node.get_friendly_name(): digest for digest, node in layers_of(graph).items()}
    ignored = nncf.IgnoredScope(types=["ScaledDotProductAttention", "Gelu", "MVN"], validate=False)
    made = nncf.quantize(graph, nncf.Dataset(windows), subset_size=len(windows), ignored_scope=ignored)
    names = {
        hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest(): name
        for name, tensor in trial.model.network.named_parameters()
    }
    found = []
    for node in made.get_ordered_ops():
        digest = known.get(node.get_friendly_name())
        ends = _ends(node.input_value(0).get_node()) if digest else None
        if digest and ends is not None:
            found.append(Layer(names.get(digest, node.get_friendly_name()), digest, *ends))
    return found


def _ends(source: Any) -> tuple[float, float] | None:
    """Return the range of a layer's input; that of joined inputs holds all of them."""
    if source.get_type_name() == "FakeQuantize":
        low, high = (source.input_value(n).get_node().get_data() for n in (1, 2))
        return float(low.min()), float(high.max())
    if source.get_type_name() not in ("Concat", "Transpose", "Reshape"):
        return None
    count = source.get_input_size() if source.get_type_name() == "Concat" else 1
    ends = [_ends(source.input_value(n).get_node()) for n in range(count)]
    known = [one for one in ends if one is not None]
    return None if len(known) < len(ends) else (min(low for low, _ in known), max(high for _, high in known))


def relevance(trial: Trial, windows: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Return the mean of |input x gradient of the chosen logits| of each layer, by the name of its weights."""
    network, kept, found = trial.model.network, {}, {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.LayerNorm):

            def keep(_: nn.Module, given: tuple[Tensor, ...], __: Tensor, name: str = f"{name}.weight") -> None:
                if given[0].requires_grad:
                    given[0].retain_grad()
                    kept[name] = given[0]

            hooks.append(module.register_forward_hook(keep))
    for window in windows[:3]:
        kept.clear()
        with torch.enable_grad():
            logits = network(torch.from_numpy(window).clone().requires_grad_())
            logits.amax(1)[logits.argmax(1) > 0].sum().backward()
        for name, given in kept.items():
            if given.grad is not None:
                found[name] = found.get(name, 0.0) + float((given * given.grad).abs().sum())
        network.zero_grad()
    for hook in hooks:
        hook.remove()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--case", required=True)
    parser.add_argument("--calibration", nargs="+", required=True)
    parser.add_argument("--precision", choices=("int8", "bf16"), default="int8")
    parser.add_argument("--fast", action="store_true", help="leave out the Dice of single blocks")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    trial = Trial(asked.bundle, asked.case, asked.precision)
    windows = calibration_windows(trial.model, asked.calibration)
    layers = calibrated(trial, windows)
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    relevant = relevance(trial, windows)
    print(
        f"{asked.bundle}, {asked.precision}: {len(layers)} layers in {len(blocks)} blocks; {load_openvino().__version__}; {_instructions()}"
    )
    print(
        "| block alone | layers | logits, relative L2 | lowest Dice | label | relevance | speed |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    errors, shares = {}, {}
    for block, own in blocks.items():
        lowest, label = (float("nan"), "-") if asked.fast else trial.lowest_dice(own)
        errors[block] = trial.error(own)
        shares[block] = sum(relevant.get(layer.name, 0.0) for layer in own)
        print(
            f"| {block} | {len(own)} | {errors[block]:.2e} | {lowest:.5f} | {label} | {shares[block]:.3g} | {trial.speed(own):.2f} |",
            flush=True,
        )
    both = spearmanr([errors[b] for b in blocks], [shares[b] for b in blocks])
    print(f"Rank correlation of error and relevance: {both.statistic:.2f}")
    kept: list[Layer] = []
    for block in sorted(blocks, key=errors.__getitem__):
        lowest, label = trial.lowest_dice([*kept, *blocks[block]])
        stays = lowest >= MIN_DICE
        kept += blocks[block] if stays else []
        print(f"with {block}: lowest Dice {lowest:.5f} ({label}), {'stays' if stays else 'in fp32'}", flush=True)
    lowest, label = trial.lowest_dice(layers)
    print(f"all layers: lowest Dice {lowest:.5f} ({label}), {trial.speed(layers):.2f} x fp32")
    speed = trial.speed(kept) if kept else 1.0
    print(
        f"kept: {len(kept)} of {len(layers)} layers, lowest Dice {trial.lowest_dice(kept)[0]:.5f}, {speed:.2f} x fp32"
    )
    if asked.write and kept and asked.precision == "int8":
        write(trial, kept)


def write(trial: Trial, kept: Sequence[Layer]) -> None:
    """Write the ranges into the bundle."""
    bundle = trial.model.bundle
    named = {layer.name: {"weights": layer.digest, "low": layer.low, "high": layer.high} for layer in kept}
    content = {"weights_sha256": bundle.weights_sha256, "layers": named}
    bundle.int8_ranges.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{bundle.int8_ranges}; now run: medvit bundles precision-check {bundle.name} --precision int8 --case SCAN")


def _instructions() -> str:
    found = torch.cpu.get_capabilities()
    return ", ".join(
        name for name in ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if found.get(name)
    )


if __name__ == "__main__":
    main()
