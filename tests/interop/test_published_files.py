"""Files of published weights: truncated, malicious and of other kinds."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import medvit
from medvit.errors import CheckpointError
from medvit.segmentation import BarlowSwin
from tests.interop.published_weights import swin

# files


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors", "npz"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_truncated_file_is_named(form, share, tmp_path):
    path = tmp_path / "weights.bin"
    state = {"swinViT.a": torch.arange(20_000.0)}
    if form == "safetensors":
        save_file(state, path)
    elif form == "npz":
        with path.open("wb") as file:
            np.savez(file, **{k: v.numpy() for k, v in state.items()})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        CheckpointError, match="Found weights.bin, which is damaged or incomplete.*Download or copy it again"
    ):
        medvit.load_published(swin(), path)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain", "npz"])
def test_a_malicious_pickle_never_runs(form, tmp_path):
    witness = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (os.system, (f"touch {witness}",))

    path = tmp_path / "weights.pt"
    if form == "plain":
        path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    elif form == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.array([Attack()], dtype=object))
    else:
        torch.save({"state_dict": Attack()}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        CheckpointError,
        match="damaged or incomplete"
        if form == "npz"
        else "a pickle that asks for (posix.system|instructions that tensors do not need).*was not loaded",
    ):
        medvit.load_published(swin(), path)
    assert not witness.exists()


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(CheckpointError, match="Found nothing at absent.pt; a file of weights"):
        medvit.load_published(swin(), tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="Found a folder at"):
        medvit.load_published(swin(), tmp_path)
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match=r"Found a Keras file \(a.h5\).*numpy.savez"):
        medvit.load_published(BarlowSwin(embed_dim=16), tmp_path / "a.h5")
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"x")
    with pytest.raises(CheckpointError, match=r"Found a Keras file \(a.keras\)"):
        medvit.load_published(BarlowSwin(embed_dim=16), tmp_path / "a.keras")
    for name, content in (("empty.pt", b""), ("text.pt", b"hello, these are not weights")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"Found {name}, which is damaged or incomplete"):
            medvit.load_published(swin(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="Found a list in list.pt; a mapping from names to tensors"):
        medvit.load_published(swin(), tmp_path / "list.pt")
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    (tmp_path / "whole.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="a pickle that asks for torch.nn.modules.linear.Linear"):
        medvit.load_published(swin(), tmp_path / "whole.pt")
