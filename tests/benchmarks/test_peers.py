"""The benchmark's other runtimes answer as PyTorch does, and a missing package is named."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from medvit.benchmarks import Row, Split, Workload, compare, table
from medvit.benchmarks import peers as runtimes


def _work() -> Workload:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1)).eval()
    return Workload(name="small", peer=network, mine=network, image=torch.rand(1, 1, 24, 16, 16), roi=16)


def test_each_runtime_gives_monais_logits_and_its_part_of_the_ratio(monkeypatch):
    for package in ("openvino", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.setattr("medvit.benchmarks.networks._BACKENDS", (("eager", "fp32"), ("openvino", "fp32")))
    rows = list(compare(_work(), runs=2))
    assert [row.way for row in rows] == [
        "MONAI in OpenVINO",
        "MONAI in ONNX Runtime",
        "medvit's network in OpenVINO, MONAI's inferer",
        "eager fp32",
        "openvino fp32",
    ]
    for row in rows:
        assert not row.refused
        assert row.agreement > 0.999 and row.largest < 1e-4 and row.difference < 1e-4
        assert len(row.wall) == len(row.cpu) == 2 and min(row.wall) > 0
    split = rows[-1].split
    assert split is not None and all(row.split is None for row in rows[:-1])
    assert split.runtime == rows[0].ratio_cpu and split.total == rows[-1].ratio_cpu
    text = "\n".join(table(_work(), rows))
    assert "| MONAI in ONNX Runtime |" in text and "| medvit openvino fp32 |" in text
    assert "by the runtime (OpenVINO in place of PyTorch)" in text


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("openvino", "Found no package openvino; .* pip install openvino"),
        ("onnxruntime", "Found no package onnxruntime; .* pip install onnxruntime onnxscript"),
        ("onnxscript", "Found no package onnxscript; .* pip install onnxruntime onnxscript"),
    ],
)
def test_a_missing_package_is_named_in_the_row(monkeypatch, missing, message):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == missing else object())
    kind = "openvino" if missing == "openvino" else "onnxruntime"
    monkeypatch.setattr("medvit.benchmarks.networks._PEERS", (kind,))
    monkeypatch.setattr("medvit.benchmarks.networks._BACKENDS", ())
    (row,) = compare(_work(), runs=1)
    assert row.ratio == 0 and row.split is None
    assert re.search(message, row.refused)
    assert f"| {row.way} | not run: " in "\n".join(table(_work(), [row]))


def test_the_table_says_where_the_ratio_comes_from():
    split = Split(runtime=2.0, network=1.5, engine=1.25, total=3.75)
    row = Row(work="w", way="openvino fp32", theirs=3, ours=1, ratio=3, ratio_cpu=3.75, agreement=1, split=split)
    last = list(table(_work(), [row]))[-1]
    assert "3.75 times as fast" in last
    assert "2.00 by the runtime" in last and "1.50 by medvit's form" in last and "1.25 by the engine" in last
