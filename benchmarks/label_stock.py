"""Label server against MONAI Label's own bundle app: start, first and later inferences, and agreement of the labels.

    python benchmarks/label_stock.py --peer ENVIRONMENT/bin/python [--case SCAN] [--runs 3] [--logs FOLDER]

The peer is monailabel 0.8.5's server with its sample app ``monaibundle``, in its own environment (docs/performance.md
describes how to make it): its own server and ``BundleInferTask``, started as in its documentation. Of medvit it gets
only the bundle, as any bundle of this kind is passed to it: configs, which name transforms of ``medvit``, and the
weights as the ``model.pt`` that it expects. It runs as two servers: with the bundle's ``inference.json`` (network and
sliding window of ``medvit``), and with ``inference_monai.json`` instead (both of MONAI).

medvit's server also runs twice: without the extra ``openvino`` and with it, as ``make label`` installs it.

All servers run at the same time; MONAI Label's client calls them in turn, so that the others are idle.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from medvit_label.self_test import answering, free_port
from monailabel.client import MONAILabelClient

from medvit.bundles import load_weights, open_bundle
from medvit.reports import dice
from medvit.settings import DEFAULT_BUNDLE

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
CASE = SHARED / "data" / "ct_headneck_openkbp" / "pt_201_ct.nii.gz"
OURS, OURS_GRAPH = "medvit label without OpenVINO", "medvit label"
STOCK, STOCK_MONAI = "monaibundle, inference.json", "monaibundle, inference_monai.json"
# hides the package openvino
PLAIN = "import sys; sys.modules['openvino'] = None; from medvit_label.cli import app; app()"
QUESTION = "import monailabel, sys; print(monailabel.__version__, sys.prefix)"


@dataclass(kw_only=True)
class Server:
    """A running server: seconds until it was ready, of each inference and of the windows as reported, and its last
    labels."""

    name: str
    client: MONAILabelClient
    ready: float
    seconds: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)
    labels: np.ndarray | None = None

    def infer(self, image: str) -> None:
        start = time.perf_counter()
        file, told = self.client.infer(DEFAULT_BUNDLE, image, {})
        self.seconds.append(time.perf_counter() - start)
        print(f"{self.name}: {self.seconds[-1]:.2f} s", file=sys.stderr)
        self.network.append(told["latencies"]["infer"])
        self.labels = np.asarray(nib.load(file).dataobj)


def peer_app(prefix: Path, config: str, folder: Path) -> Path:
    """Prepare the sample app as installed, with the bundle in the folder that it reads."""
    shutil.copytree(prefix / "monailabel" / "sample-apps" / "monaibundle", folder)
    source, bundle = open_bundle(DEFAULT_BUNDLE).root, folder / "model" / DEFAULT_BUNDLE
    shutil.copytree(source, bundle, ignore=shutil.ignore_patterns("docs"))
    shutil.copy(source / "configs" / config, bundle / "configs" / "inference.json")
    return folder


def write_model_pt(bundle: Path) -> None:
    """Write the weights in the form that the sample app reads: the same numbers, in the network's type."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network = load_weights(parser.get_parsed_content("network_def"), bundle / "models" / "model.safetensors")
    torch.save(network.state_dict(), bundle / "models" / "model.pt")


@contextmanager
def server(name: str, case: Path, place: Path, peer: Path | None, prefix: Path, config: str) -> Iterator[Server]:
    """Start medvit's server, or the peer's if ``peer`` is given."""
    studies, port = place / "studies", free_port()
    studies.mkdir(parents=True)
    shutil.copy(case, studies)
    common = ["--studies", str(studies), "--port", str(port), "--host", "127.0.0.1"]
    if peer is None:
        ours = ["-c", PLAIN] if name == OURS else ["-m", "medvit_label"]
        command = [sys.executable, *ours, "start", "--bundle", DEFAULT_BUNDLE, "--quiet", *common]
        environment = dict(os.environ)
    else:
        app = peer_app(prefix, config, place / "app")
        write_model_pt(app / "model" / DEFAULT_BUNDLE)
        command = [str(peer), "-m", "monailabel.main", "start_server", "--app", str(app), *common]
        # with any other value than MONAI's zoo the app uses the local bundle and requests no address
        command += ["--conf", "models", DEFAULT_BUNDLE, "--conf", "zoo_source", "ngc"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    with answering(command, url, "/info/", environment, place / "log.txt", " ".join(command)) as ready:
        yield Server(name=name, client=MONAILabelClient(url, tmpdir=str(place)), ready=ready)


def cells(name: str, values: list[str]) -> str:
    return f"| {name} | " + " | ".join(values) + " |"


def times(servers: list[Server], base: Server) -> list[str]:
    """Format the time of each server as a multiple of the base's; for later inferences the median over pairs."""

    def row(name: str, part: slice) -> str:
        pairs = [[a / b for a, b in zip(s.seconds[part], base.seconds[part], strict=True)] for s in servers]
        return cells(f"{name}, times {base.name}", [f"{statistics.median(each):.2f}" for each in pairs])

    ready = [f"{s.ready / base.ready:.2f}" for s in servers]
    return [cells(f"ready, times {base.name}", ready), row("first", slice(0, 1)), row("later", slice(1, None))]


def table(servers: list[Server]) -> list[str]:
    later = [s.seconds[1:] for s in servers]
    return [
        cells("wait", [s.name for s in servers]),
        "|---" * (len(servers) + 1) + "|",
        cells("server ready", [f"{s.ready:.1f} s" for s in servers]),
        cells("first inference", [f"{s.seconds[0]:.2f} s" for s in servers]),
        cells("later inferences, median", [f"{statistics.median(each):.2f} s" for each in later]),
        cells("later inferences, range", [f"{min(each):.2f} to {max(each):.2f} s" for each in later]),
        cells("of a later one, the network's windows", [f"{statistics.median(s.network[1:]):.2f} s" for s in servers]),
        *(row for base in servers if base.name in (OURS, OURS_GRAPH) for row in times(servers, base)),
    ]


def agreement(ours: Server, peer: Server) -> str:
    """Compare a peer's labels with medvit's: share of equal voxels, and Dice of each label."""
    assert ours.labels is not None and peer.labels is not None
    if ours.labels.shape != peer.labels.shape:
        return f"{peer.name}: NOT comparable, {peer.labels.shape} voxels beside {ours.labels.shape}."
    names = {label.id: label.name for label in open_bundle(DEFAULT_BUNDLE).facts.labels}
    each = [f"{name} {dice(ours.labels == n, peer.labels == n):.5f}" for n, name in names.items()]
    different = int((ours.labels != peer.labels).sum())
    share = 1 - different / ours.labels.size
    return f"{peer.name}: {share:.6%} of the voxels equal ({different} of {ours.labels.size} differ); Dice: {', '.join(each)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", type=Path, required=True, help="python of the environment that holds monailabel's server"
    )
    parser.add_argument("--case", type=Path, default=CASE)
    parser.add_argument("--runs", type=int, default=3, help="later inferences of each server")
    parser.add_argument("--logs", type=Path, help="folder for what the servers printed")
    given = parser.parse_args()
    asked = subprocess.run([given.peer, "-c", QUESTION], capture_output=True, text=True, check=True, cwd="/").stdout
    version, prefix = asked.strip().splitlines()[-1].split(" ", 1)
    shape = " x ".join(map(str, nib.load(given.case).shape))
    print(
        f"monailabel {version} beside medvit label; {given.case.name}, {shape}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
    )
    kinds = [(OURS, None, ""), (OURS_GRAPH, None, "")] if find_spec("openvino") else [(OURS, None, "")]
    kinds += [(STOCK, given.peer, "inference.json"), (STOCK_MONAI, given.peer, "inference_monai.json")]
    with tempfile.TemporaryDirectory() as top, ExitStack() as stack:
        if given.logs:
            stack.callback(keep_logs, Path(top), given.logs)
        servers = [
            stack.enter_context(server(name, given.case, Path(top) / str(n), peer, Path(prefix), config))
            for n, (name, peer, config) in enumerate(kinds)
        ]
        for _ in range(given.runs + 1):
            for one in servers:
                one.infer(given.case.name.split(".")[0])
    print("\n".join([*table(servers), "", *(agreement(servers[0], peer) for peer in servers[1:])]))


def keep_logs(top: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in top.glob("*/log.txt"):
        shutil.copy(log, folder / f"server_{log.parent.name}.txt")


if __name__ == "__main__":
    main()
