"""Small volumes and their places, from which tests write series."""

from __future__ import annotations

import numpy as np

from tests.bands import phantom

SMALL = phantom((20, 18, 12))[0]
AXIAL = np.diag([-1.0, -1.0, 2.0, 1.0])
WIDE = np.diag([-2.0, -2.0, 2.0, 1.0])
