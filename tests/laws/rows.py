"""Row of the net: its product, the weights and backend that make it, and the file of expected values."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.laws.products import Product, from_json

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
EXPECTED = Path(__file__).parent / "expected"
RENEW = "python -m tests.laws.digests --write"


@dataclass(frozen=True)
class Place:
    """Folders of a row: an empty folder of its own, and the folder of real images beside the project."""

    folder: Path
    data: Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """A product of medvit that no refactoring may change.

    Attributes:
        name: also that of the file of expected values.
        make: makes the products, by their names.
        bundle: whose shipped weights run; None for weights that the test writes itself.
        backend: that runs the network; restoration, reconstruction and training know eager alone.
        exact: its arithmetic is the same on every processor, so that no voxel may differ anywhere.
        shared: needs the images beside the project.
    """

    name: str
    make: Callable[[Place], dict[str, Product]]
    bundle: str | None = None
    backend: str = "eager"
    exact: bool = False
    shared: bool = False

    @property
    def path(self) -> Path:
        """File of expected values."""
        return EXPECTED / f"{self.name}.json"

    def weights_sha256(self) -> str | None:
        """Hash of the bundle's weights as shipped now."""
        if self.bundle is None:
            return None
        (path,) = (ROOT / "bundles" / self.bundle / "models").glob("*.safetensors")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def describe(self, products: Mapping[str, Product]) -> dict[str, Any]:
        """Return the content of the row's file."""
        return {
            "row": self.name, "bundle": self.bundle, "weights_sha256": self.weights_sha256(), "backend": self.backend,
            "threads": 1, "computed_by": None if self.exact else computed_by(),
            "products": {name: products[name].to_json() for name in sorted(products)},
        }  # fmt: skip

    def stored(self) -> dict[str, Any]:
        """Read the row's file.

        Raises:
            FileNotFoundError: with the command that writes it.
        """
        if not self.path.exists():
            raise FileNotFoundError(
                f"Found no {self.path.name}; the row has no expected values. Write them: {RENEW} {self.name}"
            )
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content


def products_of(content: Mapping[str, Any]) -> dict[str, Product]:
    """Read the products of a row's file."""
    return {name: from_json(product) for name, product in content["products"].items()}


def computed_by() -> str:
    """Describe the environment that floating-point results depend on: libraries, processor, its instructions."""
    import torch

    parts = [f"{name} {_version(name)}" for name in ("torch", "openvino", "numpy", "scipy", "monai", "numba")]
    return ", ".join([*parts, torch.backends.cpu.get_cpu_capability(), _processor()])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """Return family, model and instruction sets of the processor, by which libraries choose their kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = hashlib.sha256(" ".join(sorted(facts.get("flags", "").split())).encode()).hexdigest()[:8]
    return " ".join([facts.get(k, "?") for k in ("vendor_id", "cpu family", "model", "cache size")] + [flags])
