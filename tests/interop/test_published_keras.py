"""Published Keras weights load array by array; whatever does not fit is named."""

from __future__ import annotations

import re

import numpy as np
import pytest

import medvit
from medvit.errors import CheckpointError
from medvit.segmentation import BarlowSwin
from tests.interop.published_weights import same

# Barlow-Swin


@pytest.fixture(scope="module")
def keras(shared):
    with np.load(shared / "parity" / "barlow_swin_keras_e16_128x192.npz") as arrays:
        return {name.removeprefix("w/"): arrays[name] for name in arrays.files if name.startswith("w/")}


def test_every_keras_array_is_used(keras):
    network = medvit.load_published(BarlowSwin(embed_dim=16), keras)
    assert sum(value.size for value in keras.values()) == sum(
        value.numel() for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")
    )
    again = medvit.load_published(BarlowSwin(embed_dim=16), network.state_dict())
    assert same(again, network.state_dict())


def test_layers_numbered_later_in_a_session_are_the_same(keras):
    """Keras goes on counting when a model is built a second time."""

    def later(name: str) -> str:
        return (
            "/".join(
                re.sub(r"^(.*?)(?:_(\d+))?$", lambda m: f"{m[1]}_{int(m[2] or 0) + 40}", p)
                for p in name.split("/")[:-1]
            )
            + "/"
            + name.split("/")[-1]
        )

    assert later("swin_transformer_block/mlp_1/dense_3/kernel") == "swin_transformer_block_40/mlp_41/dense_43/kernel"
    renamed = {later(name): value for name, value in keras.items()}
    one, two = (medvit.load_published(BarlowSwin(embed_dim=16), state) for state in (keras, renamed))
    assert same(one, two.state_dict())


def test_keras_files_without_bias_tables(keras):
    stored = {name: value for name, value in keras.items() if not name.endswith("relative_position_bias_table")}
    with pytest.raises(
        CheckpointError, match=r"without 6 of the relative-position tables.*add zeros of \(49, heads\) and train on"
    ):
        medvit.load_published(BarlowSwin(embed_dim=16), stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv2d_2/bias"), r"1 missing \(decoder.2.shortcut.0.bias\)"),
        (lambda s: s.pop("swin_transformer_block_3/mlp_3/dense_16/kernel"), r"1 missing \(encoder.stages.1.1.mlp.0.weight\)"),
        (lambda s: s.update({"optimizer/momentum": np.zeros(3)}), r"1 unexpected \(optimizer/momentum\)"),
        (lambda s: s.update({"conv2d_4/bias": np.zeros(2)}), r"head.0.bias is \(2,\), not \(1,\)"),
        (lambda s: s.update({"conv2d_4/bias": np.array([np.nan])}), "Found NaN or infinite values in conv2d_4/bias"),
        (lambda s: s.update({"conv2d_4/bias": "text"}), "Found a str under 'conv2d_4/bias', where a tensor is expected"),
    ],
)  # fmt: skip
def test_keras_arrays_that_do_not_fit_are_named(keras, change, message):
    stored = dict(keras)
    change(stored)
    with pytest.raises(CheckpointError, match=message):
        medvit.load_published(BarlowSwin(embed_dim=16), stored)


def test_keras_weights_of_another_width_say_how_to_build(keras):
    with pytest.raises(CheckpointError, match=r"Build BarlowSwin\(in_channels=3, embed_dim=16, num_heads=8\)"):
        medvit.load_published(BarlowSwin(embed_dim=32), keras)


def test_keras_arrays_from_a_file(keras, tmp_path):
    np.savez(tmp_path / "weights.npz", **keras)
    one = medvit.load_published(BarlowSwin(embed_dim=16), tmp_path / "weights.npz")
    assert same(one, medvit.load_published(BarlowSwin(embed_dim=16), keras).state_dict())
