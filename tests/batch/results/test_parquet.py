"""Tables of a batch: Parquet says what the CSV beside it says, with types."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from medvit_batch.results.summary import Summary, write_tables

_CASE = {
    "case": "1.2.3", "bundle": "banded", "version": "1.0", "state": "published", "flagged": "yes", "rating": "poor", "modality": "CT",
    "slices": 8, "rows": 20, "columns": 24, "plane": "axial", "part": "", "study_uid": "1.2", "series_uid": "1.2.3", "stage": "",
    "code": "", "reason": "", "remedy": "", "flags": "one; two", "rating_reasons": "small", "seconds": 1.25, "peak_mb": 512.5,
    "weights_sha256": "ab", "updated": "2026-11-28T11:30:00+00:00", "folder": "cases/1.2.3/banded",
}  # fmt: skip
_SKIPPED = {**_CASE, "case": "1.2.4", "state": "skipped", "flagged": "no", "reason": "not selected", "rating": "", "seconds": 0, "peak_mb": 0.0}  # fmt: skip
_MEASURE = {"case": "1.2.3", "bundle": "banded", "label": "mandible", "volume_ml": 1.5, "mean": -12.5, "std": 3.0, "voxels": 7, "touches_border": True}  # fmt: skip
_ABSENT = {**_MEASURE, "label": "brainstem", "volume_ml": 0.0, "mean": None, "std": None, "voxels": 0, "touches_border": False}  # fmt: skip


def _write(out: Path, cases: list[dict[str, object]]) -> None:
    write_tables(Summary(cases=cases, measurements=[_MEASURE, _ABSENT], counts={}, run={}, intended_use=()), out)


@pytest.mark.parametrize("cases", [[_CASE, _SKIPPED], []])
def test_parquet_has_the_columns_of_csv_and_their_types(cases, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    _write(tmp_path, cases)
    for name in ("cases", "measurements"):
        table = parquet.read_table(tmp_path / f"{name}.parquet")
        with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        assert table.column_names == reader.fieldnames
        assert table.num_rows == len(rows)
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "cases.parquet")}
    assert {name: kind for name, kind in types.items() if kind != "string"} == {
        "slices": "int32", "rows": "int32", "columns": "int32", "seconds": "double", "peak_mb": "double", "flagged": "bool",
        "updated": "timestamp[ms, tz=UTC]",
    }  # fmt: skip
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "measurements.parquet")}
    assert {name: kind for name, kind in types.items() if kind != "string"} == {
        "voxels": "int64", "volume_ml": "double", "mean": "double", "std": "double", "touches_border": "bool",
    }  # fmt: skip


def test_parquet_has_the_values_of_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    _write(tmp_path, [_CASE, _SKIPPED])
    first, second = parquet.read_table(tmp_path / "cases.parquet").to_pylist()
    assert first == {
        **{name: value if value != "" else None for name, value in _CASE.items()},
        "flagged": True,
        "updated": datetime(2026, 11, 28, 11, 30, tzinfo=UTC),
    }
    assert (second["flagged"], second["rating"], second["seconds"], second["reason"]) == (
        False,
        None,
        0.0,
        "not selected",
    )
    found, absent = parquet.read_table(tmp_path / "measurements.parquet").to_pylist()
    assert found == _MEASURE
    assert (absent["mean"], absent["voxels"], absent["touches_border"]) == (None, 0, False)


def test_without_pyarrow_no_old_table_is_left_beside_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "cases.parquet").write_bytes(b"of an earlier run")
    _write(tmp_path, [_CASE])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "measurements.csv"]
