"""Corrections of an annotator over several requests: each correction starts from the annotator's last one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.annotators import Annotator
from medvit_label.inference.corrections import Correction, correct, with_earlier_corrections
from medvit_label.inference.run import InferenceFiles
from medvit_label.labels.saved_corrections import CorrectionRepository, CorrectionSummary

__all__ = ["AnnotatorCorrections"]


class AnnotatorCorrections:
    """Corrections of one annotator with one model on one image.

    Args:
        corrections: the project's corrections.
        who: the annotator.
        model: the bundle's name.
        image: the image's id.
        state: current state of the image (``LabelImage.state``).
    """

    def __init__(self, corrections: CorrectionRepository, who: Annotator, model: str, image: str, state: str) -> None:
        self._corrections, self._who, self._state = corrections, who, state
        self.key = (who.name, model, image)

    @property
    def lasting(self) -> bool:
        """True if a later request can name the image; an image sent with a request is deleted after it."""
        return not self.key[2].startswith("upload ")

    def restart(self) -> list[str]:
        """Drop the stored corrections; return a note with their number."""
        summary = self._corrections.drop(*self.key)
        return (
            [f"{summary.words} of {self._who.display_name} were dropped, as asked."] if summary and summary.file else []
        )

    def remark(self) -> tuple[list[str], dict[str, Any]]:
        """Return notes on stored corrections that a plain answer does not contain, and their number for the answer."""
        summary = self._corrections.summary(*self.key)
        known = {"annotator": self._who.name, "kept": 0, "shown": False}
        if summary is None:
            return [], known
        lost = self._lost(summary)
        if lost:
            return [lost], known
        words = (
            f"This is the model's own answer. {summary.words} of {self._who.display_name} on this image are kept and not shown in it: the next "
            'click goes on from them; "resume": true shows them, "restart": true drops them.'
        )
        return [words], known | {"kept": summary.count}

    def _lost(self, summary: CorrectionSummary) -> str:
        """Return the reason why stored corrections cannot be continued; "" if they can."""
        if not summary.file:
            return f"{summary.words} of {self._who.display_name} on this image were dropped to make room for newer ones; they start anew."
        if summary.state != self._state:
            return f"The image has changed since {summary.words} of {self._who.display_name} were made on it; they are not carried over."
        return ""

    def correct(
        self, plain: Result, asked: Correction, scratch: Path, progress: Progress, anew: bool = False
    ) -> InferenceFiles:
        """Apply new strokes on top of the stored corrections, and store the outcome.

        Args:
            plain: the model's own answer.
            asked: the new strokes.
            scratch: folder for files.
            progress: receives the progress and can cancel the work.
            anew: True to drop the stored corrections first, at the annotator's request.

        Raises:
            MedvitError: invalid strokes; the stored corrections are kept.
        """
        summary = self._corrections.summary(*self.key) if self.lasting and not anew else None
        before, count, words = self._resumed(plain, summary)
        made = correct(before, asked, scratch, progress)
        words += self.restart() if anew else []
        assert isinstance(made.result, Result)
        made.params["notes"] += words
        if not asked.resumes(plain.bundle):
            count += 1
            if self.lasting:
                now = CorrectionSummary(
                    state=self._state, version=made.result.bundle.version, count=count, changed=time.time(), file=""
                )
                made.params["notes"] += self._corrections.keep(self.key, now, made.result.array)
        made.params["corrections"] = {
            "annotator": self._who.name,
            "kept": count if self.lasting else 0,
            "shown": count > 0,
        }
        return made

    def _resumed(self, plain: Result, summary: CorrectionSummary | None) -> tuple[Result, int, list[str]]:
        """Return the answer with the stored corrections applied, their number, and notes on them."""
        if summary is None:
            return plain, 0, []
        lost = self._lost(summary)
        ids = None if lost else self._corrections.labels(summary)
        if ids is None or ids.shape != plain.array.shape:
            return (
                plain,
                0,
                [lost or f"The file of {summary.words} of {self._who.display_name} cannot be read; they start anew."],
            )
        words = [f"The answer continues from {summary.words} of {self._who.display_name}."]
        if summary.version != plain.bundle.version:
            words.append(
                f"They were made on version {summary.version} of the model; {plain.bundle.version} answers now. Labels away from the corrections are "
                f'still those of {summary.version}. "restart": true starts from {plain.bundle.version}.'
            )
        return with_earlier_corrections(plain, ids.astype(plain.array.dtype), []), summary.count, words
