"""Publication of the mean of several sets of a bundle's weights, since averaged snapshots of a run are better than the
last one.

    python benchmarks/average_weights.py BUNDLE WEIGHTS WEIGHTS ...      # files, checkpoints of a run, or names of bundles

Weights are averaged rather than outputs, so inference costs the same (M. Wortsman et al., Model soups, ICML 2022, arXiv
2203.05482). They must come from one run, or from runs that began at the same trained weights; the mean of two random
starts is meaningless.
"""

from __future__ import annotations

import argparse

import torch
from monai.bundle import ConfigParser

from medvit.bundles import open_bundle
from medvit.training.loop import publish
from medvit.training.loop.initial_weights import read_weights


def main() -> None:
    """Average, recompute dependent tensors, and publish."""
    asked = argparse.ArgumentParser()
    asked.add_argument("bundle")
    asked.add_argument("files", nargs="+")
    options = asked.parse_args()
    bundle = open_bundle(options.bundle)
    sets = [read_weights(path) for path in options.files]
    network = ConfigParser(dict(bundle.config)).get_parsed_content("network_def")
    mean = {name: torch.stack([weights[name].float() for weights in sets]).mean(0) for name in sets[0]}
    network.load_state_dict(mean, strict=False)
    if hasattr(network, "refresh"):
        network.refresh()
    print(f"{bundle.name}: the mean of {len(sets)} sets of weights, sha256 {publish(bundle, network.state_dict())}")


if __name__ == "__main__":
    main()
