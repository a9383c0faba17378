"""Recomputation of the batch-norm statistics of a bundle's weights on its training pictures, and publication of the
result.

    python benchmarks/measure_norms.py nuclei_barlow_swin [--batches 80]

The running statistics of norms weight each step by 1 % and lag behind weights that changed for only some hundred steps:
outlines come out too wide or too narrow. Other weights are unchanged, and no validation picture is used.
"""

from __future__ import annotations

import argparse

from pretraining_nuclei import Budget, measure_norms

from medvit.bundles import open_bundle
from medvit.training.data import DataList, StepDataset
from medvit.training.loop import publish, start_from
from medvit.training.recipe import read_recipe


def main() -> None:
    """Recompute the statistics and write the weights into the bundle."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("bundle")
    asked.add_argument("--batches", type=int, default=80)
    given = asked.parse_args()
    bundle = open_bundle(given.bundle)
    recipe = read_recipe(bundle)
    network = recipe.objective.network
    print(start_from(network, given.bundle))
    loop = recipe.loop
    crops = StepDataset(recipe.draws.sampler(bundle, DataList(), loop.seed), loop.batch_size, loop.seed)
    # crops after those of the training
    measure_norms(network, crops, Budget(steps=loop.steps, norm_batches=given.batches))
    print(f"{bundle.name}: sha256 {publish(bundle, network.state_dict())}")


if __name__ == "__main__":
    main()
