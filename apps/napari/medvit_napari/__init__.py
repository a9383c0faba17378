"""The napari plugin: hospital folders in, every result in its place on the anatomy, and a server to label with."""

import sys
import warnings

from medvit.cli import installed_binding, known_fault

if "PySide6" in sys.modules and (_fault := known_fault(installed_binding())) is not None:
    warnings.warn(_fault, RuntimeWarning, stacklevel=2)  # napari shows warnings in its window
