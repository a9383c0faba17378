"""Images made from label maps with nothing about contrast known, so that what learns from them works on any contrast.

After SynthSeg (B. Billot et al., Medical Image Analysis 86, 2023): every structure gets a brightness drawn at random, the
head is moved, bent, and scanned by a poor scanner, all anew for each sample. ``Synthesis`` makes one sample from one map,
on CPU or GPU; ``SyntheticSettings`` makes it a recipe's draws.
"""

from medvit.training.synthesis.generator import Synthesis
from medvit.training.synthesis.sampler import SyntheticSampler, SyntheticSettings
from medvit.training.synthesis.settings import Brightness, Pose, Scanner

__all__ = ["Brightness", "Pose", "Scanner", "Synthesis", "SyntheticSampler", "SyntheticSettings"]
