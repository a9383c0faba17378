"""The Triton kernels without a GPU: what they compute, in Triton's interpreter, and that they compile for GPUs.

Each runs in a process of its own, since Triton is told at its import whether to interpret. Neither finds a race.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton==3.7.1")

ROOT = Path(__file__).parents[2]


def _process(module: str, *arguments: str, interpret: bool) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.{module}", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["bi_wkv_2d"], marks=pytest.mark.soak),
        pytest.param(["window_attention"], marks=pytest.mark.soak),
        ["overlap_add"],
        ["resample_argmax"],
        pytest.param(["bi_wkv_2d", "rest"], marks=pytest.mark.soak),
        pytest.param(["window_attention", "rest"], marks=pytest.mark.soak),
    ],
    ids=" ".join,
)
def test_interpreted_kernels_equal_the_formula_in_fp64_gradients_included(arguments):
    told = json.loads(_process("interpreted", *arguments, interpret=True))
    assert told
    for case, errors in told.items():
        for name, error in errors.items():
            assert error < 1e-5, (case, name)


@pytest.mark.soak
def test_interpreted_bi_wkv_holds_for_far_keys_growth_and_any_length():
    told = json.loads(_process("interpreted", "bi_wkv", interpret=True))
    assert len(told) == 7
    for case, errors in told.items():
        for name, error in errors.items():
            assert error < (1e-9 if "float64" in case else 1e-4), (case, name)


def _compiled(*names: str) -> list[dict]:
    told = [
        json.loads(line) for line in _process("ahead", *names, interpret=False).splitlines() if line.startswith("{")
    ]
    assert {t["sm"] for t in told} == {80, 90}
    for kernel in told:
        assert kernel["shared"] <= 99 * 1024, kernel  # what a block may have on every card from sm_80 on
        assert kernel["reg"] <= 255, kernel
    return told


def test_kernels_compile_for_sm_80_and_sm_90_and_half_precision_spills_nothing():
    told = _compiled(
        "bi_wkv.connect.fp32", "bi_wkv.summarise.bf16", "window_attention.attend.bf16",
        "window_attention.key_gradients.bf16", "overlap_add", "resample_argmax",
    )  # fmt: skip
    assert len(told) >= 12
    assert not any(kernel["stack"] or kernel["local"] for kernel in told)


@pytest.mark.soak
def test_all_kernels_compile_for_every_type():
    assert len(_compiled()) > 60
