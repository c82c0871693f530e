"""The planner: peak memory and time of a run before it runs and without its data, and what fits into so much memory."""

from .fits import Suggestion, what_fits
from .predict import Prediction, predict
from .rates import Rates, rates_of
from .shape import GraphShape, made_up, shape_of_config, shape_of_dataset, shape_of_folder

__all__ = [
    "GraphShape",
    "Prediction",
    "Rates",
    "Suggestion",
    "made_up",
    "predict",
    "rates_of",
    "shape_of_config",
    "shape_of_dataset",
    "shape_of_folder",
    "what_fits",
]
