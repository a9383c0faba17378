"""Synthesis of images with random contrast from label maps, so that networks trained on them work on any contrast.

As in SynthSeg (B. Billot et al., Medical Image Analysis 86, 2023), every structure has a random brightness, and the
head is moved, deformed, and scanned with artifacts, newly drawn for each sample. ``Synthesis`` makes one sample from
one map, on CPU or GPU; ``SyntheticSettings`` are the sampler settings of a recipe.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
