"""Digests of the results of medvit: labels, DICOM objects, statistics, restored and reconstructed images, training steps.

The expected values lie in ``expected/``, one file a row. All rows are made once, in a process of its own with one thread.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.laws.digests import all_rows, make_rows
from tests.laws.products import Field, Lines, Numbers, Voxels, compare, from_json
from tests.laws.rows import EXPECTED, RENEW, ROOT, Row, computed_by, products_of
from tests.laws.segmenting import ABDOMEN
from tests.laws.training import RECIPES

ROWS = all_rows()


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the selected rows in one process."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "name" in item.callspec.params
    ]
    if any(ROWS[name].shared for name in names):
        data = _shared_data(request)
        names = [name for name in names if data or not ROWS[name].shared]
    folder = tmp_path_factory.mktemp("digests")
    make_rows(list(dict.fromkeys(names)), folder)
    return folder


def _shared_data(request: pytest.FixtureRequest) -> bool:
    try:
        return bool(request.getfixturevalue("shared"))
    except pytest.skip.Exception:
        return False


def check_row(row: Row, made: Path) -> list[str]:
    """List the faults of a row that was made into a folder."""
    expected = row.stored()
    if expected["weights_sha256"] != row.weights_sha256():
        return [
            f"Found other weights in {row.bundle} than those of this row; its values belong to the weights. "
            f"If the change of weights is meant, renew the row in the same commit and give the reason: {RENEW} {row.name}"
        ]
    error = made / f"{row.name}.error"
    if error.exists():
        return [f"The row could not be made:\n{error.read_text()}"]
    found = json.loads((made / f"{row.name}.json").read_text())
    elsewhere = not row.exact and expected["computed_by"] != found["computed_by"]
    problems = compare(products_of(expected), products_of(found), elsewhere)
    if expected["backend"] != found["backend"]:
        problems.append(f"backend {found['backend']}, expected {expected['backend']}")
    if problems and elsewhere:
        problems.append(f"(expected values by: {expected['computed_by']}; here: {found['computed_by']})")
    return problems


@pytest.mark.parametrize("name", ROWS)
def test_the_products_are_as_before(name, made, request):
    """A refactoring changes no row; an intended change is renewed with ``python -m tests.laws.digests --write``."""
    row = ROWS[name]
    if row.shared:
        request.getfixturevalue("shared")
    problems = check_row(row, made)
    assert not problems, f"{name}:\n" + "\n".join(problems)


def test_every_file_of_expected_values_has_its_row():
    assert sorted(path.stem for path in EXPECTED.glob("*.json")) == sorted(ROWS)
    assert sum(path.stat().st_size for path in EXPECTED.iterdir()) < 1_500_000


# what the net catches


def _voxels() -> np.ndarray:
    array = np.zeros((6, 7, 8), np.uint8)
    array[1:4, 2:5, 3:6] = 3
    return array


def test_one_flipped_voxel_of_a_row_is_counted_and_placed(tmp_path):
    """The comparison of all rows fails on one changed voxel of the real expected values."""
    row = ROWS["banded"]
    content = row.stored()
    labels = from_json(content["products"]["labels"])
    assert isinstance(labels, Voxels)
    flipped = labels.array.copy()
    i, j, k = (int(n) for n in np.argwhere(flipped == 3)[0])
    flipped[i, j, k] = 0
    content["products"]["labels"] = Voxels.of(flipped).to_json()
    (tmp_path / "banded.json").write_text(json.dumps(content))
    (problem,) = check_row(row, tmp_path)
    assert problem.startswith(f"labels: 1 of {flipped.size} voxels differ")
    assert f"first at ({i}, {j}, {k})" in problem
    assert "3 to 0: 1" in problem


def test_a_missing_and_a_new_product_are_named():
    one = {"labels": Voxels.of(_voxels())}
    assert compare(one, {}) == ["labels: missing"]
    assert compare({}, one) == ["labels: not expected"]
    assert compare(one, {"labels": Lines(())}) == ["labels: Lines, expected Voxels"]


def test_other_weights_say_how_to_renew(tmp_path, monkeypatch):
    row = ROWS["example_eager"]
    content = row.stored() | {"weights_sha256": "0" * 64}
    (tmp_path / row.path.name).write_text(json.dumps(content))
    monkeypatch.setattr("tests.laws.rows.EXPECTED", tmp_path)
    (problem,) = check_row(row, tmp_path)
    assert "Found other weights in headneck_ct_swin_unetr" in problem
    assert problem.endswith("python -m tests.laws.digests --write example_eager")


def test_products_read_back_as_written():
    rng = np.random.default_rng(0)
    for product in (
        Voxels.of(rng.integers(-3, 4, (5, 6, 7))),
        Voxels.of(np.zeros((0, 3), np.uint8)),
        Numbers.of({"a": [1, 2.5, None], "b": {"c": "x", "d": True}}),
        Field.of(rng.normal(size=(20, 30, 40)), 0.1),
        Lines(("a", "ü", "")),
        Lines(tuple(f"line {n}" for n in range(2000))),
    ):
        again = from_json(json.loads(json.dumps(product.to_json())))
        assert type(again) is type(product)
        assert product.differences(again, False) == []


def test_differences_beyond_the_tolerance_are_named():
    numbers = Numbers.of({"volume": 10.0, "name": "x", "count": 3}, relative=1e-4, absolute=0.0)
    assert numbers.differences(Numbers.of({"volume": 10.0009, "name": "x", "count": 3}), False) == []
    found = numbers.differences(Numbers.of({"volume": 10.002, "name": "y", "count": 4}), False)
    assert [line.partition(":")[0] for line in found] == ["count", "name", "volume"]
    assert numbers.differences(Numbers.of({"volume": float("nan"), "name": "x", "count": 3}), False)
    values = np.linspace(0, 1, 1000).reshape(10, 100)
    field = Field.of(values, 0.01)
    assert field.differences(Field.of(values + 0.009, 0.01), False) == []
    worse = values.copy()
    worse[4, 7] = np.nan
    problems = field.differences(Field.of(worse, 0.01), False)
    assert problems[0].startswith("1 of 1000 samples differ by more than 0.01, the most at (4, 7): nan")
    assert Lines(("a", "b")).differences(Lines(("a", "c")), False) == ["-b", "+c"]


def test_elsewhere_few_voxels_may_differ_and_many_may_not():
    array = np.zeros((40, 40, 40), np.uint8)
    array[5:35, 5:35, 5:35] = 1
    expected = {"labels": Voxels.of(array), "text": Lines(("x",))}
    one = array.copy()
    one[5, 5, 5] = 0
    changed = {"labels": Voxels.of(one), "text": Lines(("y",))}
    assert len(compare(expected, changed)) == 3
    assert compare(expected, changed, elsewhere=True) == []
    one[5, 5:34, 5:34] = 0
    assert len(compare(expected, {**changed, "labels": Voxels.of(one)}, elsewhere=True)) == 1
    assert compare(expected, {**expected, "text": Lines(("y",))}, elsewhere=True) == ["text: -x", "text: +y"]


def test_what_results_depend_on_is_stated():
    assert "torch " in computed_by()


def test_every_bundle_and_every_recipe_has_its_row():
    bundles = {path.name for path in (ROOT / "bundles").iterdir()}
    assert {row.bundle for row in ROWS.values() if row.bundle} | {ABDOMEN} == bundles
    recipes = {
        (path.parents[1].name, path.stem)
        for path in (ROOT / "bundles").glob("*/configs/*.json")
        if path.stem.startswith(("train", "pretrain"))
    }
    assert {(bundle, recipe) for bundle, names in RECIPES.items() for recipe in names} == recipes
