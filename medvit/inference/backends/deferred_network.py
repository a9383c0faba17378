"""A network of a bundle that is built when it is needed. A run on a cached graph needs only its fingerprint.

Building takes a second, most of it for the import of MONAI. The fingerprint is recorded at the first run, together with
everything that the network depends on: the config, the hash of the weights, the versions of the libraries, and the
hashes of the source files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from medvit._version import __version__
from medvit.atomic_write import replace_file
from medvit.inference.backends.network_fingerprint import fingerprint, source_files
from medvit.user_folders import cache_folder

__all__ = ["DeferredNetwork", "built"]


class DeferredNetwork:
    """A network on the CPU in evaluation mode that is built at its first use.

    Args:
        build: function that builds the network.
        config: everything in the config that the network depends on; more does no harm.
        weights_sha256: hash of its weights.

    Attributes:
        training: always False, as for a network in evaluation mode.
        medvit_weights: hash of the weights, as ``load_weights`` sets it on a network.
    """

    training = False

    def __init__(self, build: Callable[[], nn.Module], config: Mapping[str, Any], weights_sha256: str) -> None:
        self._build = build
        self.medvit_weights = weights_sha256
        stated = (dict(config), weights_sha256, torch.__version__, version("monai"), __version__)
        self._key = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()[:32]
        self._network: nn.Module | None = None
        self._lock = RLock()
        self._facts = self._recorded()

    @property
    def is_recorded(self) -> bool:
        """True if the fingerprint is known without building the network."""
        return self._facts is not None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the network."""
        output: Tensor = self.built()(*args, **kwargs)
        return output

    def built(self) -> nn.Module:
        """Return the network; build it at the first call."""
        with self._lock:
            if self._network is None:
                with torch.inference_mode(False):  # tensors made in inference mode could not be trained or exported
                    self._network = self._build()
            return self._network

    def fingerprint(self) -> str:
        """Return the network's fingerprint, from the record or from the network, which is then recorded."""
        return str(self._known()["fingerprint"])

    def parameters(self) -> int:
        """Return the number of parameters."""
        return int(self._known()["parameters"])

    def _known(self) -> dict[str, Any]:
        with self._lock:
            if self._facts is None:
                network = self.built()
                self._facts = {
                    "fingerprint": fingerprint(network),
                    "parameters": sum(parameter.numel() for parameter in network.parameters()),
                    "sources": {file: _sha256(file) for file in source_files(network)},
                }
                self._record(self._facts)
            return self._facts

    @property
    def _file(self) -> Path:
        return cache_folder() / "networks" / f"{self._key}.json"

    def _recorded(self) -> dict[str, Any] | None:
        """Read the recorded facts; return None if there are none, or if a source file has changed since."""
        try:
            facts = json.loads(self._file.read_text())
            same = all(_sha256(file) == digest for file, digest in facts["sources"].items())
            return {**facts, "parameters": int(facts["parameters"])} if same and facts["fingerprint"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _record(self, facts: dict[str, Any]) -> None:
        try:
            with replace_file(self._file) as aside:
                aside.write_text(json.dumps(facts, indent=2))
        except OSError:
            return  # in a cache that cannot be written nothing is recorded, and the network is built in each process


def built(network: Any) -> Any:
    """Return the network of a ``DeferredNetwork``; return any other network unchanged."""
    return network.built() if isinstance(network, DeferredNetwork) else network


def _sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
