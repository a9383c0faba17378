"""Folder of a batch: checked, locked and repaired before a session works in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medvit.cli.common import Terminal
from medvit.errors import OutputError, SourceError
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.events import Events
from medvit_batch.execution.batch import Batch
from medvit_batch.execution.publish import exclusive_folder, prepare, recover
from medvit_batch.execution.session import Session
from medvit_batch.journal import Journal

__all__ = ["CATALOGUE", "open_batch_folder"]

CATALOGUE = "catalogue.sqlite"
"""Name of the file with the archive's headers, in the folder of the batch."""


@contextmanager
def open_batch_folder(batch: Batch, shown: Terminal) -> Iterator[Session]:
    """Lock a batch's folder, repair the state that an interrupted run left, and yield a session.

    Raises:
        SourceError: the archive is not a folder. BundleError: a bundle cannot run. OutputError, BatchError: the folder
            cannot be used.
    """
    if not batch.archive.is_dir():
        raise SourceError(
            f"no folder at {batch.archive}", "an archive is a folder with images in it", "Check the path."
        )
    out, archive = Path(os.path.realpath(batch.out)), Path(os.path.realpath(batch.archive))
    if out == archive:
        raise OutputError(
            f"the archive itself given for the results ({batch.out})", "they need a folder of their own", "Change -o."
        )
    _ = batch.plan.options_hashes  # refuses a bundle before anything is written
    prepare(batch.out)
    with exclusive_folder(batch.out):
        journal, catalogue = Journal(batch.out, new=True), Catalogue(batch.out / CATALOGUE)
        try:
            privacy = batch.plan.work.privacy
            journal.agree("" if privacy is None else privacy.mark)
            left = recover(journal, batch.out)
            if left:
                shown.say(f"{left} case(s) were running when the last run ended; they are run again.")
            session = Session(batch, journal, catalogue, shown.say, Events(batch.out, shown))
            with closing(session):
                yield session
        finally:
            catalogue.close()
            journal.close()
