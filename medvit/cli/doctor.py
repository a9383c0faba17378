"""``medvit doctor``: check the parts of this installation and machine."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass

import typer

from medvit.cli.common import FAILED, Debug, Json, Terminal, handle_errors

__all__ = ["doctor"]


@dataclass(frozen=True)
class _Finding:
    what: str
    ok: bool
    detail: str


def _python() -> str:
    from medvit.reports import versions

    return ", ".join(f"{name} {number}" for name, number in versions().items())


def _devices() -> str:
    import torch

    cuda = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    gpus = ", ".join(cuda) if cuda else "no CUDA device"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads), {gpus}; auto runs on {'gpu' if cuda else 'cpu'}"


def _backends() -> str:
    """Describe each backend of the inference engine on this machine; compare OpenVINO, if installed, with fp64."""
    from importlib.util import find_spec

    import torch

    from medvit.inference.backends import devices

    states = devices()
    if find_spec("openvino") is None:
        return f"{states}; auto runs eager"
    from medvit.inference.backends import graph_of
    from medvit.user_folders import cache_folder

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.GELU()
    ).eval()
    window = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, found = network.double()(window.double()), graph_of(network.float(), window)(window)
    error = float((found - exact).norm() / exact.norm())
    if not error <= 1e-4:
        raise ArithmeticError(f"OpenVINO's relative error is {error:.1e} against fp64")
    return (
        f"{states}; auto runs openvino for large networks of bundles where it was measured to be faster, else eager; OpenVINO's relative "
        f"error {error:.1e} against fp64; graphs are kept in {cache_folder()}"
    )


def _small_operators() -> str:
    """Check blending, resampling with argmax and the search for constant windows on cases with known results."""
    import torch

    from medvit.kernels.occupied_windows import occupied_windows
    from medvit.kernels.overlap_add import overlap_add
    from medvit.kernels.resample_argmax import resample_argmax

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 12, generator=generator)
    origins = torch.tensor([[0], [2], [4]])
    weight = torch.rand(8, generator=generator) + 0.1
    blended = overlap_add(torch.stack([image[:, o : o + 8] for o in (0, 2, 4)]), origins, (12,), weight)
    error = float((blended - image).abs().max())
    logits = torch.rand(4, 6, 5, 7, generator=generator)
    wanted = torch.nn.functional.interpolate(logits[None], size=(11, 9, 8), mode="trilinear", align_corners=False)[0]
    same = float((resample_argmax(logits, out_shape=(11, 9, 8)) == wanted.argmax(0)).float().mean())
    flat = torch.zeros(1, 1, 12)
    flat[..., 9] = 1
    found = occupied_windows(flat, (4,), torch.tensor([[0], [4], [8]])).tolist()
    if error > 1e-6 or same < 1 or found != [[False, False, True]]:
        raise ArithmeticError(f"blending off by {error:.1e}, argmax equal at {same:.4%}, occupied windows {found}")
    return f"overlap_add exact to {error:.0e}, resample_argmax equal to interpolation and argmax, occupied_windows right; plain PyTorch"


def _window_attention() -> str:
    """Compare the CPU path with the fp64 formula on a small shifted, padded case."""
    import torch

    from medvit.kernels.window_attention import window_attention

    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 9, 8, 5, 36, generator=generator)
    table = torch.randn(7 * 7 * 7, 3, generator=generator)
    options = {"num_heads": 3, "window_size": (4, 4, 4), "shift": (2, 2, 2)}
    fast = window_attention(qkv, table, **options)  # type: ignore[arg-type]
    exact = window_attention(qkv.double(), table.double(), backend="reference", **options)  # type: ignore[arg-type]
    error = float((fast - exact).norm() / exact.norm())
    if error > 1e-5:
        raise ArithmeticError(f"relative error {error:.1e} against the fp64 formula")
    return f"float32 on the CPU takes the 'cpu' path (numba); relative error {error:.1e} against the fp64 formula"


def _bi_wkv() -> str:
    """Compare the default path and its gradients with the fp64 formula, on a short sequence with widely spread keys."""
    import torch

    from medvit.kernels.bi_wkv import bi_wkv

    generator = torch.Generator().manual_seed(0)
    w, u = torch.randn(2, 5, generator=generator)
    k, v = torch.randn(2, 1, 70, 5, generator=generator)
    k[:, ::9] *= 30
    single = [x.clone().requires_grad_() for x in (w, u, k, v)]
    double = [x.double().requires_grad_() for x in (w, u, k, v)]
    fast, exact = bi_wkv(*single), bi_wkv(*double, backend="reference")
    pairs = [(fast.detach(), exact.detach())]
    pairs += zip(
        torch.autograd.grad(fast.square().sum(), single), torch.autograd.grad(exact.square().sum(), double), strict=True
    )
    error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    if not error <= 1e-5:
        raise ArithmeticError(f"relative error {error:.1e} against the fp64 formula")
    return f"float32 on the CPU takes the 'cpu' path (numba); relative error {error:.1e} against the fp64 formula, gradients included"


def _decoders() -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

    known = {
        "RLE": RLELossless,
        "JPEG 2000": JPEG2000Lossless,
        "JPEG-LS": JPEGLSLossless,
        "JPEG lossless": JPEGLosslessSV1,
    }
    states = [f"{name} {'yes' if get_decoder(uid).is_available else 'no'}" for name, uid in known.items()]
    return "uncompressed yes, " + ", ".join(states)


def _bundles() -> str:
    from medvit.bundles import bundle_folders, open_bundle

    states = []
    for name in bundle_folders():
        bundle = open_bundle(name)
        if bundle.state in ("trained", "fetched", "imported"):
            bundle.verify()
        states.append(f"{name} {bundle.version} ({bundle.state})")
    return ", ".join(states) or "none installed"


def _windows() -> str:
    from medvit.cli.qt_binding import installed_binding, known_fault

    found = installed_binding()
    fault = known_fault(found)
    if fault is not None:
        raise RuntimeError(fault)
    return (
        f"{found[0]} {found[1]}" if found else "no Qt binding installed; the napari plugin needs one (docs/napari.md)"
    )


def _disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 1:
        raise OSError(f"{free:.2f} GiB free here; a large result needs about 1 GiB")
    return f"{free:.0f} GiB free here"


_CHECKS: dict[str, Callable[[], str]] = {
    "versions": _python,
    "devices": _devices,
    "backends": _backends,
    "window_attention": _window_attention,
    "bi_wkv": _bi_wkv,
    "other operators": _small_operators,
    "DICOM decoders": _decoders,
    "bundles": _bundles,
    "windows": _windows,
    "disk": _disk,
}


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Check versions, devices, operators, decoders and bundles; exit 1 if a part does not work."""
    shown = Terminal(json=as_json, debug=debug)
    findings = []
    with handle_errors(shown):
        for what, check in _CHECKS.items():
            try:
                findings.append(_Finding(what, True, check()))
            except Exception as error:
                if debug:
                    raise
                findings.append(_Finding(what, False, f"{type(error).__name__}: {error}"))
            shown.say(f"{'ok  ' if findings[-1].ok else 'FAIL'}  {what}: {findings[-1].detail}")
        if as_json:
            typer.echo(json.dumps([asdict(f) for f in findings], indent=2))
    if not all(f.ok for f in findings):
        raise typer.Exit(FAILED)
