"""The planner: predicts peak memory and time of a run without its data, and suggests settings that fit a memory."""

from .estimate import Prediction, estimate
from .limits import Choice, Limits, choose_within
from .roofline import MachineRates, rates_of
from .suggest import Suggestion, what_fits
from .synthetic import GraphShape, made_up, shape_of_config, shape_of_dataset, shape_of_folder

__all__ = [
    "Choice",
    "GraphShape",
    "Limits",
    "MachineRates",
    "Prediction",
    "Suggestion",
    "choose_within",
    "estimate",
    "made_up",
    "rates_of",
    "shape_of_config",
    "shape_of_dataset",
    "shape_of_folder",
    "what_fits",
]
