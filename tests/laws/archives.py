"""Rows of a batch: tables of a small archive with good and bad cases, and de-identified results."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.laws.dicom import UidNumbers, object_products
from tests.laws.nifti import nifti_products
from tests.laws.products import Lines, Numbers, Product
from tests.laws.rows import Place, Row
from tests.laws.training import command

_CHANGING = {"seconds", "peak_mb", "updated"}
"""Columns of ``cases.csv`` that differ in each run."""

_WORDS = {"reason", "remedy", "flags", "rating_reasons"}
"""Columns with sentences, kept in a separate product, so that a reworded message renews nothing else."""


def _make_archive(folder: Path) -> None:
    """Write series with fixed UIDs: two good ones, a copy, one of another modality, one with a gap, one damaged."""
    values, _ = phantom()
    small, _ = phantom((24, 20, 8))

    def write(number: int, name: str, array: np.ndarray, **changes: object) -> list[Path]:
        fixed = {
            "StudyInstanceUID": f"1.2.3.{number}",
            "SeriesInstanceUID": f"1.2.3.{number}.1",
            "FrameOfReferenceUID": f"1.2.3.{number}.2",
            "SOPInstanceUID": lambda k: f"1.2.3.{number}.3.{k + 1}",
        }
        return write_series(folder / name, array, oblique_affine(), **fixed, **changes)

    write(1, "whole", values)
    shutil.copytree(folder / "whole", folder / "copy")
    write(2, "small", small)
    write(3, "magnetic", small, Modality="MR")
    write(4, "gap", small)[4].unlink()
    write(5, "scout", small, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    cut = write(6, "cut", small)[2]
    cut.write_bytes(cut.read_bytes()[:-200])
    nib.save(nib.Nifti1Image(values, oblique_affine()), folder / "volume.nii.gz")


def _batch(*options: object) -> Callable[[Place], dict[str, Product]]:
    def make(place: Place) -> dict[str, Product]:
        archive, out = place.folder / "archive", place.folder / "out"
        _make_archive(archive)
        (place.folder / "key").write_text("0123456789abcdef" * 4)
        given = [place.folder / "key" if option == "KEY" else option for option in options]
        bundle = make_bundle(place.folder / "banded")
        types = ("-ot", "nifti", "-ot", "dicom-seg", "-ot", "rtstruct", "-ot", "sr")
        if "--deidentify" not in options:
            types = ("-ot", "nifti")
        command(
            "batch", "run", archive, "-o", out, "-b", bundle, "--workers", 1, "--backend", "eager", "--no-preview",
            *types, *given, codes=(0, 3),
        )  # fmt: skip
        return _tables(out) | _results(out)

    return make


def _tables(out: Path) -> dict[str, Product]:
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: _plain(value) for name, value in row.items()} for row in csv.DictReader(file)]
    rows.sort(key=lambda row: row["case"])
    kept = [name for name in rows[0] if name not in _CHANGING | _WORDS]
    cases = [", ".join(kept), *(", ".join(row[name] for name in kept) for row in rows)]
    words = [f"{row['case']} {name}: {row[name]}" for row in rows for name in sorted(_WORDS) if row[name]]
    with (out / "measurements.csv").open(newline="", encoding="utf-8") as file:
        measured = {
            f"{n}": {k: _number(_plain(v)) for k, v in row.items()} for n, row in enumerate(csv.DictReader(file))
        }
    return {
        "cases": Lines(tuple(cases)),
        "cases in words": Lines(tuple(words)),
        "measurements": Numbers.of(measured, relative=1e-4, absolute=0.011),
    }


def _plain(text: str) -> str:
    """Remove the hash of an image's path on this machine from the name of its case."""
    return re.sub(r"\bimage-[0-9a-f]{16}\b", "image", text)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _results(out: Path) -> dict[str, Product]:
    made: dict[str, Product] = {}
    for number, path in enumerate(sorted(out.glob("cases/*/*/labels.nii.gz"))):
        made |= nifti_products(path, f"labels {number}")
    for name in ("seg", "rtstruct", "sr"):
        for number, path in enumerate(sorted(out.glob(f"cases/*/*/{name}.dcm"))):
            made |= object_products(path, f"{name} {number}", UidNumbers())
    images = sorted(out.glob("cases/*/*/images/*.dcm"))
    if images:
        made |= object_products(images[0], "first image", UidNumbers())
    files = sorted(
        _plain(str(path.relative_to(out / "cases"))) for path in (out / "cases").rglob("*") if path.is_file()
    )
    return {**made, "files": Lines(tuple(files))}


ROWS = [
    Row(name="batch", make=_batch(), exact=True),
    Row(name="batch_deidentified", make=_batch("--deidentify", "--deid-key", "KEY", "--with-images"), exact=True),
]
