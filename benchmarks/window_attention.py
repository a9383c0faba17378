"""Window attention, forward and backward: MONAI's with ``use_flash_attention=True`` against medvit's, in turn, same
weights.

Both compute the attention half of a Swin block: norm, pad, shift, windows, attention, projection and the inverse steps.
python benchmarks/window_attention.py [--side 48] [--channels 24] [--heads 3] [--runs 5]
"""

from __future__ import annotations

import argparse

import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask
from timing import in_turn
from torch import Tensor

from medvit.kernels.window_attention import window_attention

_WINDOW = (7, 7, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{given.side}^3, {given.channels} channels, {given.heads} heads, float32, {torch.get_num_threads()} threads\n"
    )
    print("| work | MONAI | medvit | ratio (pair by pair, median) | largest difference |\n|---|---|---|---|---|")
    for shift in ((0, 0, 0), (3, 3, 3)):
        block = SwinTransformerBlock(given.channels, given.heads, _WINDOW, shift, use_flash_attention=True)
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
        x = torch.randn(1, given.side, given.side, given.side, given.channels, requires_grad=True)
        padded = [-(-given.side // 7) * 7] * 3
        mask = compute_mask(padded, _WINDOW, (3, 3, 3), x.device)
        wanted = [x, *(p for name, p in block.named_parameters() if name.startswith(("norm1", "attn")))]

        def theirs(block=block, x=x, mask=mask) -> Tensor:
            return block.forward_part1(x, mask)

        def ours(block=block, x=x, shift=shift) -> Tensor:
            attention = block.attn
            mixed = window_attention(
                attention.qkv(block.norm1(x)),
                attention.relative_position_bias_table,
                num_heads=given.heads,
                window_size=_WINDOW,
                shift=shift,
                qkv_bias=attention.qkv.bias,
            )
            return attention.proj(mixed)

        def step(path, wanted=wanted) -> tuple[Tensor, ...]:
            return torch.autograd.grad(path().square().sum(), wanted)

        def forward(path) -> Tensor:
            with torch.no_grad():
                return path()

        apart = float((forward(ours) - forward(theirs)).abs().max())
        slopes = max(float((a - b).norm() / b.norm()) for a, b in zip(step(ours), step(theirs), strict=True))
        name = "shifted" if any(shift) else "unshifted"
        a, b, ratio = in_turn(lambda: forward(theirs), lambda: forward(ours), given.runs)
        print(f"| {name}, forward | {a * 1e3:.0f} ms | {b * 1e3:.0f} ms | {ratio:.2f} | {apart:.1e} |")
        a, b, ratio = in_turn(lambda: step(theirs), lambda: step(ours), given.runs)
        print(
            f"| {name}, forward + backward | {a * 1e3:.0f} ms | {b * 1e3:.0f} ms | {ratio:.2f} | {slopes:.1e} relative, gradients |"
        )


if __name__ == "__main__":
    main()
