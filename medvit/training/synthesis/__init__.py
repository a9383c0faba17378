"""Images made from label maps with nothing about contrast known, so that what learns from them works on any contrast.

After SynthSeg (B. Billot et al., Medical Image Analysis 86, 2023): every structure gets a brightness drawn at random, the
head is moved, bent, and scanned by a poor scanner, all anew for each sample. ``Synthesis`` makes one sample from one map,
on CPU or GPU; ``SyntheticSettings`` makes it a recipe's draws.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
