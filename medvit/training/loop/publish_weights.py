"""Publication of a checkpoint as a bundle's weights: averaged, fp16, safetensors, with the checksum recorded."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from medvit.bundles import Bundle, narrowed

__all__ = ["publish"]


def publish(bundle: Bundle, state: dict[str, Tensor]) -> str:
    """Write a state dict as the bundle's weights and record its sha256 in metadata.json; return the sha256.

    Index tables, which the architecture determines, are left out, since they would double the file.
    """
    kept = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items() if v.is_floating_point()}
    content = save(*narrowed(kept))
    digest = hashlib.sha256(content).hexdigest()
    _replace(bundle.own_weights, content)
    metadata_path = bundle.root / "configs" / "metadata.json"
    metadata = json.loads(metadata_path.read_text())
    metadata["medvit"]["weights"]["sha256"] = digest
    metadata["medvit"]["state"] = "trained"
    _replace(metadata_path, (json.dumps(metadata, indent=2) + "\n").encode())
    return digest


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
