"""How good a bundle is, measured through the path that users take. What is measured stands in configs/evaluate.json."""

from medvit.training.evaluation.judging import evaluate_bundle, evaluation_of, report, scorer
from medvit.training.evaluation.labels import LabelOverlap, dice
from medvit.training.evaluation.part import Part
from medvit.training.evaluation.recording import place_for_scores, record_scores, table
from medvit.training.evaluation.restoration import DoseRestoration
from medvit.training.evaluation.two_views import TwoViewOverlap, best_constant

__all__ = [
    "DoseRestoration",
    "LabelOverlap",
    "Part",
    "TwoViewOverlap",
    "best_constant",
    "dice",
    "evaluate_bundle",
    "evaluation_of",
    "place_for_scores",
    "record_scores",
    "report",
    "scorer",
    "table",
]
