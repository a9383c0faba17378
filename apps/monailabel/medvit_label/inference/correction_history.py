"""An annotator's corrections over time: each starts from the annotator's own last one, however old."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.annotators import Annotator
from medvit_label.inference.corrections import Correction, carried, correct
from medvit_label.inference.run import InferenceFiles
from medvit_label.labels.saved_corrections import KeptCorrections, Mark

__all__ = ["Correcting"]


class Correcting:
    """Corrections of one annotator with one model on one image.

    Args:
        kept: the project's corrections.
        who: the annotator.
        model: the bundle's name.
        image: the image's id.
        state: of the image now.
    """

    def __init__(self, kept: KeptCorrections, who: Annotator, model: str, image: str, state: str) -> None:
        self._kept, self._who, self._state = kept, who, state
        self.key = (who.name, model, image)

    @property
    def lasting(self) -> bool:
        """True where a later request can name the image; an image sent along ends with its request."""
        return not self.key[2].startswith("upload ")

    def restart(self) -> list[str]:
        """Forget the corrections, as the annotator asks; say how many there were."""
        mark = self._kept.drop(*self.key)
        return [f"{mark.words} of {self._who.shown} were dropped, as asked."] if mark and mark.file else []

    def remark(self) -> tuple[list[str], dict[str, Any]]:
        """Say beside a plain answer what corrections are kept and not shown in it."""
        mark = self._kept.mark(*self.key)
        known = {"annotator": self._who.name, "kept": 0, "shown": False}
        if mark is None:
            return [], known
        lost = self._lost(mark)
        if lost:
            return [lost], known
        words = (
            f"This is the model's own answer. {mark.words} of {self._who.shown} on this image are kept and not shown in it: the next "
            'click goes on from them; "resume": true shows them, "restart": true drops them.'
        )
        return [words], known | {"kept": mark.count}

    def _lost(self, mark: Mark) -> str:
        """Return the reason against continuing from stored corrections; empty where there is none."""
        if not mark.file:
            return f"{mark.words} of {self._who.shown} on this image were dropped to make room for newer ones; they start anew."
        if mark.state != self._state:
            return f"The image has changed since {mark.words} of {self._who.shown} were made on it; they are not carried over."
        return ""

    def correct(
        self, plain: Result, asked: Correction, scratch: Path, progress: Progress, anew: bool = False
    ) -> InferenceFiles:
        """Take new strokes in on top of those kept, and keep what comes of it.

        Args:
            plain: the model's own answer.
            asked: the new strokes.
            scratch: where files go.
            progress: told where the work stands; can cancel it.
            anew: drop those kept, as the annotator asks.

        Raises:
            MedvitError: strokes that mean nothing; what was kept stays.
        """
        mark = self._kept.mark(*self.key) if self.lasting and not anew else None
        before, count, words = self._resumed(plain, mark)
        made = correct(before, asked, scratch, progress)
        words += self.restart() if anew else []
        assert isinstance(made.result, Result)
        made.params["notes"] += words
        if not asked.resumes(plain.bundle):
            count += 1
            if self.lasting:
                now = Mark(self._state, made.result.bundle.version, count, time.time(), "")
                made.params["notes"] += self._kept.keep(self.key, now, made.result.array)
        made.params["corrections"] = {
            "annotator": self._who.name,
            "kept": count if self.lasting else 0,
            "shown": count > 0,
        }
        return made

    def _resumed(self, plain: Result, mark: Mark | None) -> tuple[Result, int, list[str]]:
        """Return the answer with the stored corrections in it, their number, and the notes on them."""
        if mark is None:
            return plain, 0, []
        lost = self._lost(mark)
        ids = None if lost else self._kept.labels(mark)
        if ids is None or ids.shape != plain.array.shape:
            return plain, 0, [lost or f"The file of {mark.words} of {self._who.shown} cannot be read; they start anew."]
        words = [f"The answer continues from {mark.words} of {self._who.shown}."]
        if mark.version != plain.bundle.version:
            words.append(
                f"They were made on version {mark.version} of the model; {plain.bundle.version} answers now. Labels away from the corrections are "
                f'still those of {mark.version}. "restart": true starts from {plain.bundle.version}.'
            )
        return carried(plain, ids.astype(plain.array.dtype), []), mark.count, words
