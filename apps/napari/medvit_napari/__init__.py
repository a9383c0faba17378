"""napari plugin: opens DICOM folders and image files, runs bundles, shows results on their image, and works with a
label server.
"""

import sys
import warnings

from medvit.cli import installed_binding, known_fault
from medvit.settings import wait_passively

wait_passively()  # napari loads this plugin before torch

if "PySide6" in sys.modules and (_fault := known_fault(installed_binding())) is not None:
    warnings.warn(_fault, RuntimeWarning, stacklevel=2)  # napari shows warnings in its window
