"""Reference tensors of the published Restore-RWKV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.restoration import RestoreRWKV


@pytest.fixture(scope="module")
def reference(shared) -> dict[str, np.ndarray]:
    with np.load(shared / "parity" / "restore_rwkv_dim16.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture
def published(reference) -> tuple[RestoreRWKV, dict[str, torch.Tensor]]:
    state = {k[3:]: torch.from_numpy(v.astype(np.float32)) for k, v in reference.items() if k.startswith("sd/")}
    return RestoreRWKV(dim=16, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).eval(), state
