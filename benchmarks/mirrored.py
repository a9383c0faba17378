"""Gain of a bundle's averaging over mirror images (``mirrored`` in inference.json): scores with it and without, in
turn.

python benchmarks/mirrored.py brain_mr_swin_unetr
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from medvit.inference import load_model
from medvit.inference.loaded_bundle import with_options
from medvit.training.evaluation import EvaluationSet, evaluation_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    model = load_model(parser.parse_args().bundle, "cpu")
    if getattr(model.inferer, "mirrored", None) is None:
        parser.error(f"{model.bundle.name} has no 'mirrored' in its inference.json")
    judge = evaluation_of(model.bundle).judge(
        EvaluationSet(bundle=model.bundle, data=None, root=None, split="validation")
    )
    for name, mirrored in (("one answer", None), ("mean of both", model.inferer.mirrored)):
        scores = judge(replace(model, inferer=with_options(model.inferer, mirrored=mirrored)), lambda _: None)
        metric, value = next(iter(scores["metrics"].items()))
        print(f"{name}: {metric} {value:.4f}")


if __name__ == "__main__":
    main()
