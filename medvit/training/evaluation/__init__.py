"""How good a bundle is, measured through the path that users take. What is measured stands in configs/evaluate.json."""

from medvit.training.evaluation.calibrating import calibrate, record_calibration
from medvit.training.evaluation.finer import FinerRestoration
from medvit.training.evaluation.judging import evaluate_bundle, evaluation_of, report, scorer
from medvit.training.evaluation.labels import LabelOverlap, dice
from medvit.training.evaluation.part import Part
from medvit.training.evaluation.recording import QUALITY, SCORES, place_for, record_scores, table
from medvit.training.evaluation.restoration import DoseRestoration
from medvit.training.evaluation.synthetic import SyntheticOverlap
from medvit.training.evaluation.two_views import TwoViewOverlap, best_constant, mean_atlas

__all__ = [
    "QUALITY",
    "SCORES",
    "DoseRestoration",
    "FinerRestoration",
    "LabelOverlap",
    "Part",
    "SyntheticOverlap",
    "TwoViewOverlap",
    "best_constant",
    "calibrate",
    "dice",
    "evaluate_bundle",
    "evaluation_of",
    "mean_atlas",
    "place_for",
    "record_calibration",
    "record_scores",
    "report",
    "scorer",
    "table",
]
