"""Deep stages held to their kernels' centre: in training, in what is loaded, and in the file that ships."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from medvit.bundles import narrowed, read_checkpoint
from medvit.bundles.pointwise_weight_storage import widened
from medvit.errors import BundleError, CheckpointError
from medvit.segmentation import SwinUNETR
from medvit.training.objectives import with_point_kernels

STAGES = ["encoder10", "decoder5.conv_block"]


def _off_centre(kernels: torch.Tensor) -> int:
    rest = kernels.detach().clone()
    rest[..., rest.shape[2] // 2, rest.shape[3] // 2, rest.shape[4] // 2] = 0
    return int(torch.count_nonzero(rest))


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1))


def test_training_and_loading_leave_the_kernels_of_a_stage_at_their_centre():
    network = with_point_kernels(_small(), ["1"])
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    before = network[1].weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(1, 1, 5, 6, 7)).square().mean().backward()
        optimizer.step()
    assert _off_centre(network[1].weight) == 0 and _off_centre(network[0].weight) > 0
    assert not torch.equal(before, network[1].weight)
    other = _small()
    network.load_state_dict(other.state_dict())
    assert _off_centre(network[1].weight) == 0 and torch.equal(network[0].weight, other[0].weight)
    assert torch.equal(network[1].weight[..., 1, 1, 1], other[1].weight[..., 1, 1, 1])


def test_what_is_stored_is_small_and_reads_back_as_it_was(tmp_path):
    network = with_point_kernels(SwinUNETR(1, 3, feature_size=12), STAGES)
    whole = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    content = save(*narrowed(whole))
    assert len(content) < 0.4 * len(save(whole))
    back = widened(load(content), content)
    assert back.keys() == whole.keys() and all(torch.equal(back[k], v) for k, v in whole.items())
    (tmp_path / "w.safetensors").write_bytes(content)
    read = read_checkpoint(tmp_path / "w.safetensors")
    assert read["encoder10.layer.conv1.conv.weight"].shape == (192, 192, 3, 3, 3)


def test_a_network_without_such_stages_is_stored_as_it_is():
    state = _small().state_dict()
    kept, header = narrowed(state)
    assert not header and kept.keys() == state.keys() and all(torch.equal(kept[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    "told", ['{"absent": [3, 3, 3]}', '{"1.weight": [2, 3, 3]}', '{"1.weight": [9999, 3, 3]}', "[1]", "{"]
)
def test_a_header_that_does_not_fit_is_refused(told):
    kept, header = narrowed(with_point_kernels(_small(), ["1"]).state_dict())
    content = save(kept, {next(iter(header)): told})
    with pytest.raises(
        CheckpointError, match="Found a header whose list of kernels does not fit .* Install the bundle again"
    ):
        widened(load(content), content)


def test_stages_that_are_not_there_or_would_not_change_are_refused():
    with pytest.raises(BundleError, match="Found the stage 'decoder9', which the network lacks; it has 0, 1"):
        with_point_kernels(_small(), ["decoder9"])
    with pytest.raises(BundleError, match="without a convolution wider than one voxel"):
        with_point_kernels(nn.Sequential(nn.Conv3d(1, 1, 1)), ["0"])
