"""Tables of a batch as Parquet beside CSV, for programs that read columns with their types. Needs pyarrow."""

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
"""Of columns that are no text."""


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Write a table; return whether that could be done, which needs pyarrow.

    Where it is not installed, an earlier table goes: it would say something else than the CSV beside it.

    Raises:
        OutputError: the system refuses.
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
    """A value of a table as its column has it; what is unknown is null, not an empty text."""
    kind = _TYPES.get(name)
    if value is None or value == "":
        return None
    if kind == "bool":
        return value == "yes" if isinstance(value, str) else bool(value)
    return datetime.fromisoformat(value) if kind == "time" else value
