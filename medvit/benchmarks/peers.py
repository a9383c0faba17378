"""MONAI's network in other runtimes, as an informed user would run it: an OpenVINO graph, or ONNX Runtime.

Both take one window at a time and go into MONAI's own ``SlidingWindowInferer``. They compute in fp32 on as many threads
as PyTorch.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import BackendError

__all__ = ["onnx_peer", "openvino_peer"]


def openvino_peer(network: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Convert a network with ``torch.export`` and OpenVINO; return a function from a window to its logits.

    Args:
        network: a network on the CPU, in evaluation mode.
        example: a window; its size is that of all windows.

    Raises:
        BackendError: OpenVINO is not installed, or cannot convert the network.
    """
    _require("openvino", "openvino")
    from medvit.inference.backends import load_openvino, openvino_core

    openvino, core = load_openvino(), openvino_core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}

    def convert() -> Any:
        graph = openvino.convert_model(torch.export.export(network, (example.clone(),), strict=False))
        return core.compile_model(graph, "CPU", options).create_infer_request()

    request = _converted(network, "OpenVINO", convert)

    def run(window: Tensor) -> Tensor:
        request.infer([window.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data)  # valid until the next window

    return run


def onnx_peer(network: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Export a network to ONNX and load it in ONNX Runtime; return a function from a window to its logits.

    Args:
        network: a network on the CPU, in evaluation mode.
        example: a window; its size is that of all windows.

    Raises:
        BackendError: onnxruntime or onnxscript is not installed, or the network cannot be exported.
    """
    for package in ("onnxruntime", "onnxscript"):
        _require(package, "onnxruntime onnxscript")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3

    def convert() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            torch.onnx.export(network, (example.clone(),), str(path), dynamo=True, verbose=False)
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    session = _converted(network, "ONNX Runtime", convert)
    name = session.get_inputs()[0].name

    def run(window: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: window.contiguous().numpy()})[0])

    return run


def _require(package: str, install: str) -> None:
    if find_spec(package) is None:
        raise BackendError(f"no package {package}", "this comparison runs in it", f"pip install {install}")


def _converted(network: nn.Module, runtime: str, convert: Callable[[], Any]) -> Any:
    """Convert without the warnings of torch; name the network and the reason if the conversion fails."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert()
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(
            f"a {type(network).__name__} that {runtime} cannot take ({first})",
            "this comparison needs it converted",
            "Report this with the versions of torch and of the runtime.",
        ) from error
    finally:
        logger.setLevel(level)
