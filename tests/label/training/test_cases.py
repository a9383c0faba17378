"""Which labels train and which judge: a patient is on one side, for good."""

from __future__ import annotations

import pytest
from medvit_label.errors import RequestError
from medvit_label.training.cases import divide


def test_a_patient_is_never_on_both_sides_and_a_part_is_for_good() -> None:
    groups = {f"patient {n}": [f"{n}a", f"{n}b"] for n in range(10)}
    first = divide({k: groups[k] for k in list(groups)[:5]}, {}, 0.2)
    again = divide(groups, first, 0.2)
    assert all(again[name] == part for name, part in first.items())
    assert all(again[f"{n}a"] == again[f"{n}b"] for n in range(10))
    assert sum(part == "validation" for part in again.values()) == 4
    # one image more of a patient who trained goes where the patient is, whatever the share
    later = divide(groups | {"patient 0": ["0a", "0b", "0c"]}, again, 0.5)
    assert later["0c"] == again["0a"]


def test_two_images_of_one_patient_met_on_both_sides_train_from_then_on() -> None:
    parts = divide({"patient": ["a", "b"], "other": ["c"]}, {"a": "training", "b": "validation"}, 0.5)
    assert parts == {"a": "training", "b": "training", "c": "validation"}


def test_one_patient_alone_cannot_judge() -> None:
    with pytest.raises(RequestError, match="Found the labels of 1 patients, .* labels of another patient are needed"):
        divide({"patient": ["a", "b", "c", "d"]}, {}, 0.2)
