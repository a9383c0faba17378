"""Command that makes the rows in a process with one thread, and renews their expected values.

``python -m tests.laws.digests --write [ROW...]`` writes the expected values anew, of all rows or the named ones, and prints what
changed. Only a change of weights, of a default or of what is meant to be made renews rows, in the same commit and with the reason;
a refactoring never does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.laws.rows import EXPECTED, ROOT, Place, Row, products_of

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def all_rows() -> dict[str, Row]:
    """Return all rows by name."""
    from tests.laws import archives, restoring, segmenting, training

    return {row.name: row for module in (segmenting, restoring, training, archives) for row in module.ROWS}


def shared_folder() -> Path:
    """Return the folder of real images beside the project, which may not exist."""
    return Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))


def make_rows(names: Sequence[str], folder: Path) -> str:
    """Make rows in a new process with one thread; write ROW.json into ``folder`` for each, or ROW.error if it failed.

    Returns:
        The processor time of each row, as text.
    """
    apps = [str(ROOT / "apps" / name) for name in ("batch", "napari", "monailabel")]
    path = os.pathsep.join([str(ROOT), *apps, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": path}
    environment.setdefault("MEDVIT_CACHE", str(folder / "cache"))
    environment["MEDVIT_HOME"] = str(folder / "no store")
    command = [sys.executable, "-m", "tests.laws.digests", "--make", str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"The process that makes the rows ended with {done.returncode}:\n{done.stdout}{done.stderr}"[-8000:]
        )
    return done.stdout


def _make_here(names: Sequence[str], folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    rows = all_rows()
    for name in names:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as work:
            try:
                products = rows[name].make(Place(Path(work), shared_folder() / "data"))
                text = json.dumps(rows[name].describe(products), indent=1) + "\n"
                (folder / f"{name}.json").write_text(text)
            except Exception:
                (folder / f"{name}.error").write_text(traceback.format_exc())
        print(f"{name}: {time.process_time() - started:.1f} s", flush=True)


def _write(names: Sequence[str]) -> int:
    from tests.laws.products import compare

    rows = all_rows()
    names = names or [name for name, row in rows.items() if not row.shared or (shared_folder() / "data").is_dir()]
    failed = False
    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        print(make_rows(names, Path(folder)))
        for name in names:
            error = Path(folder, f"{name}.error")
            if error.exists():
                print(f"{name}: failed\n{error.read_text()}")
                failed = True
                continue
            text, path = Path(folder, f"{name}.json").read_text(), rows[name].path
            content = json.loads(text)
            if not path.exists():
                print(f"{name}: new")
            else:
                before = json.loads(path.read_text())
                changes = compare(products_of(before), products_of(content))
                facts = [k for k in ("weights_sha256", "backend", "computed_by") if before[k] != content[k]]
                facts += [
                    f"tolerance of {k}" for k, product in content["products"].items() if _loosened(before, k, product)
                ]
                if not changes and not facts:
                    print(f"{name}: unchanged")
                    continue
                print("\n  ".join([f"{name}: changed", *(f"another {fact}" for fact in facts), *changes]))
            path.write_text(text)
    return int(failed)


def _loosened(before: dict[str, Any], name: str, product: dict[str, Any]) -> bool:
    """Return whether a product is compared by other rules than before."""
    old = before["products"].get(name, product)
    return any(old.get(rule) != product.get(rule) for rule in ("relative", "absolute", "rounded"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every row was made."""
    parser = argparse.ArgumentParser(prog="python -m tests.laws.digests", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", nargs="*", metavar="ROW", help="write expected values anew: all, or these rows")
    what.add_argument("--make", nargs="+", metavar=("FOLDER", "ROW"), help="make rows into a folder, in this process")
    what.add_argument("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args(arguments)
    known = all_rows()
    if options.list:
        print("\n".join(known))
        return 0
    names = options.write if options.write is not None else options.make[1:]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"found no row {', '.join(unknown)}; the rows are {', '.join(known)}")
    if options.make:
        _make_here(names, Path(options.make[0]))
        return 0
    return _write(names)


if __name__ == "__main__":
    raise SystemExit(main())
