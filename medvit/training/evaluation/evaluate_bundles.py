"""Scores of a bundle or of a network in memory; reads the bundle's evaluate.json over its inference.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.inference import load_model, loaded_bundle_for
from medvit.training.data import VolumeReading
from medvit.training.evaluation.evaluation_set import Evaluation, EvaluationSet, Report
from medvit.training.evaluation.score_report import table

__all__ = ["evaluate_bundle", "evaluation_of", "report", "scorer"]


def evaluation_of(bundle: Bundle) -> Evaluation:
    """Build the evaluation of a bundle, the ``evaluation`` of its configs/evaluate.json.

    Raises:
        BundleError: it is missing, cannot be built, or is for another task.
    """
    path = bundle.root / "configs" / "evaluate.json"
    if not path.is_file():
        raise BundleError(
            f"no configs/evaluate.json in {bundle.name}",
            "it configures the evaluation",
            'See CONTRIBUTING.md, "Add a bundle".',
        )
    parser = ConfigParser()
    try:
        parser.read_config([str(path.with_name("inference.json")), str(path)])
        if "evaluation" not in parser.get():
            raise ValueError("it has no 'evaluation'")
        parser["bundle_root"] = str(bundle.root)
        evaluation: Evaluation = parser.get_parsed_content("evaluation")
    except (RuntimeError, TypeError, KeyError, ValueError, ImportError) as error:
        cause = error.__cause__ or error
        raise BundleError(
            f"a configs/evaluate.json of {bundle.name} that cannot be built: {str(cause).splitlines()[0]}",
            remedy="Correct it.",
        ) from error
    bundle.require_task(evaluation.task)
    return evaluation


def evaluate_bundle(
    bundle: Bundle,
    data: Path | None,
    root: Path | None,
    split: str,
    say: Report,
    device: str = "auto",
    *,
    geometry: str | None = None,
) -> dict[str, Any]:
    """Score a bundle's weights on a split of a data list.

    Args:
        bundle: the bundle.
        data, root, split: as for ``EvaluationSet``.
        say: receives a line for people after each case.
        device: as for ``medvit.inference.device.choose_device``.
        geometry: "sform" or "qform" of NIfTI files; None for the sform if it is stated.

    Returns:
        As for ``Scorer``; in addition ``geometry`` as requested, ``notes`` on the files and, in ``set_aside``, issues
        that a person must check.

    Raises:
        BundleError: the bundle is not trained, or has no valid evaluate.json.
        SourceError: the list is wrong.
        MedvitError: other errors as for ``medvit.run``.
    """
    part = EvaluationSet(bundle=bundle, data=data, root=root, split=split, reading=VolumeReading(geometry))
    return _scores(evaluation_of(bundle), part, say, device)


def _scores(evaluation: Evaluation, part: EvaluationSet, say: Report, device: str) -> dict[str, Any]:
    part.bundle.require_trained()
    judge = evaluation.judge(part)
    scores = judge(load_model(part.bundle, device), say)
    reading = part.reading
    return {**scores, "geometry": reading.geometry, "notes": reading.notes, "set_aside": reading.flags}


def scorer(
    bundle: Bundle,
    data: Path | None = None,
    root: Path | None = None,
    split: str = "validation",
    reading: VolumeReading | None = None,
) -> Callable[[nn.Module], dict[str, float]]:
    """Make a function that scores a network in memory as ``evaluate_bundle`` scores the bundle, for validation during
    training.

    The cases are prepared once. The bundle need not be trained. The network is scored in evaluation mode on its own
    device, and its mode is restored.

    Returns:
        A function from a network to its metrics; the first one is the one to watch, and higher is better.

    Raises:
        BundleError: there is no valid evaluate.json.
        SourceError: the list is wrong.
    """
    judge = evaluation_of(bundle).judge(
        EvaluationSet(
            bundle=bundle, data=data, root=root, split=split, watched=True, reading=reading or VolumeReading()
        )
    )

    def metrics(network: nn.Module) -> dict[str, float]:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        with _modes_kept(network):
            found: dict[str, float] = judge(loaded_bundle_for(bundle, network, device), lambda _: None)["metrics"]
        return found

    return metrics


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every module afterwards, since some may be frozen on purpose."""
    before = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def report(
    bundle_root: str, evaluation: Evaluation, cases: dict[str, str | None], device: str, output_dir: str
) -> dict[str, Any]:
    """Evaluate for ``python -m monai.bundle run evaluating``: print the table, write ``scores.json``.

    Args:
        bundle_root: the bundle's folder.
        evaluation: the evaluation built from evaluate.json.
        cases: ``data`` and ``root`` (paths or None) and ``split``, as for ``medvit evaluate``.
        device: as for ``medvit.inference.device.choose_device``.
        output_dir: folder for ``scores.json``; created.
    """
    bundle = open_bundle(bundle_root)
    bundle.require_task(evaluation.task)
    data, root = (None if cases.get(key) is None else Path(str(cases[key])) for key in ("data", "root"))
    part = EvaluationSet(bundle=bundle, data=data, root=root, split=str(cases["split"]))
    scores = _scores(evaluation, part, lambda line: print(line, flush=True), device)
    print(table(bundle, scores), flush=True)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores
