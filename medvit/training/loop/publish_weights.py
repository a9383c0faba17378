"""Publication of a checkpoint as a bundle's weights: averaged, fp16, safetensors, with the checksum recorded."""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import save
from torch import Tensor

from medvit.atomic_write import replace_file
from medvit.bundles import Bundle, narrowed

__all__ = ["publish"]


def publish(bundle: Bundle, state: dict[str, Tensor]) -> str:
    """Write a state dict as the bundle's weights and record its sha256 in metadata.json; return the sha256.

    Index tables, which the architecture determines, are left out, since they would double the file.
    """
    kept = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items() if v.is_floating_point()}
    content = save(*narrowed(kept))
    digest = hashlib.sha256(content).hexdigest()
    with replace_file(bundle.own_weights) as aside:
        aside.write_bytes(content)
    metadata_path = bundle.root / "configs" / "metadata.json"
    metadata = json.loads(metadata_path.read_text())
    metadata["medvit"]["weights"]["sha256"] = digest
    metadata["medvit"]["state"] = "trained"
    with replace_file(metadata_path) as aside:
        aside.write_text(json.dumps(metadata, indent=2) + "\n")
    return digest
