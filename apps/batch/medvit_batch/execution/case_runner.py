"""Execution of a case through the pipeline; every error becomes an outcome with stage, reason and remedy."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medvit.cli import command_line_words
from medvit.errors import (
    GeometryError,
    ImageError,
    MedvitError,
    ModalityError,
    OutputError,
    SelectionError,
    ShapeError,
    SourceError,
    out_of_space,
)
from medvit.progress import Progress
from medvit_batch.cases import NOT_DICOM, CaseJob, Outcome, State
from medvit_batch.catalogue.file_headers import without_values
from medvit_batch.execution.case_input import Opened, open_case, read_case
from medvit_batch.execution.worker import CaseChannel

if TYPE_CHECKING:
    from medvit.inference import LoadedBundle
    from medvit.io import Scan
    from medvit.restoration import Restored
    from medvit.segmentation import Result
    from medvit.tasks import SavedResult

__all__ = ["input_digest", "run_case"]

_THEIRS = (SourceError, GeometryError, ImageError, SelectionError, ModalityError, ShapeError)
"""Errors caused by the images: the case is set aside, since running it again would not help."""

_USUAL = {"dicom": ("dicom-seg", "nifti"), "picture": ("png",)}

_Made = TypeVar("_Made")

_HELD = 3
"""Upper limit of a case's memory while its results are written, as a multiple of its images' size: images, labels and
files to write.
"""


def run_case(job: CaseJob, link: CaseChannel) -> Outcome | None:
    """Run one case and return its outcome, errors included; None if the outcome follows once the results are written."""
    progress = Progress(link.show, link.announce)
    made = _attempt(job, link, lambda: _made(job, link, progress))
    if isinstance(made, Outcome):
        return _told(job, made, progress)
    size, write = made

    def finish(beside: bool) -> Outcome:
        start = time.perf_counter()
        outcome = _attempt(job, link, write)
        for name in (
            "write",
            "images",
        ):  # their time is part of "behind" or "write", with hashing and waiting for the disk
            progress.seconds.pop(name, None)
        progress.seconds["behind" if beside else "write"] = time.perf_counter() - start
        return _told(job, outcome, progress)

    return link.finish(size, finish)


def _attempt(job: CaseJob, link: CaseChannel, step: Callable[[], _Made]) -> _Made | Outcome:
    try:
        return step()
    except MemoryError:
        text = "Found too little memory for this case."
        return _failed(link, "MemoryError", text, "Retry it with fewer workers or on a machine with more memory.")
    except MedvitError as error:
        return _refused(job, link, error)
    except Exception as error:
        # the message of an unforeseen error may quote a header, so only its type is kept
        if type(error).__name__ == "OutOfMemoryError":
            text = "Found too little memory on the GPU for this case."
            return _failed(link, "OutOfMemoryError", text, "Retry it with fewer workers, or with --device cpu.")
        where = _place(error)
        text = f"Found something unforeseen ({type(error).__name__} in {where})."
        return _failed(
            link, type(error).__name__, text, "Run medvit segment on the series with --debug, and report it."
        )


def _told(job: CaseJob, outcome: Outcome, progress: Progress) -> Outcome:
    """Return an outcome as it may leave the worker: in de-identified words, with its seconds and peak memory."""
    if job.work.privacy is not None:
        outcome = outcome.in_words(job.work.privacy.words)
    seconds = {name: round(value, 3) for name, value in progress.seconds.items()}
    return replace(outcome, seconds=seconds, peak_mb=_peak_mb())


def input_digest(job: CaseJob) -> str | Outcome:
    """Return the hash of a case's images without running it, or its outcome if the images cannot be hashed."""
    found: list[str] = []

    def ask(digest: str) -> bool:
        found.append(digest)
        return False

    outcome = run_case(job, CaseChannel(case=job.case, ask=ask))
    assert outcome is not None  # None is only returned when results are written, and here none are
    return found[0] if found else outcome


def _made(job: CaseJob, link: CaseChannel, progress: Progress) -> Outcome | tuple[int, Callable[[], Outcome]]:
    """Run a case up to its result; return the bytes it holds in memory and a function that writes its results."""
    with progress.stage("open"):  # for a case that was read ahead, the time spent waiting for it
        opened = (link.reading.opened() if link.reading is not None else None) or open_case(job)
    if not link.ask(opened.digest):
        return Outcome(state=State.SKIPPED)
    with progress.stage("load"):
        from medvit.bundles import open_bundle
        from medvit.inference import load_model

        bundle, run = open_bundle(job.bundle), job.work.run
        model = load_model(bundle, run.device, run.fast, run.backend, run.precision)
    link.started()
    with progress.stage("read"):
        scan = _scan(job, opened, link, progress)
    link.go()
    write = (_restore if bundle.facts.task == "restoration" else _segment)(job, model, scan, progress)

    with progress.stage("wait"):  # only one case is written at a time
        link.settle()
    return scan.array.nbytes * _HELD, lambda: _with_images(job, opened, write(), progress)


def _scan(job: CaseJob, opened: Opened, link: CaseChannel, progress: Progress) -> Scan:
    """Return a case's images, read ahead or read now."""
    scan = link.reading.scan() if link.reading is not None else None
    if scan is None:
        return read_case(job, opened, progress)
    assert link.reading is not None
    progress.seconds["ahead"] = link.reading.seconds
    return scan


def _possible(job: CaseJob, types: Iterable[str], scan: Scan) -> tuple[str, ...]:
    """Return the output types that were asked for and can be made; of an image file no DICOM objects can."""
    asked = tuple(name for name in job.work.types if name in types)
    return asked if scan.kind == "dicom" else tuple(name for name in asked if name in NOT_DICOM)


def _segment(job: CaseJob, model: LoadedBundle, scan: Scan, progress: Progress) -> Callable[[], Outcome]:
    from medvit.pipeline import Predictor
    from medvit.segmentation import OUTPUT_TYPES, OutputSettings, Result, check_types
    from medvit.segmentation.save import save_result

    types = _possible(job, OUTPUT_TYPES, scan) or _USUAL.get(scan.kind, ("nifti",))
    check_types(types, scan.kind)
    result = Predictor(model, job.work.run).run(scan, progress)
    assert isinstance(result, Result)  # a bundle for segmentation returns nothing else
    settings = OutputSettings(
        output_types=types, preview=job.work.preview, statistics=job.work.statistics, per_label=job.work.per_label
    )
    return lambda: _outcome(
        job, result, save_result(result, job.staging, settings), "implausible anatomy, quality is poor"
    )


def _restore(job: CaseJob, model: LoadedBundle, scan: Scan, progress: Progress) -> Callable[[], Outcome]:
    from medvit.pipeline import Predictor
    from medvit.restoration import (
        RESTORED_TYPES,
        Restored,
        RestoredOutput,
        check_restored_types,
        save_restored,
        usual_restored_types,
    )

    types = _possible(job, RESTORED_TYPES, scan) or usual_restored_types(scan.kind)
    check_restored_types(types, scan.kind)
    result = Predictor(model, job.work.run).run(scan, progress)
    assert isinstance(result, Restored)  # a bundle for restoration returns nothing else
    settings = RestoredOutput(output_types=types, preview=job.work.preview, statistics=job.work.statistics)
    return lambda: _outcome(
        job,
        result,
        save_restored(result, job.staging, settings),
        "the image was not restored as it should be, quality is poor",
    )


def _with_images(job: CaseJob, opened: Opened, outcome: Outcome, progress: Progress) -> Outcome:
    """Add the de-identified images to the results of a case, if the job asks for them; return the outcome with the new
    hash.
    """
    if job.work.privacy is None or not job.work.privacy.images or opened.found is None:
        return outcome
    from medvit.deidentification import add_images

    with progress.stage("images"):
        (volume,) = (v for v in opened.found.volumes if v.number == job.key.number)
        add_images(job.staging, {plane.file.name: plane.file for plane in volume.planes}.values(), job.work.privacy)
    return replace(outcome, run_sha256=_sha256_of_run(job.staging))


def _outcome(job: CaseJob, result: Result | Restored, saved: SavedResult, if_poor: str) -> Outcome:
    flags = (*saved.not_written, *([if_poor] if saved.quality["rating"] == "poor" else []))
    return Outcome(
        state=State.CHECKED,
        flags=flags,
        rating=saved.quality["rating"],
        rating_reasons=tuple(saved.quality["reasons"]),
        notes=tuple(_unnamed(note, job) for note in (*result.notes, *saved.notes) if note not in saved.not_written),
        version=result.bundle.version,
        weights=result.bundle.weights_sha256,
        run_sha256=_sha256_of_run(saved.folder),
    )


def _sha256_of_run(folder: Path) -> str:
    return hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()


def _unnamed(text: str, job: CaseJob) -> str:
    """Replace the name of an image file in a message, since it may be a person's; DICOM files have aliases from the
    start.
    """
    path = job.key.image
    if path is None:
        return text
    names = [str(path), path.name]
    if path.suffix.lower() == ".zip":
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            names += [part for name in archive.namelist() for part in (name, name.rpartition("/")[2]) if part]
    for name in names:
        text = text.replace(name, "the image")
    return text


def _refused(job: CaseJob, link: CaseChannel, error: MedvitError) -> Outcome:
    text, step = (without_values(_unnamed(part(command_line_words), job)) for part in (error.headline, error.step))
    code = type(error).__name__
    if isinstance(error, OutputError) and out_of_space(error.__cause__):
        return Outcome(
            state=State.PENDING,
            stage=link.stage,
            code=code,
            reason=text,
            remedy="Free some space, then give the same command again.",
            full=True,
        )
    state = State.SET_ASIDE if isinstance(error, _THEIRS) else State.FAILED
    return Outcome(state=state, stage=link.stage, code=code, reason=text, remedy=step)


def _failed(link: CaseChannel, code: str, reason: str, remedy: str) -> Outcome:
    return Outcome(state=State.FAILED, stage=link.stage, code=code, reason=reason, remedy=remedy, fatal=True)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
