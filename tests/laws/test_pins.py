"""Public interface of medvit, compared with the pinned files; a failure shows the difference and how to renew the pin."""

from __future__ import annotations

import os

import pytest

from tests.laws import pins
from tests.laws.command_tree import leaves
from tests.laws.faces import after_every_import
from tests.laws.loaded_modules import modules
from tests.laws.mistakes import MISTAKES
from tests.laws.shapes import merge, shape

HEAVY = {
    "torch",
    "monai",
    "ignite",
    "matplotlib",
    "napari",
    "qtpy",
    "PySide6",
    "PyQt6",
    "openvino",
    "numba",
    "highdicom",
}
"""Modules that the import, the help and a mistake on the command line must not load."""

SHARED_NAMES = {
    *(
        f"medvit.kernels.{name}"
        for name in ("bi_wkv", "occupied_windows", "overlap_add", "resample_argmax", "window_attention")
    ),
    "medvit.reconstruction.networks.swin_x2s_network",
}
"""Names that are both exported by a room and borne by a submodule; allowed only in a face that is loaded as a whole."""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are run in copies of a process, which needs fork")


@forks
def test_modules_that_commands_load():
    pins.require("modules")


@forks
@pytest.mark.parametrize("name", ["import medvit", "--help"])
def test_importing_medvit_and_its_help_load_no_heavy_library(name):
    assert not HEAVY & set(modules()["third_party"][name])


@forks
def test_exit_codes():
    pins.require("exit_codes")


def test_every_command_has_a_mistake():
    assert {words for words, _ in leaves()} == MISTAKES.keys() - {""}


def test_tree_of_commands():
    pins.require("commands")


def test_every_module_can_be_imported_and_holds_what_it_exports():
    report = after_every_import()
    assert report["failed"] == {}
    assert report["absent"] == []


def test_no_public_name_became_a_module():
    """A module that bears the name of a function takes its place once it is imported."""
    report = after_every_import()
    kinds = {f"{room}.{name}": kind for room, names in report["faces"].items() for name, kind in names.items()}
    assert [name for name, kind in kinds.items() if kind == "module"] == []
    assert set(report["shared_names"]) <= SHARED_NAMES


def test_public_names_and_their_kinds():
    pins.require("faces")


def test_what_results_hold():
    pins.require("results")


def test_stages_of_progress():
    pins.require("stages")


def test_what_a_batch_leaves_and_prints(one_fork_server):
    pytest.importorskip("pyarrow", reason="a batch writes Parquet tables where the parquet extra is installed")
    pins.require("batch")


def test_statements_that_make_tables():
    pins.require("statements")


def test_what_the_label_server_answers_and_keeps():
    pytest.importorskip("fastapi", reason="the label extra is not installed")
    pins.require("label_server")


def test_every_pinned_file_belongs_to_a_pin():
    assert {path.stem for path in pins.PINNED.glob("*.json")} == set(pins.PINS)


def test_a_difference_is_shown_with_what_renews_the_pin(monkeypatch, tmp_path):
    text = (pins.PINNED / "statements.json").read_text()
    (tmp_path / "statements.json").write_text(
        text.replace("CREATE TABLE IF NOT EXISTS sends", "CREATE TABLE IF NOT EXISTS mails")
    )
    monkeypatch.setattr(pins, "PINNED", tmp_path)
    with pytest.raises(AssertionError) as failure:
        pins.require("statements")
    lines = str(failure.value).splitlines()
    assert '-   "CREATE TABLE IF NOT EXISTS mails",' in lines
    assert '+   "CREATE TABLE IF NOT EXISTS sends",' in lines
    assert lines[-1].endswith("python -m tests.laws.pins --write statements")


def test_shapes_tell_keys_and_types_apart():
    found = shape(
        {"a": [1, 2.0], "b": [{"x": None}, {"x": "", "y": True}], "1": 0, "2": 0, "scores": {"dice": 1.0}, "c": []}
    )
    assert found == {
        "a": ["number | whole number"],
        "b": [{"x": "null | text", "y?": "true or false"}],
        "#": "whole number",
        "scores": {"*": "number"},
        "c": ["nothing"],
    }
    assert shape({"a": 1}) != shape({"a": 1.0})
    assert merge({"x?": "text"}, {"x": "text"}) == {"x?": "text"}
