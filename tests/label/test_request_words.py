"""Words of a request for the options that errors of the library name."""

import pytest
from medvit_label.errors import request_words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_irregular", "split", "params.on_irregular=split"),
        ("force", "True", "params.force=true"),
        ("pixel_spacing_mm", None, "params.pixel_spacing"),
        ("lat", "...", "params.lateral"),
        ("medvit.io.limit_memory()", "'4GB'", "--memory-limit 4GB"),
        ("device", "cpu", "--device cpu"),
    ],
)
def test_fields_of_a_request_and_options_of_the_server(name, value, words):
    assert request_words(name, value) == words
