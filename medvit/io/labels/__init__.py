"""Reading others' results: SEG, RTSTRUCT and label maps as one kind of value, on any grid."""

from medvit.io.labels.model import Grid, LabelSet, Origin, Segment
from medvit.io.labels.reading import read_labels

__all__ = ["Grid", "LabelSet", "Origin", "Segment", "read_labels"]
