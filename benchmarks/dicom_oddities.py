"""Tables of docs/dicom.md: results of inspect and segment for every series in the shared DICOM data, and of convert for
every SEG and RTSTRUCT.

python benchmarks/dicom_oddities.py            # prints the outcome of each source, then the tables
python benchmarks/dicom_oddities.py --write    # also writes them to docs/dicom.md

Sources with equal outcomes share a line, and repeated messages are notes below the tables; apart from sizes and numbers
they are quoted from the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from typer.testing import CliRunner

from medvit.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: python benchmarks/dicom_oddities.py --write -->", "<!-- end of table -->"


_ALONE = {"pydicom_data", "transfer_syntaxes_cornerstone", "seg_dcmqi", "seg_highdicom", "rtstruct_dicompyler", "empty"}
"""Folders whose files are separate sources."""

_TOGETHER = {"image", "ct-3slice"}
"""Folders within those whose files are one source."""

_NO_DICOM = (".gz", ".nrrd", ".dump")

_LONGEST = 36
"""Largest number of letters of a name within a group; longer names, with a full transfer syntax, are shortened in the
middle."""

_REMEDIES = (
    ("--on-irregular", ("--on-irregular", "resample")),
    ("--repair-tags", ("--repair-tags",)),
    ("--force", ("--force",)),
)
"""Options named by refusals, each with the arguments with which it is tried."""


def sources(data: Path) -> list[Path]:
    """List the sources: folders with one series, zips, and single files."""
    found = []
    for path in sorted(data.rglob("*")):
        apart = bool(set(path.relative_to(data).parts[:-1]) & _ALONE) and path.parent.name not in _TOGETHER
        if path.is_file():
            if (path.suffix == ".zip" or apart) and path.suffix not in _NO_DICOM:
                found.append(path)
        elif (path.name in _TOGETHER or not (apart or path.name in _ALONE)) and _holds_files(path):
            found.append(path)
    return found


def _holds_files(folder: Path) -> bool:
    return any(p.is_file() and p.suffix not in (*_NO_DICOM, ".zip") for p in folder.iterdir())


def results_of_others(data: Path) -> list[Path]:
    """List every SEG and RTSTRUCT."""
    found = []
    for path in sorted(p for p in data.rglob("*") if p.is_file() and p.suffix not in (*_NO_DICOM, ".zip")):
        tags = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["Modality"])
        if tags.get("Modality") in ("SEG", "RTSTRUCT"):
            found.append(path)
    return found


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command: its exit code, its files, and its first line for people, without names and numbers."""

    code: int
    what: str
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One source: its content, the sizes of its volumes, and the outcome of each command."""

    source: str
    found: str
    sizes: tuple[str, ...]
    done: Outcome
    remedy: str = ""
    remedied: Outcome | None = None

    @property
    def alike(self) -> tuple[object, ...]:
        """Values that are equal for all sources of one table line."""
        return (self.found, _blurred(self.done), self.remedy, self.remedied and _blurred(self.remedied))


def _blurred(outcome: Outcome) -> tuple[object, ...]:
    return (outcome.code, outcome.what, re.sub(r"\d[\d.]*", "#", outcome.words))


def _run(*arguments: str, json_only: bool = False) -> tuple[int, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = CliRunner().invoke(app, list(arguments))
    return outcome.exit_code, outcome.stdout if json_only and outcome.exit_code in (0, 3) else outcome.output


def _words(text: str, path: Path) -> str:
    """Return the first error or warning without the source's name, and with the description of the network's input
    shortened."""
    lines = [line for line in text.splitlines() if line.startswith(("Error", "Warning"))] or [""]
    line = re.sub(r"^(Error|Warning): ", "", lines[0]).replace(str(path), "FILE").replace(path.name, "FILE")
    return re.sub(r"(implausible anatomy, quality is poor):.*", r"\1", line)


def _inspected(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the report of inspect, with its exit code, and the sizes of the volumes."""
    code, text = _run("inspect", str(path), "--json", json_only=True)
    if code == 1:
        return f"1: {_words(text, path)}", ()
    content: dict[str, Any] = json.loads(text)
    words, sizes = [], []
    for volume in content["volumes"]:
        codes = ", ".join(sorted({f["code"].replace("_", " ") for f in volume["findings"]}))
        words.append(f"{volume['modality']} {volume['kind']}" + (f": {codes}" if codes else ""))
        sizes.append(f"{volume['columns']}x{volume['rows']}x{volume['slices']}")
    counted = [f"{words.count(w)} x {w}" if words.count(w) > 1 else w for w in dict.fromkeys(words)]
    return f"{code}: {'; '.join(counted)}", tuple(dict.fromkeys(sizes))


def _written(folder: Path, wanted: Iterable[tuple[str, str]]) -> str:
    there = {p.name for p in folder.glob("*")} if folder.is_dir() else set()
    return " and ".join(what for name, what in wanted if name in there) or "refused"


def _segmented(path: Path, *options: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        code, text = _run("segment", str(path), "-o", f"{folder}/out", "-q", *options)
        what = _written(Path(folder, "out"), (("seg.dcm", "SEG"), ("labels.nii.gz", "NIfTI")))
    return Outcome(code, what, _words(text, path))


def _remedied(path: Path, done: Outcome) -> tuple[str, Outcome | None]:
    """Apply the options that the messages name, one after another; return them and the final outcome."""
    tried: list[str] = []
    best: Outcome | None = None
    while True:
        words = (best or done).words
        wished = [options for word, options in _REMEDIES if word in words and options[0] not in tried]
        if not wished:
            return " ".join(tried), best
        tried += wished[0]
        best = _segmented(path, *tried)


def series_rows(data: Path) -> list[Row]:
    """Make one row per series."""
    rows = []
    for path in sources(data):
        found, sizes = _inspected(path)
        done = _segmented(path)
        remedy, remedied = _remedied(path, done)
        row = Row(
            source=str(path.relative_to(data)), found=found, sizes=sizes, done=done, remedy=remedy, remedied=remedied
        )
        rows.append(row)
        print(row, flush=True)
    return rows


def _converted(path: Path, *options: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        settings = ("-o", f"{folder}/out", "-ot", "nifti", "--per-label", "--json", *options)
        code, text = _run("convert", str(path), *settings, json_only=True)
        if code not in (0, 3):
            return Outcome(code, "refused", _words(text, path))
        content = json.loads(text)
        count = len(content["labels"])
        there = _written(Path(folder, "out"), (("labels.nii.gz", "label map"),))
    what = f"{count} label{'s' * (count > 1)}, " + (there if there != "refused" else "one NIfTI each")
    return Outcome(code, what, " ".join(content["notes"]))


def result_rows(data: Path) -> list[Row]:
    """Make one row per SEG or RTSTRUCT."""
    rows = []
    for path in results_of_others(data):
        done = _converted(path)
        kind = str(pydicom.dcmread(path, force=True, stop_before_pixels=True).get("SegmentationType", "RTSTRUCT"))
        row = Row(source=str(path.relative_to(data)), found=kind, sizes=(), done=done)
        if "--like" in done.words and path.parent.name != "empty":
            row = Row(
                source=row.source,
                found=kind,
                sizes=(),
                done=done,
                remedy="--like its folder",
                remedied=_converted(path, "--like", str(path.parent)),
            )
        rows.append(row)
        print(row, flush=True)
    return rows


@dataclass
class Notes:
    """Messages in the order of their first use in the tables."""

    known: dict[tuple[object, ...], int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def cell(self, outcome: Outcome) -> str:
        """Format an outcome as a table cell: exit code, files, and the number of its message."""
        text = f"{outcome.code}: {outcome.what}"
        if not outcome.words:
            return text
        key = _blurred(Outcome(0, "", outcome.words))
        if key not in self.known:
            self.known[key] = len(self.texts) + 1
            self.texts.append(outcome.words)
        return f"{text} [{self.known[key]}]"


def folded(names: Sequence[str]) -> str:
    """Join names of sources, with common parts written once: ``a/CT_{1, 2, 3}.dcm``."""
    places: dict[str, list[str]] = {}
    for name in names:
        folder, _, own = name.rpartition("/")
        places.setdefault(folder and folder + "/", []).append(own)
    cells = []
    for folder, own in places.items():
        if len(own) == 1:
            cells.append(f"`{folder}{own[0]}`")
            continue
        head = re.sub(r"[^_.-]*$", "", _shared_start(own))
        tail = re.sub(r"^[^_.-]*", "", _shared_start([n[len(head) :][::-1] for n in own])[::-1])
        middles = [_short(n[len(head) : len(n) - len(tail)]) for n in own]
        cells.append(f"`{folder}{head}{{{', '.join(middles)}}}{tail}`")
    return ", ".join(cells)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 11]}...{name[-8:]}"


def _shared_start(words: Sequence[str]) -> str:
    first, last = min(words), max(words)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def table(rows: Sequence[Row], heads: Sequence[str], notes: Notes) -> list[str]:
    """Format Markdown lines, one for all equal rows, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.alike, []).append(row)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for group in groups.values():
        first = group[0]
        sizes = ", ".join(dict.fromkeys(size for row in group for size in row.sizes))
        found = first.found
        if found.startswith("1: "):
            found = notes.cell(Outcome(1, "refused", found[3:]))
        done = notes.cell(first.done)
        remedied = f"`{first.remedy}`: {notes.cell(first.remedied)}" if first.remedied else ""
        cells = (folded([r.source for r in group]), found + (f" ({sizes})" if sizes else ""), done, remedied)
        lines.append(f"| {' | '.join(cell.replace('|', '/').replace('<', '&lt;') for cell in cells)} |")
    return lines


def page(series: Sequence[Row], results: Sequence[Row]) -> str:
    """Format both tables and the notes as Markdown."""
    notes = Notes()
    lines = [
        "The number before a colon is the exit code: 0 done, 1 refused, 3 partly done or flagged. Numbers in brackets are the messages below.",
        "",
        *table(series, ("series", "inspect", "segment (default bundle)", "with the remedy"), notes),
        "",
        "Results of others, through `medvit convert FILE -ot nifti --per-label`:",
        "",
        *table(results, ("file", "kind", "convert", "with a grid"), notes),
        "",
        "The messages. If a row names several sources, its messages are those of the first one:",
        "",
        *(f"{n}. {text.replace('<', '&lt;')}" for n, text in enumerate(notes.texts, 1)),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/dicom.md")
    write = parser.parse_args().write
    data = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared")) / "data" / "dicom"
    text = page(series_rows(data), result_rows(data))
    print(text)
    if write:
        place = ROOT / "docs" / "dicom.md"
        before = place.read_text()
        head, tail = before.partition(BEGIN)[0], before.partition(END)[2]
        place.write_text("\n".join([head + BEGIN, "", text, "", END + tail]))


if __name__ == "__main__":
    main()
