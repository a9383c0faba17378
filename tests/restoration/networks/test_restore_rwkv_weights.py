"""Weights of Restore-RWKV: every published layout loads, and checkpoints of other networks are named key by key."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from medvit.errors import BundleError
from medvit.restoration import RestoreRWKV
from medvit.restoration.networks.restore_rwkv_published import translate
from tests.restoration.networks.test_restore_rwkv import TINY, _image, _tiny


def _old_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    old = dict(state)
    for name in state:
        if name.endswith(".att.key.weight"):
            width = state[name].shape[0]
            old[name.replace("key", "dwconv")] = torch.zeros(width, 1, 3, 3)
    return old


LAYOUTS = {
    "bare": lambda s: s,
    "old, with the unused convolution": _old_layout,
    "module. before each name": lambda s: {f"module.{k}": v for k, v in s.items()},
    "under state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "under params": lambda s: {"params": s},
    "under params_ema, beside others": lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
    "old, module., under state_dict": lambda s: {"state_dict": {f"module.{k}": v for k, v in _old_layout(s).items()}},
    "without fused kernels": lambda s: {k: v for k, v in s.items() if "reparam" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_loads_strictly(layout):
    source, network = _tiny(), RestoreRWKV(**TINY).eval()
    stale = {k: v + 5 if "reparam" in k else v for k, v in source.state_dict().items()}
    network.load_state_dict(translate(LAYOUTS[layout](stale), network))
    assert all(torch.allclose(s.conv5x5_reparam.weight, s.kernel(), atol=1e-6) for s in network.shifts())
    with torch.inference_mode():
        assert torch.equal(network(_image(1, 1, 16, 8)), source(_image(1, 1, 16, 8)))


def test_the_reference_checkpoint_through_translate(published, reference):
    network, state = published
    network.load_state_dict(translate({"params": _old_layout(state)}, network))
    with torch.inference_mode():
        found = network.fuse()(torch.from_numpy(reference["in_a"]))
    assert np.abs(found.numpy() - reference["out_a_paper"]).max() < 1e-4


def _spoilt(change) -> dict[str, object]:
    state: dict[str, object] = dict(_tiny().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("latent.0.gamma1"), "1 missing (latent.0.gamma1)"),
        (lambda s: s.update(extra=torch.ones(1)), "1 unknown (extra)"),
        (lambda s: s.update({"other.att.dwconv.weight": torch.ones(1)}), "1 unknown (other.att.dwconv.weight)"),
        (lambda s: s.update({"other.conv5x5_reparam.weight": torch.ones(1)}), "1 unknown (other.conv5x5_reparam.weight)"),
        (lambda s: s.update({"output.bias": torch.ones(2)}), "1 of another shape (output.bias (2,) for (1,))"),
        (lambda s: s.update({"output.bias": 3.0}), "1 no tensors (output.bias)"),
        (lambda s: s.clear(), "missing (patch_embed.weight, patch_embed.bias,"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_network_is_named_key_by_key(change, message):
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        translate(_spoilt(change), _tiny())
    assert "Every key must fit. Build the network with the checkpoint's dim and num_blocks" in str(caught.value)


def test_a_checkpoint_with_nan():
    with pytest.raises(BundleError, match=re.escape("NaN or infinite weights in 1 tensors (output.bias)")):
        translate(_spoilt(lambda s: s.update({"output.bias": torch.tensor([float("nan")])})), _tiny())


def test_a_fused_network_loads_nothing():
    with pytest.raises(BundleError, match=r"a fused network to load a checkpoint into; fuse\(\) removed its branches"):
        translate(_tiny().state_dict(), _tiny().fuse())
