"""Recipe: a bundle's training config as an object with objective, sampling and loop settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from monai.bundle import ConfigParser

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.training.data import SamplerConfig
from medvit.training.loop import LoopSettings
from medvit.training.objectives import Objective

__all__ = ["Recipe", "read_recipe"]


@dataclass(frozen=True)
class Recipe:
    """Content of a bundle's train.json.

    Attributes:
        objective: the network and its loss.
        draws: settings from which a sampler is made.
        loop: duration and learning rate.
        name: name of the config; ``train`` makes weights that can be published.
    """

    objective: Objective
    draws: SamplerConfig
    loop: LoopSettings
    name: str = "train"

    def with_steps(self, steps: int | None) -> Recipe:
        """Return the recipe with another number of steps, of which at most a third are cooldown."""
        if steps is None:
            return self
        return replace(
            self, loop=replace(self.loop, steps=steps, cooldown_steps=min(self.loop.cooldown_steps, steps // 3))
        )


def read_recipe(bundle: Bundle, name: str = "train", seed: int | None = None) -> Recipe:
    """Build a recipe from ``configs/<name>.json`` over the bundle's inference.json.

    Args:
        bundle: the bundle.
        name: name of the config.
        seed: replaces the config's ``loop#seed``.

    Raises:
        BundleError: the config is missing, has no recipe or cannot be built, or a seed is given for a config without a
            ``loop``.
    """
    configs = [bundle.root / "configs" / f"{part}.json" for part in ("inference", name)]
    if not configs[1].is_file():
        others = sorted(p.stem for p in configs[1].parent.glob("*.json") if '"recipe"' in p.read_text())
        raise BundleError(
            f"no configs/{name}.json in {bundle.name}",
            "it configures the training",
            f"Choose one that it has: {{recipe={others[0]}}}." if others else "Choose a bundle that has one.",
            option="recipe",
        )
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    if "recipe" not in parser.get():
        raise BundleError(
            f"no 'recipe' in configs/{name}.json of {bundle.name}",
            "{medvit.training.train_bundle()} needs one",
            "Train it by MONAI's own command, which its docs/README.md states.",
            option="medvit.training.train_bundle()",
        )
    parser["bundle_root"] = str(bundle.root)
    if seed is not None:
        if not isinstance(parser.get("loop"), dict):
            raise BundleError(
                f"a seed for configs/{name}.json of {bundle.name}, which has no 'loop' to hold it",
                "a 'loop' is needed to set it",
                "Leave {seed} out, or give the config a 'loop'.",
                option="seed",
            )
        parser["loop#seed"] = seed
    try:
        parser.get_parsed_content("initialize")
        recipe: Recipe = parser.get_parsed_content("recipe")
    except (RuntimeError, TypeError, KeyError, ValueError, ImportError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, BundleError):
            raise cause from None
        raise BundleError(
            f"a configs/{name}.json of {bundle.name} that cannot be built: {str(cause).splitlines()[0]}",
            remedy="Correct it.",
        ) from error
    return replace(recipe, name=name)
