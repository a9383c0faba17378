"""How to run a bundle. Light to import, so that a command can refuse a mistake before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_BUNDLE", "RunSettings"]

DEFAULT_BUNDLE = "headneck_ct_swin_unetr"
"""What ``medvit segment`` runs when no bundle is named."""


@dataclass(frozen=True)
class RunSettings:
    """How to run a bundle.

    Attributes:
        device: "auto" (a GPU if there is one, said in the record), "cpu", "gpu", "gpu:N", "cuda:N" or "mps".
        fast: the bundle's lighter overlap, where it states one.
        force: run on a modality the bundle was not made for; recorded.
        roi_subset: names of the labels to keep; empty keeps all.
        repair_tags: give DICOM slices with missing or contradicting UIDs consistent ones; recorded.
        series: number or UID, where the source holds several series.
        on_irregular: "fail", "resample" or "split" a tilted or uneven DICOM stack; recorded.
    """

    device: str = "auto"
    fast: bool = False
    force: bool = False
    roi_subset: tuple[str, ...] = ()
    repair_tags: bool = False
    series: str | None = None
    on_irregular: str = "fail"
