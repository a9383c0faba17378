"""Scores of a segmentation bundle, as users run it, and where they are recorded."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.bundles import open_bundle
from medvit.reports import dice
from medvit.training.evaluation import evaluate_bundle, record_scores, table


def test_evaluation_scores_through_the_users_path_and_records(labelled):
    folder, data = labelled
    bundle = open_bundle(folder)
    scores = evaluate_bundle(bundle, data, data.parent, "validation", lambda _: None)
    assert scores["mean_dice"] > 0.97
    assert "| **mean of 1 cases** |" in table(bundle, scores)
    (folder / "docs").mkdir()
    marks = "<!-- scores: written by `medvit evaluate --record` -->\n<!-- end of scores -->"
    (folder / "docs" / "README.md").write_text(f"before\n{marks}\nafter\n")
    record_scores(bundle, scores)
    record_scores(bundle, scores)
    page = (folder / "docs" / "README.md").read_text()
    assert page.count("Mandible") == 1
    assert page.startswith("before")
    assert page.endswith("after\n")
    assert open_bundle(folder).metadata["eval_metrics"]["mean_dice"] == pytest.approx(scores["mean_dice"], abs=1e-4)


def test_dice_of_nothing_and_nothing_is_one():
    empty = np.zeros((3, 3), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, ~empty) == 0
