"""Training what the bundles ship: samples, objectives, the one loop."""

from medvit.training.loop import TrainingLoop
from medvit.training.loop_settings import LoopSettings
from medvit.training.patches import Case, PatchSampler, PatchSettings
from medvit.training.recipe import Recipe

__all__ = ["Case", "LoopSettings", "PatchSampler", "PatchSettings", "Recipe", "TrainingLoop"]
