"""The planner: peak memory and time of a run before it runs and without its data, and what fits into so much memory."""

from .predict import Prediction, predict
from .shape import GraphShape, made_up, shape_of_config, shape_of_dataset, shape_of_folder

__all__ = [
    "GraphShape",
    "Prediction",
    "made_up",
    "predict",
    "shape_of_config",
    "shape_of_dataset",
    "shape_of_folder",
]
