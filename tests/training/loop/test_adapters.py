"""Adapters: nothing changes at their start, the weights under them never, and merged they are the network that was trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from medvit.bundles import Bundle, open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError, CheckpointError, StoppedError
from medvit.training import TrainingLoop
from medvit.training.evaluation import evaluate_bundle
from medvit.training.loop import AdapterSettings, adapt, before_after, merge_adapters, publish, start_from
from medvit.training.loop.adapters import is_adapter
from tests.bands import make_bundle
from tests.label.learning import make_cases
from tests.training.loop.test_training_loop import SHORT, Line, Points, _objectives, _same

LINEAR = {
    "swin_unetr": "attn.qkv.weight",
    "barlow_swin": "mlp.2.weight",
    "restore_rwkv": "receptance.weight",
    "swin_x2s": "attn.query.weight",
}
HEADS = ("out.", "output.", "head.")


def _trained(objective: nn.Module, batch: tuple[Tensor, ...], steps: int = 2) -> None:
    objective.train()
    optimizer = torch.optim.AdamW(objective.groups(), 1e-2, weight_decay=0.1)  # type: ignore[operator]
    for _ in range(steps):
        optimizer.zero_grad()
        objective(*batch).backward()
        optimizer.step()
    objective.eval()


def _linear(network: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(("name", "rest"), [*((name, True) for name in LINEAR), ("barlow_swin", False)])
def test_merged_they_are_the_network_that_was_trained(name, rest):
    objective, batch = _objectives()[name]
    network = objective.network.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plain, adapted = copy.deepcopy(network), _linear(network)
    assert any(key.endswith(LINEAR[name]) for key in adapted)
    with torch.no_grad():
        unchanged = network(batch[0])
        found = adapt(objective, AdapterSettings(3, rest))
        assert torch.equal(network(batch[0]), unchanged)
    assert found.layers == len(adapted) and found.parameters == sum(p.numel() for p in plain.parameters())
    assert found.trained_parameters == sum(p.numel() for p in objective.parameters() if p.requires_grad)
    assert 0 < found.trained_parameters < found.parameters / 2
    trainable = {k for k, p in network.named_parameters() if p.requires_grad}
    _trained(objective, batch)
    after = network.state_dict()
    moving = {k for k in before if rest and k.endswith(("running_mean", "running_var", "batches_tracked"))}
    frozen = set(before) - trainable - moving
    assert adapted <= frozen and all(torch.equal(after[k], before[k]) for k in frozen)
    assert all(torch.any(after[k] != 0) for k in after if k.endswith("adapter_up"))
    final = merge_adapters(after)
    assert list(final) == list(before) and all(final[k].shape == v.shape for k, v in before.items())
    assert {k for k in adapted if torch.equal(final[k], before[k])} == set()
    changed = {k for k in before if not torch.equal(final[k], before[k])}
    assert changed <= adapted | trainable | moving
    assert any(k.startswith(HEADS) for k in changed) == rest
    plain.load_state_dict(final)
    with torch.no_grad():
        assert torch.allclose(plain(batch[0]), network(batch[0]), rtol=0, atol=1e-6 * float(unchanged.abs().max()))
        assert not torch.allclose(plain(batch[0]), unchanged, atol=1e-4)


class _Adapting(Line):
    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        adapt(self, AdapterSettings(rank))


def _loop(folder: Path, objective: nn.Module) -> TrainingLoop:
    return TrainingLoop(objective, Points(), SHORT, folder)  # type: ignore[arg-type]


def test_a_killed_run_goes_on_and_its_checkpoint_starts_another(tmp_path):
    whole = _loop(tmp_path / "whole", _Adapting()).run()
    killed = _loop(tmp_path / "run", _Adapting())
    honest = killed.sampler.batch

    def batch(size: int) -> tuple[Tensor, ...]:
        if killed.step == 5:
            raise KeyboardInterrupt
        return honest(size)

    killed.sampler.batch = batch  # type: ignore[method-assign]
    with pytest.raises(StoppedError, match="Stopped at step 5 of 9"):
        killed.run()
    assert _same(_loop(tmp_path / "run", _Adapting()).run(), whole)
    assert torch.equal(whole["0.weight"], Line().network.state_dict()["0.weight"])
    for other in (Line(), _Adapting(1)):
        with pytest.raises(CheckpointError, match="a checkpoint of another run in .*another output"):
            _loop(tmp_path / "run", other).run()
    network = Line().network
    assert "4 of 4 tensors." in str(start_from(network, str(tmp_path / "run" / "checkpoint.pt")))
    assert _same(network.state_dict(), merge_adapters(whole)) and not _same(
        network.state_dict(), Line().network.state_dict()
    )


def test_what_cannot_be_adapted(tmp_path):
    with pytest.raises(BundleError, match="adapters of rank 0; a whole number of at least 1 is needed. 8 is"):
        AdapterSettings(0)
    objective = nn.Module()
    objective.network = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(
        BundleError, match="no linear layer in Sequential; adapters are added to those. Leave out adapters"
    ):
        adapt(objective, AdapterSettings())
    torch.save({"0.weight": torch.zeros(4, 3), "0.bias": torch.zeros(4)}, tmp_path / "part.pt")
    with pytest.raises(
        CheckpointError, match=r"no 2\.bias in .*part\.pt that fits, and with adapters it would keep its random values"
    ):
        start_from(_Adapting().network, str(tmp_path / "part.pt"))


def test_the_table_says_what_changed():
    assert before_after({"mean_dice": 0.5, "dice_a": 0.25}, {"mean_dice": 0.75, "dice_a": 0.125}).splitlines()[2:] == [
        "| mean_dice | 0.5000 | 0.7500 | +0.2500 |",
        "| dice_a | 0.2500 | 0.1250 | -0.1250 |",
    ]


@pytest.fixture
def trained(tmp_path) -> tuple[Bundle, list[str]]:
    """A bundle with a small Swin UNETR, published, and what names its cases on the command line."""
    folder = make_bundle(tmp_path / "bundles" / "small")
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {
        "_target_": "medvit.segmentation.SwinUNETR", "in_channels": 1, "out_channels": 8, "feature_size": 12, "window_size": 4,
    }  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    publish(open_bundle(folder), ConfigParser(config).get_parsed_content("network_def").state_dict())
    names = make_cases(tmp_path / "s", tmp_path / "t", 2)
    one, other = ({"image": f"s/{n}.nii.gz", "label": f"t/{n}.nii.gz"} for n in names)
    (tmp_path / "list.json").write_text(json.dumps({"training": [one], "validation": [other]}))
    data = ["--data", str(tmp_path / "list.json"), "--root", str(tmp_path), "--output", str(tmp_path / "runs")]
    return open_bundle(folder), [str(folder), *data, "--device", "cpu"]


def test_the_command_trains_merges_and_publishes_them(trained, tmp_path):
    bundle, told = trained
    before = load_file(bundle.weights)
    command = ["train", *told, "--from", str(bundle.root), "--adapters", "4", "--publish", "--steps"]
    outcome = CliRunner().invoke(app, [*command, "2"])
    assert outcome.exit_code == 0, outcome.output
    said = " ".join(outcome.output.split())
    assert "Adapters of rank 4 on 36 linear layers, norms and head trained beside them: " in said
    assert "tensors." in said and "newly drawn" not in said and "| mean_dice | " in said
    new = open_bundle(bundle.root)
    new.verify()
    after = load_file(new.weights)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert any("attn.qkv.weight" in k for k in changed) and not any(
        "decoder" in k and "conv.weight" in k for k in changed
    )
    record = json.loads((new.root / "docs" / "training.json").read_text())
    assert record["started_from"] == "small" and str(tmp_path) not in json.dumps(record)
    assert record["adapters"]["rank"] == 4 and record["adapters"]["norms_and_head"]
    assert f"{record['adapters']['trained_parameters']:,} parameters are trained" in said
    data = tmp_path / "list.json"
    scores = evaluate_bundle(new, data, tmp_path, "validation", lambda _: None, "cpu")
    assert scores["score"] == pytest.approx(record["validation"]["after"]["mean_dice"], abs=5e-3)  # in half precision
    stored = torch.load(tmp_path / "runs" / "small" / "checkpoint.pt", weights_only=True)
    assert stored["step"] == 2 and any(is_adapter(k) for k in stored["average"])
    again = CliRunner().invoke(app, [*command, "3"])  # longer: goes on, and the scores before are those of then
    assert again.exit_code == 0 and "Going on from" in again.output
    longer = json.loads((new.root / "docs" / "training.json").read_text())
    assert longer["validation"]["before"] == record["validation"]["before"] and longer["steps"] == 3
    told_otherwise = [a for a in command if a not in ("--adapters", "4")]
    other = CliRunner().invoke(app, [*told_otherwise, "3"])
    assert other.exit_code == 1 and "checkpoint of another run" in " ".join(other.output.split())


def test_adapters_asked_for_wrongly(trained):
    bundle, told = trained
    for asked, words in (
        (["--adapters", "4"], "Found --adapters without --from; they adapt weights that the recipe 'train' has made"),
        (["--adapters", "0", "--from", str(bundle.root)], "Found adapters of rank 0; a whole number of at least 1"),
        (["--only-adapters"], "Found --only-adapters without --adapters; their rank is needed. Add --adapters 8."),
        (
            ["--adapters", "4", "--from", str(bundle.root), "--recipe", "pretrain"],
            "--adapters with the recipe pretrain",
        ),
    ):
        outcome = CliRunner().invoke(app, ["train", *told, *asked])
        assert outcome.exit_code == 1 and "Traceback" not in outcome.output
        assert words in " ".join(outcome.output.split())


def test_without_validation_cases_there_is_no_table_and_that_is_said(trained, tmp_path):
    bundle, told = trained
    content = json.loads((tmp_path / "list.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps({"training": content["training"]}))
    outcome = CliRunner().invoke(app, ["train", *told, "--from", str(bundle.root), "--adapters", "1", "--steps", "1"])
    assert outcome.exit_code == 0, outcome.output
    said = " ".join(outcome.output.split())
    assert "No scores before and after: there are no validation cases" in said and "| before |" not in said
