"""A bundle with a known answer, an asymmetric phantom for it, and DICOM series of any orientation."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from safetensors.torch import save
from torch import Tensor, nn

from medvit.io import flip_lps_ras

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / "bundles" / "headneck_ct_swin_unetr"


class BandNetwork(nn.Module):
    """Network whose class c wins where the scaled intensity is nearest to ``centres[c]``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, *spatial) in 0..1 to logits (batch, class, *spatial)."""
        return -50 * (x - self.centres.view(1, -1, *[1] * (x.ndim - 2))).abs()


def make_bundle(folder: Path) -> Path:
    """Make a copy of the default bundle with another network: same configs, labels and path, other weights."""
    shutil.copytree(DEFAULT, folder, ignore=shutil.ignore_patterns("models", "docs"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {"_target_": "tests.bands.BandNetwork", "classes": 8}
    config["spacing_mm"] = [2.0, 2.0, 2.0]
    config["postprocessing"]["transforms"] = [
        t for t in config["postprocessing"]["transforms"] if "KeepLargest" not in t["_target_"]
    ]
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    content = save({"centres": (torch.arange(8) / 8).half()})
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["state"] = "trained"
    _calibrate(metadata["medvit"], mean_dice=0.9, body_parts=["HEADNECK"])
    for label in metadata["medvit"]["labels"]:
        label["volume_ml"] = [0.05, 100.0]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def _calibrate(section: dict, **known: object) -> None:
    """State eight real cases behind these weights, so that a result can be good."""
    section["validation"] = {"weights_sha256": section["weights"]["sha256"], "real_cases": 8, **known}


DENOISING = ROOT / "bundles" / "ct_denoise_restore_rwkv"


class StencilNetwork(nn.Module):
    """A 3 x 3 mean over each slice plus a constant: a restoration with a known answer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.full((1, 1, 3, 3), 1 / 9))
        self.constant = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(slice, 1, height, width) to the same."""
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return nn.functional.conv2d(padded, self.kernel) + self.constant


def make_restoring_bundle(
    folder: Path, kernel: float | None = 1 / 9, constant_hu: float = 0.0, modality: str = "CT"
) -> Path:
    """The denoising bundle with ``StencilNetwork``; kernel None leaves each pixel as it is."""
    shutil.copytree(DENOISING, folder, ignore=shutil.ignore_patterns("models", "docs"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {"_target_": "tests.bands.StencilNetwork"}
    config["inferer"]["context"] = 0
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    _put_stencil(folder, kernel, constant_hu / 4096)
    if modality != "CT":
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        metadata["medvit"]["modalities"], metadata["medvit"]["values"] = [modality], None
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


SUPERRES = ROOT / "bundles" / "mr_superres_restore_rwkv"


def make_finer_bundle(folder: Path, kernel: float | None = None, constant: float = 0.0) -> Path:
    """The super-resolution bundle with ``StencilNetwork``: kernel None leaves the interpolated pixels as they are."""
    shutil.copytree(SUPERRES, folder, ignore=shutil.ignore_patterns("models"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {"_target_": "tests.bands.StencilNetwork"}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    _put_stencil(folder, kernel, constant)
    return folder


def _put_stencil(folder: Path, kernel: float | None, constant: float) -> None:
    """Weights of ``StencilNetwork``, kept as fp32: ninths rounded to fp16 would shift the mean."""
    weights = torch.full((1, 1, 3, 3), kernel) if kernel else torch.zeros(1, 1, 3, 3)
    if not kernel:
        weights[0, 0, 1, 1] = 1
    content = save({"kernel": weights, "constant": torch.tensor([constant])})
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["state"] = "trained"
    _calibrate(metadata["medvit"], body_parts=["HEADNECK"])
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))


RADIOGRAPHS = ROOT / "bundles" / "headneck_xray_swin_x2s"


class BackProjection(nn.Module):
    """A body is where both views are bright, weaker (label 2) or stronger (label 1): a reconstruction with a known answer."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.25, 0.7]))

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits (batch, 3, x, y, z) from views (batch, 2, side, z) with values in 0..1."""
        both = torch.minimum(image[:, 0, :, None], image[:, 1, None])
        low, high = self.levels
        return torch.stack([low - both, torch.where(both > high, 1.0, -1.0), both - low], 1)


def make_reconstructing_bundle(folder: Path) -> Path:
    """The X-ray bundle with ``BackProjection``."""
    shutil.copytree(RADIOGRAPHS, folder, ignore=shutil.ignore_patterns("models", "docs"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {"_target_": "tests.bands.BackProjection"}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    content = save({"levels": torch.tensor([0.25, 0.7])})
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["state"] = "trained"
    _calibrate(metadata["medvit"], mean_dice=0.9)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def phantom(shape: tuple[int, int, int] = (41, 37, 29)) -> tuple[np.ndarray, np.ndarray]:
    """CT-like values and the labels they stand for, (i, j, k) on RAS axes; no mirror or turn maps it to itself."""
    labels = np.zeros(shape, np.uint8)
    boxes = {
        1: ((4, 13), (5, 30), (4, 12)), 2: ((4, 10), (5, 12), (14, 25)), 3: ((26, 37), (6, 13), (5, 11)),
        4: ((27, 36), (24, 33), (15, 26)), 5: ((16, 24), (20, 28), (8, 14)), 6: ((15, 22), (6, 15), (17, 24)),
        7: ((5, 12), (22, 34), (16, 26)),
    }  # fmt: skip
    for value, box in boxes.items():
        labels[tuple(slice(a, b) for a, b in box)] = value
    values = np.where(labels > 0, labels / 8 * 500 - 200, -1000.0)
    return values.astype(np.int16), labels


def all_orientations() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The 48 ways to store a volume: an order of axes and a sign for each."""
    return list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def reorient(
    array: np.ndarray, affine: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same volume stored with other axes: new axis n is old axis ``order[n]``, reversed where the sign is -1."""
    moved = array.transpose(order)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, old in enumerate(order):
        if signs[new] < 0:
            moved = np.flip(moved, new)
            change[old, new], change[old, 3] = -1, array.shape[old] - 1
        else:
            change[old, new] = 1
    return np.ascontiguousarray(moved), affine @ change


def undo(array: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """The inverse of ``reorient`` on the array."""
    for new, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, new)
    return array.transpose(np.argsort(order))


def oblique_affine(spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), degrees: float = 17.0) -> np.ndarray:
    """A rotated, off-centre affine to RAS+."""
    a, b = np.radians([degrees, degrees / 2])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rz = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rx @ rz @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 107.125)
    return affine


def write_series(folder: Path, array: np.ndarray, affine: np.ndarray, **changes: object) -> list[Path]:
    """A DICOM series of an (i, j, k) volume with an affine to RAS+: i along rows, j down, k through slices.

    Files are named, numbered and given instance numbers at random. ``changes`` set attributes of every slice; a
    callable value gets the slice's index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = flip_lps_ras(affine)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    random = np.random.default_rng(3).permutation(array.shape[2])
    paths = []
    for k in range(array.shape[2]):
        d = pydicom.Dataset()
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, generate_uid()
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Secret^Person", "ID-4711", "19500102", "O"
        d.StudyDate, d.StudyTime, d.AccessionNumber, d.StudyID, d.ReferringPhysicianName = (
            "20200203",
            "101112",
            "ACC-9",
            "S1",
            "",
        )
        d.Modality, d.Manufacturer, d.SeriesNumber, d.InstanceNumber = "CT", "maker", 4, int(random[k]) + 1
        d.PositionReferenceIndicator, d.ImageType = "", ["ORIGINAL", "PRIMARY", "AXIAL"]
        sides = np.linalg.norm(lps[:3, :3], axis=0)
        d.PixelSpacing = [f"{sides[1]:.10g}", f"{sides[0]:.10g}"]
        d.SliceThickness = f"{sides[2]:.10g}"
        d.ImageOrientationPatient = [f"{v:.12g}"[:16] for v in (*(lps[:3, 0] / sides[0]), *(lps[:3, 1] / sides[1]))]
        d.ImagePositionPatient = [f"{v:.10g}"[:16] for v in (lps @ (0, 0, k, 1))[:3]]
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = (
            array.shape[1],
            array.shape[0],
            1,
            "MONOCHROME2",
        )
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation, d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 15, 1, 1, 0, "HU"
        d.KVP, d.AcquisitionNumber = "120", "1"
        for name, value in changes.items():
            setattr(d, name, value(k) if callable(value) else value)
        stored = (array[:, :, k].T.astype(np.float64) - float(d.RescaleIntercept)) / float(d.RescaleSlope)
        d.PixelData = np.round(stored).astype(np.int16 if d.PixelRepresentation else np.uint16).tobytes()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = CTImageStorage
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID or generate_uid()
        path = folder / f"x{random[k]:03d}.dcm"
        d.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * float((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))
