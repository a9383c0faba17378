"""The table of docs/dicom.md: every series in the shared DICOM data, what inspect says, what segment does and why.

python benchmarks/dicom_oddities.py            # prints the table
python benchmarks/dicom_oddities.py --write    # puts it into docs/dicom.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from medvit.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: python benchmarks/dicom_oddities.py --write -->", "<!-- end of table -->"


_ALONE = {"pydicom_data", "transfer_syntaxes_cornerstone", "seg_dcmqi", "seg_highdicom", "rtstruct_dicompyler", "empty"}
"""Folders whose files do not belong together."""

_NO_DICOM = (".gz", ".nrrd", ".dump")


def sources(data: Path) -> list[Path]:
    """Folders that hold one series, zips, and files that stand for themselves."""
    found = []
    for path in sorted(data.rglob("*")):
        apart = bool(set(path.relative_to(data).parts[:-1]) & _ALONE) and path.parent.name != "image"
        if path.is_file():
            if (path.suffix == ".zip" or apart) and path.suffix not in _NO_DICOM:
                found.append(path)
        elif (path.name == "image" or not (apart or path.name in _ALONE)) and _holds_files(path):
            found.append(path)
    return found


def _holds_files(folder: Path) -> bool:
    return any(p.is_file() and p.suffix not in (*_NO_DICOM, ".zip") for p in folder.iterdir())


def _run(*arguments: str) -> tuple[int, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = CliRunner().invoke(app, list(arguments))
    return outcome.exit_code, outcome.output


def _inspected(path: Path) -> tuple[str, str]:
    code, text = _run("inspect", str(path), "--json")
    if code == 1:
        return "1", _first(text)
    content: dict[str, Any] = json.loads(text)
    words = []
    for volume in content["volumes"]:
        codes = sorted({f["code"].replace("_", " ") for f in volume["findings"]})
        size = f"{volume['modality']} {volume['kind']} {volume['columns']}x{volume['rows']}x{volume['slices']}"
        words.append(size + (f": {', '.join(codes)}" if codes else ""))
    return str(code), "; ".join(words)


def _first(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("Error", "Warning"))] or [""]
    line = re.sub(r"^(Error|Warning): ", "", lines[0])
    return line if len(line) < 200 else line[:197] + "..."


def _segmented(path: Path, *options: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        code, text = _run("segment", str(path), "-o", f"{folder}/out", "-q", *options)
        written = sorted(p.name for p in Path(folder, "out").glob("*")) if Path(folder, "out").is_dir() else []
    what = "SEG and NIfTI" if "seg.dcm" in written else "NIfTI" if written else "refused"
    return f"{code}: {what}. {_first(text)}".strip()


def rows(data: Path) -> list[tuple[str, str, str, str]]:
    table = []
    for path in sources(data):
        code, said = _inspected(path)
        done = _segmented(path)
        if "--on-irregular" in done:
            done += f" With `--on-irregular resample`, {_segmented(path, '--on-irregular', 'resample')}"
        elif "--repair-tags" in done:
            done += f" With `--repair-tags`, {_segmented(path, '--repair-tags')}"
        elif "--force" in done:
            done += f" With `--force`, {_segmented(path, '--force')}"
        table.append((str(path.relative_to(data)), code, said, done))
        print(" | ".join(table[-1]), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    shared = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
    found = rows(shared / "data" / "dicom")
    if not write:
        return
    lines = ["| source | inspect | what it says | segment (default bundle) |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', '/').replace('<', '&lt;') for cell in row)} |" for row in found]
    page = ROOT / "docs" / "dicom.md"
    text = page.read_text()
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text("\n".join([head + BEGIN, "", *lines, "", END + tail]))


if __name__ == "__main__":
    main()
