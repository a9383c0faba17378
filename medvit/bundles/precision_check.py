"""Whether a bundle may be run in a lower precision: its labels compared with those of fp32 on a reference case, and recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medvit.atomic_write import explained, replace_file
from medvit.bundles.metadata import GATE, Gate
from medvit.errors import BackendError

if TYPE_CHECKING:
    from medvit.bundles.bundle import Bundle

__all__ = ["record_gate", "require_gate"]


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
