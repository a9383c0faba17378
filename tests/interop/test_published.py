"""Published layouts load strictly; whatever does not fit is named, and the network stays as it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import medvit
from medvit.errors import CheckpointError
from medvit.segmentation import BarlowSwin, SwinUNETR
from tests.interop.published_weights import same, swin


def _weights(network: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights unlike any that a constructor gives."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value.clone()
        for name, value in network.state_dict().items()
    }


def _encoder(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("swinViT."): value for name, value in state.items() if name.startswith("swinViT.")}


def _fc(name: str) -> str:
    return name.replace("linear1", "fc1").replace("linear2", "fc2")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
@pytest.mark.parametrize("form", ["mapping", "pt", "safetensors"])
def test_whole_swin_unetr_checkpoints(wrapper, form, tmp_path):
    """Research BTCV and BraTS (state_dict), zoo bundles (model), plain state dicts."""
    network = swin()
    state = _weights(network)
    content: object = state if wrapper is None else {wrapper: state, "epoch": 12, "best_acc": np.float64(0.8)}
    if form == "safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
        content, wrapper = tmp_path / "w.safetensors", None
    elif form == "pt":
        torch.save(content, tmp_path / "w.pt")
        content = tmp_path / "w.pt"
    merging = "merging_legacy" if wrapper else None
    assert medvit.load_published(network, content, merging=merging) is network
    assert same(network, state)
    assert network.merging == (merging or "merging")


def test_data_parallel_names_and_half_precision_and_left_out_index_tables():
    network = swin()
    state = _weights(network)
    stored = {f"module.{k}": v.half() for k, v in state.items() if not k.endswith("relative_position_index")}
    medvit.load_published(network, {"state_dict": stored}, merging="merging_legacy")
    assert torch.equal(network.out.conv.conv.weight, state["out.conv.conv.weight"].half().float())


@pytest.mark.parametrize("prefix", ["module.", "module.swinViT.", "swinViT."])
def test_self_supervised_encoder(prefix):
    """arXiv 2111.14791: mlp.fc1 and fc2, module. names, heads of the pretext tasks beside the encoder."""
    network = swin()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = _weights(network)
    stored = {f"{prefix}{_fc(name)}": value for name, value in _encoder(state).items()}
    heads = "module." if prefix.startswith("module.") else ""
    stored |= {f"{heads}rotation_head.weight": torch.zeros(4, 2), f"{heads}contrastive_head.bias": torch.zeros(2)}
    stored |= {f"{prefix}norm.weight": torch.ones(192)}
    with pytest.warns(
        UserWarning,
        match=r"Loaded the encoder alone \(\d+ tensors of swinViT\); 33 tensors stay as they were: decoder1",
    ) as said:
        medvit.load_published(network, {"state_dict": stored}, merging="merging_legacy")
    assert "Not used, being of the pre-training alone: contrastive_head.bias" in str(said[0].message)
    for name, value in network.state_dict().items():
        assert torch.equal(value, (state if name.startswith("swinViT.") else before)[name]), name


def test_disrupted_autoencoder_encoder():
    """``ssl_pretrained_weights.pth``: encoder.layersN.0.0.* under model, its mask token and decoder unused."""
    network = swin()
    state = _weights(network)
    stored = {
        "encoder." + re.sub(r"^(layers\d\.0\.)", r"\g<1>0.", name): value for name, value in _encoder(state).items()
    }
    assert "encoder.layers1.0.0.blocks.0.norm1.weight" in stored
    extra = {
        "encoder.mask_token": torch.zeros(1, 3),
        "encoder.norm.weight": torch.ones(3),
        "decoder.up.weight": torch.ones(2),
    }
    with pytest.warns(
        UserWarning, match=r"Not used, being of the pre-training alone: decoder.up, encoder.mask_token, encoder.norm"
    ):
        medvit.load_published(network, {"model": stored | extra}, merging="merging_legacy")
    assert all(torch.equal(network.state_dict()[f"swinViT.{k}"], v) for k, v in _encoder(state).items())


def test_an_encoder_that_lacks_a_tensor_is_refused():
    network = swin()
    stored = {f"module.{_fc(k)}": v for k, v in _encoder(_weights(network)).items()}
    del stored["module.layers3.0.blocks.1.mlp.fc2.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing \(swinViT.layers3.0.blocks.1.mlp.linear2.bias\)"):
        _quiet(network, {"state_dict": stored}, "merging_legacy")


def _quiet(network: torch.nn.Module, content: object, merging: str | None = None) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        medvit.load_published(network, content, merging)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_the_merging_era_is_asked_for(wrapper):
    network = swin()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = _weights(network)
    content = {wrapper: state} if wrapper else {f"module.{k}": v for k, v in _encoder(state).items()}
    with pytest.raises(
        CheckpointError,
        match=r"a layout that was published before MONAI 1.5.*Give merging='merging_legacy' if it was trained with MONAI up to 1.4",
    ):
        medvit.load_published(network, content)
    assert same(network, before)
    with pytest.raises(
        CheckpointError, match="Found merging='legacy'; it must be one of merging, mergingv2, merging_legacy"
    ):
        medvit.load_published(network, content, merging="legacy")


def test_pictures_have_one_era():
    network = SwinUNETR(3, 2, feature_size=12, spatial_dims=2)
    state = _weights(network)
    medvit.load_published(network, {"state_dict": state})
    assert same(network, state)


@pytest.mark.parametrize(
    ("merging", "key"), [("merging_legacy", "legacy"), ("merging", "monai15plus"), ("mergingv2", "mergingv2")]
)
@pytest.mark.parametrize("use_v2", [False, True])
def test_merging_is_set_on_the_network(shared, merging, key, use_v2):
    """One built for another era gives the reference's output after ``merging`` was stated."""
    with np.load(shared / "parity" / "swin_unetr_f12_weights.npz") as arrays:
        weights = {name: arrays[name] for name in arrays.files if use_v2 or not re.search(r"layers\dc\.", name)}
    tensors = np.load(shared / "parity" / "swin_unetr_f12_io.npz")
    network = medvit.load_published(swin(use_v2=use_v2, downsample="mergingv2"), weights, merging=merging)
    assert network.merging == merging
    with torch.inference_mode():
        found = network(torch.from_numpy(tensors["in_a"]))
    assert np.abs(found.numpy() - tensors[f"out_a_{key}{'_v2' if use_v2 else ''}"]).max() < 1e-4


def test_an_index_table_of_another_arrangement():
    network = swin()
    state = _weights(network)
    name = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    state[name] = state[name].T.contiguous()
    with pytest.raises(CheckpointError, match=f"Found {name} with other values than the window size gives"):
        medvit.load_published(network, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 4, "out_channels": 3}, r"this SwinUNETR's \(.*Build SwinUNETR\(in_channels=1, out_channels=2, feature_size=12, use_v2=False\)"),
        ({"in_channels": 1, "out_channels": 2, "use_v2": True}, r"8 missing \(swinViT.layers1c.*use_v2=False"),
    ],
)  # fmt: skip
def test_another_configuration_says_how_to_build(options, message):
    state = _weights(swin())
    network = SwinUNETR(feature_size=12, **options)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        medvit.load_published(network, state)
    assert same(network, before)


def test_missing_and_unexpected_tensors_are_named():
    state = _weights(swin())
    state["extra.weight"] = state.pop("out.conv.conv.bias")
    with pytest.raises(
        CheckpointError,
        match=r"1 missing \(out.conv.conv.bias\) and 1 unexpected \(extra.weight\) tensors; it must hold exactly the 159",
    ):
        medvit.load_published(swin(), state)


def test_a_whole_checkpoint_without_its_first_encoder_is_not_taken_for_an_encoder():
    state = {k: v for k, v in _weights(swin()).items() if not k.startswith("encoder1.")}
    with pytest.raises(CheckpointError, match=r"3 missing \(encoder1.layer.conv1.conv.weight"):
        medvit.load_published(swin(), {"state_dict": state}, merging="merging_legacy")


def test_monais_class_has_no_era_to_set():
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    network = MonaiSwinUNETR(1, 2, feature_size=12)
    with pytest.raises(CheckpointError, match="Found monai's SwinUNETR to load into; one of medvit's SwinUNETR"):
        medvit.load_published(network, {"state_dict": _weights(network)}, merging="merging_legacy")


def test_names_that_nobody_knows():
    with pytest.raises(CheckpointError, match=r"151 missing .* and 1 unexpected \(conv.weight\)"):
        medvit.load_published(swin(), {"conv.weight": torch.zeros(2)})


# whose weights these are


@pytest.mark.parametrize(
    ("name", "who"),
    [("encoder_level1.0.att.spatial_decay", "RestoreRWKV"), ("expand_.3.weight", "SwinX2S"), ("linear_embedding/dense/kernel", "BarlowSwin")],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_named(name, who):
    with pytest.raises(
        CheckpointError,
        match=f"Found weights that look like {who}'s.*SwinUNETR's are needed. Give the right file, or build a {who}",
    ):
        medvit.load_published(swin(), {name: torch.zeros(2)})


def test_swin_unetr_weights_for_barlow_swin_and_the_other_way():
    with pytest.raises(CheckpointError, match="look like SwinUNETR's.*BarlowSwin's are needed"):
        medvit.load_published(BarlowSwin(embed_dim=16), swin().state_dict())
    with pytest.raises(CheckpointError, match="look like BarlowSwin's.*SwinUNETR's are needed"):
        medvit.load_published(swin(), BarlowSwin(embed_dim=16).state_dict())


def test_models_and_switches_that_do_not_go_together():
    with pytest.raises(
        CheckpointError,
        match="Found torch's Linear to load into; one of medvit's SwinUNETR, BarlowSwin, RestoreRWKV, SwinX2S is needed",
    ):
        medvit.load_published(torch.nn.Linear(2, 2), {})
    with pytest.raises(CheckpointError, match="merging='merging' for a BarlowSwin; only Swin UNETR has"):
        medvit.load_published(BarlowSwin(embed_dim=16), {}, merging="merging")
    with pytest.raises(CheckpointError, match="Found no tensors in the checkpoint"):
        medvit.load_published(swin(), {"state_dict": {}})


def test_the_module_loads_no_torch_until_used():
    import subprocess
    import sys

    program = "import sys, medvit; print('torch' in sys.modules); medvit.load_published; print('medvit.interop.published' in sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert outcome.stdout.split() == ["False", "True"]
