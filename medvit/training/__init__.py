"""Training what the bundles ship: patches, losses, the loop."""

from medvit.training.loop import LoopSettings, TrainingLoop
from medvit.training.patches import Case, PatchSampler, PatchSettings

__all__ = ["Case", "LoopSettings", "PatchSampler", "PatchSettings", "TrainingLoop"]
