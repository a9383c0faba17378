"""Contradictions among the headers of one series: several patients, or two versions of the same image."""

from __future__ import annotations

from collections.abc import Sequence

from medvit.io.dicom.header import PlaneHeader, differing
from medvit.io.dicom.preflight.findings import Finding

__all__ = ["differing_versions", "patient_finding", "versions_finding"]


def versions_finding(planes: Sequence[PlaneHeader]) -> Finding | None:
    """Report images that exist in two versions: same UIDs, but different data of patient or study.

    An archive that corrects a patient's data sends the same images again. One of the versions is then wrong, and only a
    person can decide which.

    Args:
        planes: planes of one series, copies included.
    """
    twins, words = differing_versions(planes)
    if not twins:
        return None
    files = len({second.file.name for _, second in twins})
    found = (
        f"{files} image(s) in two versions under the same UIDs, which differ in {_joined(words)}, for example "
        f"{twins[0][0].file.name} and {twins[0][1].file.name}"
    )
    code = "several_patients" if any(word[0].isupper() for word in words) else "two_versions"
    step = "Decide which version is right, move the other away, and run again."
    return Finding(
        code=code,
        severity="refused",
        found=found,
        needed="results would carry one version's patient and study",
        step=step,
    )


def differing_versions(planes: Sequence[PlaneHeader]) -> tuple[list[tuple[PlaneHeader, PlaneHeader]], list[str]]:
    """Find images that exist in two versions; return the pairs, and the names of the data that differ.

    Args:
        planes: planes of one series, copies included.
    """
    if len({(p.patient, p.carried) for p in planes}) < 2:
        return [], []
    firsts: dict[tuple[str, int | None], PlaneHeader] = {}
    twins: list[tuple[PlaneHeader, PlaneHeader]] = []
    words: dict[str, None] = {}
    for plane in planes:
        first = firsts.setdefault((plane.sop_instance, plane.frame), plane)
        if first is plane or not plane.sop_instance:
            continue
        different = differing(first.patient, plane.patient, absent=True)
        if first.carried != plane.carried:
            different = (*different, "the study's date, number or physician")
        if different:
            twins.append((first, plane))
            words |= dict.fromkeys(different)
    return twins, list(words)


def patient_finding(planes: Sequence[PlaneHeader]) -> Finding | None:
    """Report headers of different patients within one volume."""
    identities = list(dict.fromkeys(p.patient for p in planes))
    words: dict[str, None] = {}
    for other in identities[1:]:
        words |= dict.fromkeys(differing(identities[0], other, absent=False))
    if not words:
        return None
    differ = f"{_joined(list(words))} differ{'s' if len(words) == 1 else ''}"
    text = f"several patients under one SeriesInstanceUID ({differ})"
    return Finding(
        code="several_patients",
        severity="refused",
        found=text,
        needed="a series belongs to one",
        step="Separate the files first.",
    )


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
