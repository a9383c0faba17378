"""GPU benchmark in one call: compile, check against the formulas in fp64, then measure against the peers.

python benchmarks/gpu.py [--peer PATH] [--runs 50] [--only bi_wkv window_attention overlap_add resample_argmax network]

Times are medians of CUDA events after a warm-up, peer and medvit in turn. PATH: a folder with the published
Restore-RWKV kernel (such as ``bi_wkv.cpp`` and ``bi_wkv.cu``), which is built there; its result is compared with the
paper's formula.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_PEER_LIMIT = 0.1
"""Relative L2 error against the formula above which a peer counts as built or called wrongly."""

PARTS = ("bi_wkv", "window_attention", "overlap_add", "resample_argmax", "network")


def in_turn(actions: list[Callable[[], object]], runs: int) -> list[float]:
    """Return the median milliseconds of each action, run in turn."""
    times: list[list[float]] = [[] for _ in actions]
    for n in range(runs + 5):
        for action, told in zip(actions, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            action()
            end.record()
            end.synchronize()
            if n >= 5:
                told.append(start.elapsed_time(end))
    return [statistics.median(told) for told in times]


def graphed(action: Callable[[], object]) -> Callable[[], object]:
    """Capture the launches as a CUDA graph, which runs without Python between them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            action()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-30))


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def copy_rate() -> float:
    """Measure the bytes per millisecond, read and written, of a large copy; the memory floors below use it."""
    a, b = (torch.empty(2**28, dtype=torch.float32, device="cuda") for _ in range(2))
    return 2 * a.numel() * 4 / in_turn([lambda: b.copy_(a)], 10)[0]


def bi_wkv_part(given: argparse.Namespace) -> None:
    from medvit.kernels.bi_wkv import bi_wkv
    from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d

    rate = copy_rate()
    peer = build_peer(given.peer) if given.peer else None
    print(
        "\n## Bi-WKV\n\n| input | work | peer ms | medvit ms | ratio | of the memory floor | error of ours | of the peer |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for side in (128, 512):
            torch.manual_seed(0)
            w, u = torch.randn(2, 48, device="cuda") / side**2
            k, v = torch.randn(2, 1, side**2, 48, device="cuda").to(dtype)
            k, v = k.requires_grad_(), v.requires_grad_()
            inputs = [w.requires_grad_(), u.requires_grad_(), k, v]
            doubled = [x.detach().double().requires_grad_() for x in inputs]
            exact = bi_wkv(*doubled, backend="torch")
            wanted = [exact, *torch.autograd.grad(exact.square().sum(), doubled)]

            def forward(inputs=inputs) -> Tensor:
                with torch.no_grad():
                    return bi_wkv(*inputs, backend="triton")

            def step(inputs=inputs) -> tuple[Tensor, ...]:
                return torch.autograd.grad(bi_wkv(*inputs, backend="triton").square().sum(), inputs)

            def theirs(inputs=inputs) -> Tensor:
                with torch.no_grad():
                    return peer(*inputs) if peer else bi_wkv(*inputs, backend="torch")

            name = f"{side}^2 x 48, {str(dtype)[6:]}"
            floor = 3 * k.numel() * k.element_size() / rate
            error, theirs_error = relative(forward(), exact), relative(theirs(), exact)
            a, b = in_turn([theirs, graphed(forward)], given.runs)
            row(name, "forward" + ("" if peer else " (peer: prefix sums)"), a, b, a / b, b / floor, error, theirs_error)
            errors = max(relative(f, x) for f, x in zip(step(), wanted[1:], strict=True))
            row(name, "forward + backward", "", in_turn([step], given.runs)[0], "", "", errors, "")
            image = [x.detach().view(1, side, side, 48) for x in (k, v, v)]
            ww, uu = (x.detach().repeat(2, 1) for x in (w, u))

            def both(image=image, ww=ww, uu=uu) -> Tensor:
                return bi_wkv_2d(ww, uu, *image, backend="triton")

            doubled = [x.double() for x in (ww, uu, *image)]
            error = relative(both(), bi_wkv_2d(*doubled, backend="torch"))
            row(name, "both scans and gate", "", in_turn([graphed(both)], given.runs)[0], "", "", error, "")


def build_peer(folder: str) -> Callable[..., Tensor]:
    """Build the published kernel as (w, u, k, v) -> y; its T is fixed at compile time by a macro."""
    from torch.utils.cpp_extension import load

    files = [str(f) for f in sorted(Path(folder).rglob("*")) if f.suffix in (".cpp", ".cu")]
    if not files:
        sys.exit(f"Found no .cpp or .cu under {folder}; the published kernel's folder is needed. Check --peer.")
    built = load(
        "published_bi_wkv", files, extra_cuda_cflags=["-O3", "--use_fast_math", "-DTmax=1048576"], verbose=False
    )
    return checked_peer(called_as_published(built))


def called_as_published(built: object) -> Callable[..., Tensor]:
    """Wrap either of the two published bindings: one returns y, the other fills a given buffer.

    The buffer is filled with NaN first, so that elements which the kernel does not write are noticed.
    """

    def plain(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        return [t.detach().float().contiguous() for t in tensors]

    def returning(*tensors: Tensor) -> Tensor:
        return built.bi_wkv_forward(*plain(tensors))

    def filling(*tensors: Tensor) -> Tensor:
        given = plain(tensors)
        y = torch.full_like(given[3], float("nan"))
        built.forward(*given[2].shape, *given, y)
        return y

    if hasattr(built, "bi_wkv_forward"):
        return returning
    if hasattr(built, "forward"):
        return filling
    sys.exit(
        "Found neither bi_wkv_forward nor forward in what was built; check that --peer holds the published kernel."
    )


def checked_peer(peer: Callable[..., Tensor], device: str = "cuda") -> Callable[..., Tensor]:
    """Return the peer if its result is correct; otherwise it is not timed. Its rounding errors are far below the
    limit."""
    g = torch.Generator().manual_seed(0)
    w, u = (torch.randn(2, 48, generator=g) / 4096).to(device)
    k, v = torch.randn(2, 1, 4096, 48, generator=g).to(device)
    from medvit.kernels.bi_wkv import bi_wkv

    found = peer(w, u, k, v)
    exact = bi_wkv(*(t.double() for t in (w, u, k, v)), backend="torch")
    fits = isinstance(found, Tensor) and found.shape == exact.shape
    if not fits or not bool(torch.isfinite(found).all()) or relative(found, exact) > _PEER_LIMIT:
        told = f"relative error {relative(found, exact):.2g}" if fits else f"a {type(found).__name__} of another shape"
        sys.exit(
            f"Found that the peer gives {told} against the formula, at most {_PEER_LIMIT} is allowed; nothing was measured. "
            "Check --peer, or leave it out."
        )
    return peer


def window_attention_part(given: argparse.Namespace) -> None:
    from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask

    from medvit.kernels.window_attention import window_attention

    print("\n## Window attention, bf16, shifted, with norm and projection\n")
    print(
        "| stage | work | MONAI SDPA ms | FlexAttention ms | medvit ms | ratio to MONAI | to Flex | ours - MONAI, relative |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for roi, side, channels, heads in ((96, 48, 48, 3), (96, 24, 96, 6), (128, 64, 48, 3), (128, 32, 96, 6)):
        torch.manual_seed(0)
        block = SwinTransformerBlock(channels, heads, (7, 7, 7), (3, 3, 3), use_flash_attention=True).cuda()
        x = torch.randn(1, side, side, side, channels, device="cuda", requires_grad=True)
        padded = [-(-side // 7) * 7] * 3
        mask = compute_mask(padded, (7, 7, 7), (3, 3, 3), x.device)
        wanted = [x, block.attn.relative_position_bias_table, block.attn.qkv.weight]

        def theirs(block=block, x=x, mask=mask) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return block.forward_part1(x, mask)

        def ours(block=block, x=x, heads=heads, windows=None) -> Tensor:
            attention = block.attn
            with torch.autocast("cuda", torch.bfloat16):
                mixed = window_attention(
                    attention.qkv(block.norm1(x)), attention.relative_position_bias_table, num_heads=heads,
                    window_size=(7, 7, 7), shift=(3, 3, 3), qkv_bias=attention.qkv.bias, windows=windows, backend="triton",
                )  # fmt: skip
                return attention.proj(mixed)

        def step(path, wanted=wanted) -> tuple[Tensor, ...]:
            return torch.autograd.grad(path().float().square().sum(), wanted)

        flex = flex_attention(padded, channels, heads)
        with torch.no_grad():
            apart = relative(ours(), theirs())
            a, c = in_turn([graphed(theirs), graphed(ours)], given.runs)
            b = in_turn([flex], given.runs)[0]
        row(f"{roi}^3, {side}^3 x {channels}", "forward", a, f"{b:.3g} (attention alone)", c, a / c, b / c, apart)
        slopes = max(relative(f, t) for f, t in zip(step(ours), step(theirs), strict=True))
        a, c = in_turn([lambda: step(theirs), lambda: step(ours)], given.runs)
        row("", "forward + backward", a, "", c, a / c, "", slopes)
        count = (padded[0] // 7) ** 3
        with torch.no_grad():
            qkv = block.attn.qkv(block.norm1(x)).bfloat16()
            table, bias = block.attn.relative_position_bias_table, block.attn.qkv.bias

            def sparse(windows, qkv=qkv, table=table, bias=bias, heads=heads) -> Tensor:
                options = {"num_heads": heads, "window_size": (7, 7, 7), "shift": (3, 3, 3), "backend": "triton"}
                return window_attention(qkv, table, qkv_bias=bias.to(qkv), windows=windows, **options)

            if table.dtype != qkv.dtype:
                table = table.float()
            for share in (0.25, 0.5):
                listed = torch.randperm(count)[: round(count * share)].cuda()
                full, part = in_turn([lambda: sparse(None), lambda: sparse(listed)], given.runs)  # noqa: B023
                row(
                    "",
                    f"occupied {len(listed) / count:.0%} of the windows",
                    "",
                    "",
                    part,
                    "",
                    "",
                    f"{part / full:.1%} of dense",
                )


def flex_attention(padded: list[int], channels: int, heads: int) -> Callable[[], object]:
    """Make FlexAttention on partitioned windows, with bias table and shift mask in its score function."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    from medvit.kernels.window_attention.layout import window_layout

    layout = window_layout(tuple(padded), (7, 7, 7), (3, 3, 3))
    relative_index = torch.from_numpy(layout.relative).cuda()
    region = torch.from_numpy(layout.region).cuda()
    table = torch.randn(13**3, heads, device="cuda")
    q, k, v = torch.randn(3, len(layout.token), heads, 343, channels // heads, device="cuda", dtype=torch.bfloat16)

    def score(s, b, h, i, j):
        return s + table[relative_index[i, j], h] - 100.0 * (region[b, i] != region[b, j])

    compiled = torch.compile(flex, dynamic=False)
    return lambda: compiled(q, k, v, score_mod=score)


def overlap_add_part(given: argparse.Namespace) -> None:
    from medvit.kernels.overlap_add import overlap_add

    torch.manual_seed(0)
    starts = torch.arange(0, 97, 48)
    origins = torch.cartesian_prod(starts, starts, starts)
    windows = torch.randn(len(origins), 14, 96, 96, 96, device="cuda").half()
    weight = torch.rand(96, 96, 96, device="cuda") + 0.1
    size = (192, 192, 192)
    paths = [
        lambda name=name: overlap_add(windows, origins, size, weight, backend=name) for name in ("torch", "triton")
    ]
    apart = float((paths[0]() - paths[1]()).abs().max())
    a, b = in_turn(paths, max(5, given.runs // 5))
    print(
        "\n## Overlap-add, 27 windows of 96^3, 14 classes, half precision\n\n| PyTorch ms | medvit ms | ratio | largest difference |\n|---|---|---|---|"
    )
    row(a, b, a / b, apart)


def resample_argmax_part(given: argparse.Namespace) -> None:
    from torch.nn import functional as F

    from medvit.kernels.resample_argmax import resample_argmax

    logits = torch.randn(14, 128, 128, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    out = (256, 256, 256)

    def theirs() -> Tensor:
        return F.interpolate(logits[None], size=out, mode="trilinear")[0].argmax(0)

    def ours() -> Tensor:
        return resample_argmax(logits, out_shape=out, backend="triton")

    differ = int((theirs() != ours().long()).sum())
    a, b = in_turn([theirs, ours], max(5, given.runs // 5))
    print(
        "\n## Resample and choose, 14 classes, 128^3 to 256^3\n\n| F.interpolate, argmax ms | medvit ms | ratio | voxels that differ |\n|---|---|---|---|"
    )
    row(a, b, a / b, f"{differ} of {256**3}")


def network_part(given: argparse.Namespace) -> None:
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    from medvit.segmentation import SwinUNETR

    print("\n## Swin UNETR, feature size 48, bf16 autocast, batch 1\n")
    print(
        "| ROI | part | MONAI eager ms | MONAI SDPA ms | medvit ms | ratio to eager | to SDPA | difference, relative |\n|---|---|---|---|---|---|---|---|"
    )
    for roi in (96, 128):
        torch.manual_seed(0)
        eager = MonaiSwinUNETR(1, 14, feature_size=48).cuda().eval()
        flash = MonaiSwinUNETR(1, 14, feature_size=48, use_flash_attention=True).cuda().eval()
        ours = SwinUNETR(1, 14, feature_size=48).cuda().eval()
        for network in (flash, ours):
            network.load_state_dict(eager.state_dict())
        image = torch.rand(1, 1, roi, roi, roi, device="cuda")
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for name in ("encoder", "whole"):
                calls = [
                    (lambda n=n: n.swinViT(image, True)) if name == "encoder" else (lambda n=n: n(image))  # noqa: B023
                    for n in (eager, flash, ours)
                ]
                a, b, c = in_turn(calls, max(5, given.runs // 5))
                last = [call() for call in calls]
                first, third = (x if isinstance(x, Tensor) else x[-1] for x in (last[0], last[2]))
                row(f"{roi}^3", name, a, b, c, a / c, b / c, relative(third, first))


def check_all() -> None:
    """Check every kernel against the formula in fp64 on odd sizes, before anything is timed."""
    from medvit.kernels.bi_wkv import bi_wkv
    from medvit.kernels.window_attention import window_attention

    print("## Checks against fp64\n\n| operator | result | gradients |\n|---|---|---|")
    torch.manual_seed(0)
    w, u = torch.randn(2, 11, device="cuda")
    k, v = 20 * torch.randn(2, 2, 1037, 11, device="cuda")
    cases: list[tuple[str, Callable[..., Tensor], list[Tensor]]] = [
        ("bi_wkv, keys to 60", bi_wkv, [w.abs() * 0.01, u, k.clamp(-60, 60), v])
    ]
    options = {"num_heads": 3, "window_size": (7, 7, 7), "shift": (3, 3, 3)}

    def attention(qkv: Tensor, table: Tensor, bias: Tensor, backend: str) -> Tensor:
        return window_attention(qkv, table, qkv_bias=bias, backend=backend, **options)

    qkv = torch.randn(2, 17, 9, 23, 144, device="cuda")
    cases.append(("window_attention, odd, padded", attention, [qkv, torch.randn(2197, 3, device="cuda"), torch.randn(144, device="cuda")]))  # fmt: skip
    failed = []
    for name, call, tensors in cases:
        single = [x.clone().requires_grad_() for x in tensors]
        double = [x.double().requires_grad_() for x in tensors]
        a, b = call(*single, backend="triton"), call(*double, backend="torch" if call is bi_wkv else "reference")
        slopes = zip(torch.autograd.grad(a.square().sum(), single), torch.autograd.grad(b.square().sum(), double), strict=True)  # fmt: skip
        told = relative(a, b), max(relative(x, y) for x, y in slopes)
        row(name, *told)
        again = torch.autograd.grad(call(*single, backend="triton").square().sum(), single)
        once = torch.autograd.grad(call(*single, backend="triton").square().sum(), single)
        if not max(told) < 1e-4 or not all(torch.equal(x, y) for x, y in zip(again, once, strict=True)):
            failed.append(name)
    if failed:
        sys.exit(f"Not equal to the formula, or not the same twice: {', '.join(failed)}. Nothing was measured.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="folder of the published Bi-WKV CUDA kernel")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            f"Found no CUDA device (torch {torch.__version__}); this script measures GPU kernels. Run it on a machine with one, "
            "with torch for CUDA; without, tests/kernels/test_triton.py interprets and compiles them."
        )
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, copy {copy_rate() / 1e9:.2f} TB/s\n"
    )
    check_all()
    for part in given.only:
        globals()[f"{part}_part"](given)


if __name__ == "__main__":
    main()
