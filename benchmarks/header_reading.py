"""Processor time of medvit's header reader beside pydicom's ``dcmread(specific_tags=..., stop_before_pixels=True)``.

    python benchmarks/header_reading.py [--files 10000] [--rounds 5] [--source ZIP_OR_FOLDER]

Both readers read the same tags of the same files in one process, round after round; the reader that starts changes each
round. The files are headers of the source without their pixels, each with a SOPInstanceUID of its own. "elements" is
the reading of the tags alone; "planes" adds the record of each plane, which is made from either reader's values alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medvit.io.dicom.header import parser, read
from medvit.io.files import DicomFile, folder_files

ROOT = Path(__file__).resolve().parents[1]
TAGS = [Tag(tag) for tag in read._WANTED]


def pydicom_elements(stream: BinaryIO, first: bytes, wanted: Mapping[int, bytes]) -> parser.Elements:
    """Read the wanted values with pydicom alone, in the form that ``parser.read_elements`` returns."""
    stream.seek(0)
    header = pydicom.dcmread(stream, specific_tags=TAGS, stop_before_pixels=True, force=True)
    values: dict[int, Any] = {}
    for tag, element in header.items():  # raw elements: asking the dataset itself would convert each one
        value = element.value
        if isinstance(element, RawDataElement) and type(value) is bytes:
            value = parser._stored(value, wanted[tag], "<" if element.is_little_endian else ">")
        values[int(tag)] = value
    meta = header.file_meta
    syntax, media = (str(meta[tag].value) if tag in meta else "" for tag in parser._META)
    return parser.Elements(values, syntax, media, stream.tell())


def contents(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        yield from (file.read() for file in folder_files(source))
        return
    with zipfile.ZipFile(source) as archive:
        yield from (archive.read(name) for name in archive.namelist() if not name.endswith("/"))


def fill(folder: Path, source: Path, count: int) -> int:
    """Write ``count`` headers of the images of a source in folders of 500; return the mean of their bytes."""
    templates = []
    for content in contents(source):
        try:
            header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        if "Rows" in header and not header.file_meta.TransferSyntaxUID.is_deflated:
            templates.append(header)
    size = 0
    for n in range(count):
        place = folder / f"{n // 500:03d}"
        place.mkdir(exist_ok=True)
        header = templates[n % len(templates)]
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.4.{n + 1}"
        header.save_as(place / f"{n:05d}.dcm", enforce_file_format=True)
        size += (place / f"{n:05d}.dcm").stat().st_size
    return size // count


Reader = Callable[[BinaryIO, bytes, Mapping[int, bytes]], parser.Elements]


def elements(files: list[DicomFile], reader: Reader) -> list[object]:
    found = []
    for file in files:
        with file.open() as stream:
            found.append(reader(stream, stream.read(read._SEEN), read._WANTED).values.keys())
    return found


def planes(files: list[DicomFile], reader: Reader) -> list[object]:
    with patch.object(read, "read_elements", reader):
        return [read.read_planes(file) for file in files]


def without_space(found: list[object]) -> list[object]:
    """Return the planes' values without ``space``, which pydicom counts from another place, and without their files."""
    return [
        [{k: getattr(p, k) for k in p.__slots__ if k not in ("space", "file")} for p in planes]
        if isinstance(planes, list)
        else planes
        for planes in found
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--source", type=Path, default=ROOT / "examples" / "headneck_ct_dicom.zip")
    args = options.parse_args()
    readers = {"medvit": parser.read_elements, "pydicom": pydicom_elements}
    with tempfile.TemporaryDirectory() as top:
        size = fill(Path(top), args.source, args.files)
        files = list(folder_files(Path(top)))
        few = files[:: max(1, len(files) // 300)]
        assert without_space(planes(few, parser.read_elements)) == without_space(planes(few, pydicom_elements))
        print(f"{len(files)} headers of {size} bytes on average, one process, median of {args.rounds} rounds")
        for name, task in (("elements", elements), ("planes", planes)):
            spent: dict[str, list[float]] = {side: [] for side in readers}
            for n in range(args.rounds):
                for side in (*readers,) if n % 2 else (*reversed(readers),):
                    start = time.process_time()
                    task(files, readers[side])
                    spent[side].append(time.process_time() - start)
            ours, theirs = (statistics.median(spent[side]) for side in readers)
            print(f"{name:<9} medvit {ours:.2f} s, pydicom {theirs:.2f} s, ratio of medians {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
