"""Whether a bundle may be run in a lower precision: its labels compared with those of fp32 on a reference case, and recorded."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from medvit.bundle_facts import GATE, Gate
from medvit.errors import BackendError, BundleError
from medvit.io.staging import explained, replace_file

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.progress import Progress

__all__ = ["record_gate", "require_gate", "run_gate"]

_PACKAGES = ("python", "medvit", "torch", "openvino")


def require_gate(bundle: Bundle, precision: str) -> Gate:
    """The bundle's gate for a precision, if it has passed with the weights that it has now.

    Raises:
        BackendError: it did not pass, or was never run.
    """
    command = f"medvit bundles gate {bundle.name} --case SCAN"
    mine = [gate for gate in bundle.facts.gates if gate.precision == precision]
    current = [gate for gate in mine if gate.weights_sha256 == bundle.weights_sha256]
    if not current:
        why = "of other weights only" if mine else "for it"
        raise BackendError(
            f"Found precision {precision!r} for {bundle.name} and no gate {why}; its labels must first be seen to agree with fp32 "
            f"(lowest Dice of a label at least {GATE}). Run: {command}, or leave the precision out."
        )
    gate = current[-1]
    if not gate.passed:
        worst = min(gate.dice, key=gate.dice.__getitem__)
        raise BackendError(
            f"Found precision {precision!r} for {bundle.name}, whose gate did not pass: Dice {gate.lowest:.4f} of {worst} against "
            f"fp32, at least {GATE} is needed. Leave the precision out, or run the gate on other weights: {command}."
        )
    return gate


def run_gate(
    bundle: Bundle, case: str | os.PathLike[str], precision: str = "bf16", progress: Progress | None = None
) -> Gate:
    """Label a case in fp32 as the network is, and in a lower precision, and compare.

    Args:
        bundle: a trained one for segmentation.
        case: a scan that the bundle is made for.
        precision: "bf16".
        progress: told where the runs stand; can cancel them.

    Raises:
        BackendError: no backend computes in that precision here. BundleError: nothing was labelled, so nothing can be compared.
    """
    import torch

    from medvit.model import load_model, with_backend
    from medvit.pipeline import open_for, run_model
    from medvit.progress import Progress
    from medvit.reports.record import versions
    from medvit.settings import RunSettings

    progress = progress or Progress()
    bundle.require_task("segmentation")
    model = load_model(bundle, "cpu")
    settings = RunSettings("cpu")
    scan = open_for(bundle, case, settings, progress).scan
    lower = with_backend(model, "auto", precision)
    found = run_model(lower, scan, settings, progress)
    wanted = run_model(with_backend(model, "eager", "fp32"), scan, settings, progress)
    dice: dict[str, float] = {}
    for label in bundle.facts.labels:
        a, b = (torch.as_tensor(result.array == label.id) for result in (found, wanted))
        both = int(a.sum()) + int(b.sum())
        if both:
            dice[label.name] = round(2 * int((a & b).sum()) / both, 5)
    if not dice:
        raise BundleError(
            f"Found no label of {bundle.name} in the case; something to compare is needed. Give another --case."
        )
    stated = {name: number for name, number in versions().items() if name in _PACKAGES}
    return Gate(
        precision="bf16",
        backend=found.settings["backend"],
        case=scan.fingerprint(),
        dice=dice,
        weights_sha256=bundle.weights_sha256,
        versions=stated,
    )


def record_gate(bundle: Bundle, gate: Gate) -> None:
    """Write a gate into the bundle's metadata, in place of an earlier one of the same precision.

    Raises:
        OutputError: the metadata cannot be written.
    """
    path = bundle.root / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    others = [entry for entry in content["medvit"].get("gates", []) if entry["precision"] != gate.precision]
    content["medvit"]["gates"] = [*others, gate.model_dump()]
    with explained(path.parent), replace_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
