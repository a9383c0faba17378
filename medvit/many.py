"""The one path for many cases: one model, and the next case is read while this one runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from medvit.bundles import Bundle, open_bundle
from medvit.errors import MedvitError
from medvit.model import load_model
from medvit.pipeline import Ready, check_settings, open_for, run_ready
from medvit.progress import Cancelled, Progress
from medvit.result import Result
from medvit.settings import RunSettings

__all__ = ["Case", "run_many"]

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Case:
    """One of many sources, and what came of it: a result, or the reason why there is none.

    Attributes:
        source: as it was given.
        result: the labels; None where the case failed.
        error: why it failed; None where it did not.
    """

    source: Source
    result: Result | None = None
    error: MedvitError | None = None


def run_many(
    bundle: str | os.PathLike[str] | Bundle,
    sources: Iterable[Source],
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[Case]:
    """Run a bundle on many sources, in their order; the model is loaded once and stays.

    Sources are taken one ahead, so a list, a folder's listing or a queue will do. A case that fails does not stop the others.

    Args:
        bundle: a bundle's name or folder.
        sources: paths as ``run`` takes them.
        settings: device and switches, for all.
        progress: its ``cancel`` stops after the window at hand; each result has seconds of its own.

    Raises:
        MedvitError: what is wrong for all cases: bundle, device, backend. Cancelled: if asked for.
    """
    settings = settings or RunSettings()
    watching = progress or Progress()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    wanted = check_settings(opened, settings)
    model = load_model(opened, settings.device, settings.fast, settings.backend, settings.precision)
    waiting = iter(sources)
    with ThreadPoolExecutor(1, "medvit-next-case") as reader:

        def begin() -> tuple[Source, Progress, Future[Ready]] | None:
            for source in waiting:
                own = watching.part()
                return source, own, reader.submit(open_for, opened, source, settings, own)
            return None

        coming = begin()
        while coming is not None:
            source, own, reading = coming
            try:
                ready = reading.result()
                coming = begin()
                yield Case(source, run_ready(model, ready, wanted, settings, own))
            except Cancelled:
                raise
            except MedvitError as error:
                if coming is not None and coming[2] is reading:
                    coming = begin()
                yield Case(source, error=error)
