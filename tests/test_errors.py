"""The family: one base, each keeping the built-in kind it is."""

from __future__ import annotations

import copy
import errno
import importlib
import inspect
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from pydicom.tag import Tag, tag_in_exception

import medvit.errors as errors
from medvit.atomic_write import os_errors_as_output_errors
from medvit.errors import MedvitError, OutputError, SourceError, out_of_space, python_words

KINDS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MedvitError | OSError)]
KINDS = [cls for cls in KINDS if cls is not MedvitError]


def family():
    """Return every class of the family, those of the applications too."""
    rooms = ("medvit.progress", "medvit.io.files", "medvit_batch.errors", "medvit_label.errors", "medvit_napari.errors")
    for room in (*rooms, "medvit_napari.server.client"):
        importlib.import_module(room)
    found = [MedvitError]
    for kind in found:
        found += [below for below in kind.__subclasses__() if below not in found]
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.__name__)
def test_each_is_ours_and_keeps_a_builtin_kind(kind):
    assert issubclass(kind, MedvitError)
    assert any(
        issubclass(kind, builtin) for builtin in (ValueError, RuntimeError, OSError, ArithmeticError, MemoryError)
    )
    assert kind.__name__ in errors.__all__


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (("a 2D image", "a volume is needed", "Give one."), "Found a 2D image; a volume is needed. Give one."),
        (("a 2D image", "a volume is needed"), "Found a 2D image; a volume is needed."),
        (("a 2D image", "", "Give a volume. See docs."), "Found a 2D image. Give a volume. See docs."),
        (("a 2D image", "", ""), "Found a 2D image."),
        (("The server is full.",), "The server is full."),
    ],
)
def test_the_sentence_is_composed_of_the_parts_that_are_there(parts, sentence):
    error = SourceError(*parts)
    assert str(error) == sentence == error.args[0]
    assert (error.found, error.needed, error.remedy) == (*parts, "", "")[:3]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_irregular", None, "on_irregular"),
        ("on_irregular", "split", 'on_irregular="split"'),
        ("force", "True", "force=True"),
        ("sw_batch_size", "1", "sw_batch_size=1"),
        ("spacing", "(1, 1, 1)", "spacing=(1, 1, 1)"),
        ("medvit.bundles.names()", None, "medvit.bundles.names()"),
        ("like", "...", "like=..."),
        ("medvit.io.limit_memory()", "'4GB'", "medvit.io.limit_memory('4GB')"),
    ],
)
def test_python_words_of_an_option(name, value, words):
    assert python_words(name, value) == words


def test_an_error_keeps_its_parts_in_a_frame_of_other_sentences():
    error = SourceError("no grid", "one is needed", "Give {like=...}.", option="like")
    framed = error.framed(before="The labels were not kept.").framed("They stay here.", "See the log.")
    text = "They stay here. The labels were not kept. Found no grid; one is needed. Give like=.... See the log."
    assert str(framed) == text == framed.args[0]
    assert type(framed) is SourceError
    assert framed.step(lambda name, _: f"--{name}") == "Give --like."
    assert str(error) == "Found no grid; one is needed. Give like=...."


def test_lines_below_the_sentence_are_no_part_of_its_headline():
    error = SourceError(
        "2 series {force}", "one is needed", "Choose {series}.", option="series", listing="  1: {series}"
    )
    assert str(error) == "Found 2 series {force}; one is needed. Choose series:\n  1: {series}"
    assert error.headline() == "Found 2 series {force}; one is needed. Choose series."


def test_each_door_words_the_options_of_an_error():
    error = SourceError(
        "an uneven stack",
        "a regular stack is needed",
        "Use {on_irregular=split}, or {force}.",
        option=("on_irregular", "force"),
    )
    assert str(error) == 'Found an uneven stack; a regular stack is needed. Use on_irregular="split", or force.'
    assert (
        error.sentence(lambda name, value: f"<{name}|{value}>")
        == "Found an uneven stack; a regular stack is needed. Use <on_irregular|split>, or <force|None>."
    )
    assert error.option == ("on_irregular", "force")
    assert error.remedy == "Use {on_irregular=split}, or {force}."


@pytest.mark.parametrize(
    "name", ["{0}.nii", "{on}.nii", "{on_irregular_x}", "{{", "}{", "{force", "a{}b", "{force=a{b}}"]
)
def test_braces_in_data_stay_as_they_are(name):
    error = SourceError(f"{name}", "an image is needed", "Use {on_irregular}.", option="on_irregular")
    assert str(error) == f"Found {name}; an image is needed. Use on_irregular."
    assert str(SourceError(name, "an image is needed", "Use {on_irregular}.")).endswith("Use {on_irregular}.")


@pytest.mark.parametrize("kind", family(), ids=lambda c: c.__name__)
def test_every_class_keeps_its_parts_through_pickle_and_copy(kind):
    extra = {"why": "it is gone"} if kind.__name__ == "UnreadableError" else {}
    error = kind("{a} file", "an image is needed", "Use {force}.", option="force", **extra)
    error.__cause__ = ValueError("first")
    for again in (
        *(pickle.loads(pickle.dumps(error, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(error),
    ):
        assert type(again) is kind
        assert str(again) == str(error) == "Found {a} file; an image is needed. Use force."
        assert again.sentence(lambda name, _: f"--{name}").endswith("Use --force.")
        assert vars(again) == vars(error)
        assert again.args == error.args == (str(error),)
        assert getattr(again, "errno", None) is None


def _refuse(kind):
    raise kind("a file", "an image is needed", "Use {force}.", option="force")


def test_an_error_keeps_its_parts_through_a_process_pool():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kind in (OutputError, SourceError):
            with pytest.raises(kind, match=r"^Found a file; an image is needed. Use force.$") as caught:
                pool.submit(_refuse, kind).result()
            assert (caught.value.needed, caught.value.option) == ("an image is needed", ("force",))


def test_a_full_disk_is_told_from_what_pydicom_makes_of_it():
    """pydicom raises the system's error anew while it writes an element, without its number and with a traceback."""
    with (
        pytest.raises(OutputError, match=r"^Found no space left when writing to out; .*Free some space, or") as caught,
        os_errors_as_output_errors(Path("out")),
        tag_in_exception(Tag("PixelData")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert out_of_space(caught.value.__cause__)
    assert not out_of_space(PermissionError(errno.EACCES, "no"))
    assert not out_of_space(ValueError())


def test_errors_reach_another_process_by_way_of_dask():
    pytest.importorskip("tblib", reason="tblib, by which Dask pickles errors with their traceback, is not installed")
    code = """
import pickle
import subprocess
import sys
import medvit.errors as errors
from tblib import pickling_support
pickling_support.install()
for name in errors.__all__:
    kind = getattr(errors, name)
    if isinstance(kind, type):
        sent = kind("a file", "an image is needed", "Use {force}.", option="force")
        got = pickle.loads(pickle.dumps(sent))
        assert type(got) is kind and (got.found, got.needed, got.remedy, str(got)) == ("a file", "an image is needed", "Use {force}.", str(sent))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
