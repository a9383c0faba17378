"""Compile the Triton kernels for GPUs that are not there; a process of its own, since the interpreter must be off.

python -m tests.kernels.ahead NAME ...   (names as in KERNELS; prints one JSON line for each kernel and target)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (80, 90)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A kernel with the types of its pointers and the values of its constants; every other argument is an int."""

    kernel: Any
    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    kinds: dict[str, str] = field(default_factory=dict)


def bi_wkv_jobs() -> dict[str, Job]:
    from medvit.kernels.bi_wkv import triton as launches
    from medvit.kernels.bi_wkv import triton_backward as back
    from medvit.kernels.bi_wkv import triton_forward as there

    jobs = {}
    for kind, wide, inside in (
        ("bf16", "fp32", tl.float32),
        ("fp32", "fp32", tl.float32),
        ("fp64", "fp64", tl.float64),
    ):
        small = {"w": wide, "u": wide}
        data = dict.fromkeys("kvrygh", kind) | dict.fromkeys(("dk", "dv", "dr"), kind)
        inner = dict.fromkeys(("sums", "met_sums", "grad_sums", "grad_met_sums", "dw", "du"), wide)
        marks = dict.fromkeys(("marks", "met_marks", "grad_marks", "grad_met_marks"), "fp64")
        types = small | data | inner | marks
        for kernel, plan, more in (
            (there.summarise, launches.FORWARD, {"FLAT": False}),
            (there.emit, launches.FORWARD, {"FLAT": False, "GATED": True}),
            (back.summarise_gradients, launches.BACKWARD, {"FLAT": False, "GATED": True}),
            (back.emit_gradients, launches.BACKWARD, {"FLAT": False, "GATED": True, "ADD": True}),
        ):
            exact = kind == "fp32" and plan is launches.BACKWARD  # gradients of float32 are summed in float64
            sizes = {
                "RUNS": plan.runs,
                "LENGTH": plan.length,
                "WIDTH": plan.width,
                "KIND": tl.float64 if exact else inside,
                **more,
            }
            pointers = types | dict.fromkeys(inner, "fp64") if exact else types
            jobs[f"bi_wkv.{kernel.__name__}.{kind}"] = Job(
                kernel=kernel, pointers=pointers, constants=sizes, warps=plan.warps
            )
        for kernel in (there.connect, back.connect_gradients):
            jobs[f"bi_wkv.{kernel.__name__}.{kind}"] = Job(
                kernel=kernel, pointers=types, constants={"ROWS": launches.FORWARD.rows, "WIDTH": 2}
            )
    return jobs


def window_attention_jobs() -> dict[str, Job]:
    from medvit.kernels.window_attention import triton as launches
    from medvit.kernels.window_attention import triton_kernels as kernels

    jobs = {}
    tables = dict.fromkeys(("token", "region", "masked", "place", "windows"), "i32")
    exact = dict.fromkeys(("pad", "table", "lse", "dpad", "dense"), "fp32")
    for kind, inside in (("bf16", tl.bfloat16), ("fp16", tl.float16), ("fp32", tl.float32)):
        types = tables | exact | dict.fromkeys(("qkv", "out", "grad", "dqkv"), kind)
        blocks = launches.BLOCKS
        sizes = {"QUERIES": blocks.queries, "KEYS": blocks.keys, "WIDTH": 16, "KIND": inside, "SOME": True}
        for kernel in (kernels.attend, kernels.query_gradients, kernels.key_gradients, kernels.bias_gradient):
            jobs[f"window_attention.{kernel.__name__}.{kind}"] = Job(
                kernel=kernel, pointers=types, constants=sizes, warps=blocks.warps, kinds={"scale": "fp32"}
            )
    return jobs


def image_jobs() -> dict[str, Job]:
    from medvit.kernels.overlap_add import triton_kernels as blending
    from medvit.kernels.resample_argmax import triton_kernels as choosing

    jobs = {}
    tables = {f"{axis}{end}": kind for axis in "xyz" for end, kind in (("l", "i32"), ("h", "i32"), ("w", "fp32"))}
    for kind in ("bf16", "fp32"):
        jobs[f"resample_argmax.choose.{kind}"] = Job(
            kernel=choosing.choose, pointers={"logits": kind, "out": "u8", **tables}, constants={"BLOCK": 128}
        )
        sums = {"sums": "fp32", "weights": "fp32", "weight": "fp32", "window": kind, "windows": kind, "out": "fp32"}
        lists = dict.fromkeys(("origins", "first", "listed", "missed"), "i32")
        jobs[f"overlap_add.accumulate.{kind}"] = Job(
            kernel=blending.accumulate, pointers=sums, constants={"FIRST": True, "BLOCK": 256}
        )
        jobs[f"overlap_add.blend.{kind}"] = Job(kernel=blending.blend, pointers=sums | lists, constants={"BLOCK": 256})
    return jobs


def compile_ahead(job: Job, capability: int) -> dict[str, Any]:
    """What the compiler says of one kernel: shared memory, registers and spilled bytes."""
    names = job.kernel.arg_names
    signature = {
        n: "constexpr"
        if n in job.constants
        else f"*{job.pointers[n]}"
        if n in job.pointers
        else job.kinds.get(n, "i32")
        for n in names
    }
    source = ASTSource(job.kernel, signature, job.constants)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": job.warps})
    return {"shared": built.metadata.shared, **_usage(built.asm["cubin"])}


def _usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    said = told.stdout + told.stderr
    return {k.lower(): int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}


def main(names: list[str]) -> None:
    jobs = bi_wkv_jobs() | window_attention_jobs() | image_jobs()
    for name, job in jobs.items():
        if names and not any(name.startswith(n) for n in names):
            continue
        for capability in TARGETS:
            print(json.dumps({"kernel": name, "sm": capability, **compile_ahead(job, capability)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
