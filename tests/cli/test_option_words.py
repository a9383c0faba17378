"""Words of the command line for the options that errors of the library name."""

import json

import pytest
import typer

from medvit.cli.common import Terminal, handle_errors
from medvit.cli.option_words import command_line_words
from medvit.errors import GeometryError


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_irregular", None, "--on-irregular"),
        ("on_irregular", "split", "--on-irregular split"),
        ("force", "True", "--force"),
        ("like", "...", "--like"),
        ("series", "2.1", "--series 2.1"),
        ("output_types", None, "-ot"),
        ("output_types", "('nifti',)", "-ot nifti"),
        ("folder", "...", "-o"),
        ("given", "...", "--from FILE"),
        ("start", "bands", "--from bands"),
        ("pixel_spacing_mm", None, "--pixel-spacing MM"),
        ("medvit.bundles.bundle_folders()", None, "medvit bundles list"),
        ("medvit.bundles.remote.fetch()", "FetchRequest(name='bands')", "medvit bundles fetch bands"),
        ("medvit.io.limit_memory()", None, "--memory-limit"),
        ("medvit.io.limit_memory()", "'4GB'", "--memory-limit 4GB"),
        (
            "medvit.segmentation.precision_check.run_precision_check()",
            "'bands', 'SCAN'",
            "medvit bundles precision-check bands --case SCAN",
        ),
    ],
)
def test_words_of_an_option_or_a_command(name, value, words):
    assert command_line_words(name, value) == words


def test_an_error_of_the_library_names_options_as_the_command_line_has_them(capsys):
    with pytest.raises(typer.Exit) as ended, handle_errors(Terminal(json=True)):
        raise GeometryError(
            "an uneven stack of {x}.dcm", "one is needed", "Use {on_irregular=split}.", option="on_irregular"
        )
    assert ended.value.exit_code == 1
    said = capsys.readouterr()
    assert said.err == "Error: Found an uneven stack of {x}.dcm; one is needed. Use --on-irregular split.\n"
    message = said.err.removeprefix("Error: ").strip()
    assert json.loads(said.out)["error"] == {"kind": "GeometryError", "message": message}
