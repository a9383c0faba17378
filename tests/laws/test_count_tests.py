"""Script that counts the assertions of tests: it follows moved files and reports decreases."""

from __future__ import annotations

from tools import count_tests

THREE = """
import pytest
HALVES = [0.5, 1.5]

@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("name", "number"), [("a", 1), ("b", 2), ("c", 3)])
def test_values(name, number, half):
    with pytest.raises(ValueError, match=name):
        raise ValueError(name)
    assert number
    assert half

def test_one():
    assert True

def helper():
    assert 1
"""


def test_a_file_is_counted_with_the_products_of_its_lists():
    counted = count_tests.count(THREE)
    assert dict(counted.total) == {"tests": 2, "cases": 7, "assert": 4, "raises": 1, "match": 1}
    assert dict(counted.tests["test_one"]) == {"tests": 1, "cases": 1, "assert": 1}


def test_a_split_file_is_compared_with_its_parts_and_what_falls_is_named():
    one = "def test_one():\n    assert True\n"
    old = {"a.py": count_tests.count(THREE), "b.py": count_tests.count("def test_two(): assert 2")}
    parts = {"c.py": count_tests.count(one), "d.py": count_tests.count(THREE.replace(one, "")), "b.py": old["b.py"]}
    assert list(count_tests.compare(old, parts, {})) == []
    parts["d.py"] = count_tests.count(THREE.replace(one, "").replace("    assert half\n", "").replace(", 1.5", ""))
    assert list(count_tests.compare(old, parts, {})) == [
        "a.py -> c.py, d.py: cases 7 to 4, assert 4 to 3",
        "    test_values: cases 6 to 3, assert 2 to 1",
    ]
    del parts["b.py"]
    assert list(count_tests.compare(old, parts, {}))[-2:] == [
        "b.py -> nothing: tests 1 to 0, cases 1 to 0, assert 1 to 0", "    test_two: gone",
    ]  # fmt: skip
