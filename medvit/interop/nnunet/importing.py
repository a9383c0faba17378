"""Import of a trained nnU-Net v2 as a bundle of the user's store."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.interop.nnunet.bundle_files import ModelFacts
from medvit.interop.nnunet.checkpoint import FoldCheckpoint, fit, read_fold
from medvit.interop.nnunet.folder import ModelFolder, choose_folds, find_model, unpack_model
from medvit.interop.nnunet.installation import check_name, install
from medvit.interop.nnunet.label_names import labels_of, read_label_table
from medvit.interop.nnunet.plans import read_configuration, read_dataset
from medvit.io.labels import clean_name
from medvit.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ImportRequest", "Imported", "import_nnunet"]

_MODALITIES = {
    **dict.fromkeys(("ct", "cbct"), "CT"),
    **dict.fromkeys(("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2f", "flair"), "MR"),
    **dict.fromkeys(("adc", "dwi", "pd", "pdw", "swi", "bold", "t1_weighted", "t2_weighted", "mprage"), "MR"),
    **dict.fromkeys(("pet", "pt"), "PT"),
    **dict.fromkeys(("us", "ultrasound"), "US"),
}
"""DICOM modality of a channel's name."""

_TRAINER = "nnUNetTrainer"


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """A request to import a trained nnU-Net.

    Attributes:
        source: folder or zip of the model.
        configuration: configuration, where the source has several.
        folds: folds to import; empty for every numbered fold that is there, else "all".
        checkpoint: "final" or "best"; None takes the final one where it is there.
        modality: DICOM modality; None takes it from the names of the channels.
        table: JSON file with names, codes and colours of labels; None for those of dataset.json.
        name: name of the bundle; None makes one from dataset and configuration.
        licence: licence of the weights; None takes that of dataset.json.
        overwrite: True to replace an imported bundle of that name.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.interop.nnunet import ImportRequest
        >>> ImportRequest(source=Path("Dataset901_CTGroups")).folds
        ()
    """

    source: Path
    configuration: str | None = None
    folds: tuple[str, ...] = ()
    checkpoint: Literal["final", "best"] | None = None
    modality: str | None = None
    table: Path | None = None
    name: str | None = None
    licence: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An imported bundle.

    Attributes:
        bundle: the bundle in the user's store.
        folds: the folds.
        mirror_axes: axes along which inference mirrors.
        size: size of the weights in bytes.
        seconds_per_window: seconds that the network takes for one window of one fold, without mirroring, here.
        notes: what the user should know about the import.
    """

    bundle: Bundle
    folds: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    size: int
    seconds_per_window: float
    notes: tuple[str, ...] = ()


def import_nnunet(request: ImportRequest, progress: Progress | None = None) -> Imported:
    """Import a trained nnU-Net v2 as a bundle of the user's store; nothing in its files runs.

    Args:
        request: what to import.
        progress: shows the stages; can cancel.

    Returns:
        The bundle, ready to run by its name.

    Raises:
        BundleError: the folder, the plans or the weights are not those of a supported nnU-Net, or the name is taken.
        CheckpointError: a checkpoint is damaged or could run code.
        FetchError: the zip is damaged or unsafe.
        StoreError: the store cannot be written.
    """
    progress = progress or Progress()
    with tempfile.TemporaryDirectory(prefix="medvit-nnunet-") as unpacked:
        place = request.source
        if place.is_file():
            with progress.stage("unpack"):
                unpack_model(place, Path(unpacked))
            place = Path(unpacked)
        model = find_model(place, request.configuration)
        folds = choose_folds(model, request.folds)
        with progress.stage("read"):
            facts, weights, notes = _read(request, model, folds, progress)
    name = request.name or _usual_name(facts)
    check_name(name, request.overwrite)
    with progress.stage("measure"):
        seconds = _seconds_per_window(facts, weights)
    with progress.stage("write"):
        size = install(name, facts, weights, progress)
    return Imported(
        bundle=open_bundle(name),
        folds=facts.folds,
        mirror_axes=facts.mirror_axes,
        size=size,
        seconds_per_window=seconds,
        notes=notes,
    )


def _read(
    request: ImportRequest, model: ModelFolder, folds: Sequence[str], progress: Progress
) -> tuple[ModelFacts, dict[str, Tensor], tuple[str, ...]]:
    """Read plans, dataset and checkpoints; check that every tensor fits the network of the plans."""
    plans, dataset = model.read("plans.json"), read_dataset(model.read("dataset.json"))
    weights: dict[str, Tensor] = {}
    checksums: dict[str, str] = {}
    first: FoldCheckpoint | None = None
    facts: ModelFacts | None = None
    for number, fold in enumerate(folds):
        progress.report("read", number, len(folds))
        path = model.checkpoint(fold, request.checkpoint)
        found = read_fold(path)
        if first is None:
            first = found
            configuration = read_configuration(plans, found.configuration or model.configuration)
            _require_supported(configuration.name, configuration.previous_stage, len(dataset.channels))
            facts = ModelFacts(
                configuration=configuration,
                dataset=dataset,
                labels=labels_of(dataset.labels, {} if request.table is None else read_label_table(request.table)),
                folds=tuple(folds),
                mirror_axes=found.mirror_axes,
                trainer=found.trainer,
                modalities=_modalities(request.modality, dataset.channels),
                licence=request.licence or dataset.licence,
                provenance=_provenance(request.source, model, path, configuration.name),
                checksums={},
            )
        assert facts is not None
        if found.configuration != first.configuration:
            raise BundleError(
                f"fold_{fold} of configuration {found.configuration} beside one of {first.configuration}",
                "all folds must be of one configuration",
                "Choose folds with {folds=...}.",
                option="folds",
            )
        fit(_empty_network(facts), found, f"fold_{fold}")
        weights |= {f"folds.{number}.{name}": tensor.contiguous().clone() for name, tensor in found.tensors.items()}
        with path.open("rb") as file:
            checksums[fold] = hashlib.file_digest(file, "sha256").hexdigest()
    assert facts is not None
    facts = replace(facts, checksums=checksums)
    return facts, weights, _notes(facts, request, model)


def _require_supported(name: str, previous: str | None, channels: int) -> None:
    if previous is not None:
        raise BundleError(
            f"configuration {name}, the second stage of a cascade",
            "cascades cannot be imported yet",
            "Import 3d_fullres or 3d_lowres of this dataset with {configuration=...}.",
            option="configuration",
        )
    if channels > 1:
        raise BundleError(
            f"a model of {channels} input channels", "models of several inputs cannot be imported yet", ""
        )


def _empty_network(facts: ModelFacts) -> Any:
    """Return one fold's network without memory for its tensors."""
    import torch

    from medvit.interop.nnunet.networks import NnunetNetwork

    with torch.device("meta"):
        return NnunetNetwork(facts.architecture)


def _modalities(given: str | None, channels: Sequence[str]) -> tuple[str, ...]:
    if given is not None:
        return (given.upper(),)
    found = {_MODALITIES.get(clean_name(name, "")) for name in channels}
    return tuple(sorted(one for one in found if one)) if None not in found else ()


def _provenance(source: Path, model: ModelFolder, checkpoint: Path, configuration: str) -> str:
    return (
        f"nnU-Net v2 {model.root.parent.name}/{model.root.name}, {checkpoint.name}, configuration {configuration}, "
        f"imported from {source.name} on {datetime.now(UTC).date().isoformat()}"
    ).replace("medvit-nnunet-", "")


def _notes(facts: ModelFacts, request: ImportRequest, model: ModelFolder) -> tuple[str, ...]:
    notes = []
    private = [label.name for label in facts.labels if label.type.scheme == "99MEDVIT"]
    if private:
        named = ", ".join(private[:5]) + (" and others" if len(private) > 5 else "")
        notes.append(
            f"{len(private)} labels have no standard code and get one of scheme 99MEDVIT ({named}); --labels FILE sets codes."
        )
    if not facts.modalities:
        notes.append(
            f"The channel {facts.dataset.channels[0]!r} names no modality, so images of any modality run; "
            "--modality states it."
        )
    if facts.trainer != _TRAINER:
        notes.append(
            f"The trainer {facts.trainer} is not nnU-Net's own; every tensor fits the plans. Inference code of the "
            "trainer, if it has any, is not run."
        )
    if request.checkpoint is None:
        best = [fold for fold in facts.folds if model.checkpoint(fold, None).name != "checkpoint_final.pth"]
        if best:
            notes.append(f"Fold {', '.join(best)} has no checkpoint_final.pth; checkpoint_best.pth was taken.")
    if "all" in model.folds and "all" not in facts.folds:
        notes.append("fold_all, trained on all data, was left out; --folds all takes it.")
    return tuple(notes)


def _usual_name(facts: ModelFacts) -> str:
    return f"{clean_name(facts.configuration.dataset, 'nnunet')}_{clean_name(facts.configuration.name, 'model')}"


def _seconds_per_window(facts: ModelFacts, weights: dict[str, Tensor]) -> float:
    """Return the seconds of one run of the first fold's network, the shorter of two."""
    import torch

    network = _empty_network(facts).to_empty(device="cpu").eval()
    wanted = network.state_dict()
    own = {name.removeprefix("folds.0."): value for name, value in weights.items() if name.startswith("folds.0.")}
    network.load_state_dict({name: value.to(wanted[name].dtype) for name, value in own.items()})
    window = torch.zeros(1, len(facts.dataset.channels), *facts.configuration.patch_size)
    taken = []
    with torch.inference_mode():
        for _ in range(2):
            begin = time.perf_counter()
            network(window)
            taken.append(time.perf_counter() - begin)
    return min(taken)
