"""Measures the batch norms of a bundle's weights anew on its own training pictures, and publishes the weights with them.

    python benchmarks/measure_norms.py nuclei_barlow_swin [--batches 80]

What norms gather while a network trains weighs a step by a hundredth and lags behind weights that moved for some hundred steps
alone: outlines come out too wide or too narrow. Nothing else of the weights changes, and no validation picture is seen.
"""

from __future__ import annotations

import argparse

from pretraining_nuclei import Budget, measure_norms

from medvit.bundles import open_bundle
from medvit.training.data import DataList, StepDataset
from medvit.training.loop import publish, start_from
from medvit.training.recipe import read_recipe


def main() -> None:
    """Measure and publish."""
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
    # crops behind those that it was trained on
    measure_norms(network, crops, Budget(steps=loop.steps, norm_batches=given.batches))
    print(f"{bundle.name}: sha256 {publish(bundle, network.state_dict())}")


if __name__ == "__main__":
    main()
