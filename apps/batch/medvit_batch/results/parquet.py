"""Tables of a batch as Parquet beside CSV, for programs that read typed columns; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from medvit.atomic_write import os_errors_as_output_errors, replace_file

__all__ = ["write_parquet"]

_TYPES = {
    "slices": "int32", "rows": "int32", "columns": "int32", "voxels": "int64", "seconds": "float64", "peak_mb": "float64",
    "volume_ml": "float64", "mean": "float64", "std": "float64", "flagged": "bool", "touches_border": "bool", "updated": "time",
}  # fmt: skip
"""Types of the columns that hold no text."""


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Write a table as Parquet if pyarrow is installed; return True if it was written.

    Without pyarrow, an earlier table is removed, since it would contradict the new CSV beside it.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        with os_errors_as_output_errors(path.parent):
            path.unlink(missing_ok=True)
        return False
    time = pyarrow.timestamp("s", tz="UTC")
    kinds = {name: time if kind == "time" else pyarrow.type_for_alias(kind) for name, kind in _TYPES.items()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    values = {name: [_value(name, row[name]) for row in rows] for name in columns}
    table = pyarrow.table(values, schema=schema)
    with os_errors_as_output_errors(path.parent), replace_file(path) as aside:
        parquet.write_table(table, aside)
    return True


def _value(name: str, value: Any) -> Any:
    """Convert a value to the type of its column; an unknown value becomes null, not an empty text."""
    kind = _TYPES.get(name)
    if value is None or value == "":
        return None
    if kind == "bool":
        return value == "yes" if isinstance(value, str) else bool(value)
    return datetime.fromisoformat(value) if kind == "time" else value
