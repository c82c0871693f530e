"""Training: objectives, optimizers, the loop, checkpoints that resume. Knows no model and no data set."""

from __future__ import annotations

from .checkpoint import CheckpointError, check_weights, load_best, load_latest
from .config import TrainConfig
from .curve import Row, Score, read_curve
from .evaluate import predict
from .interrupt import Interrupted
from .loop import FitResult, fit, step_seed
from .objective import LOSSES, METRICS
from .optim import OPTIMIZERS, learning_rate
from .progress import Progress, ProgressBar

__all__ = [
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "CheckpointError",
    "FitResult",
    "Interrupted",
    "Progress",
    "ProgressBar",
    "Row",
    "Score",
    "TrainConfig",
    "check_weights",
    "fit",
    "learning_rate",
    "load_best",
    "load_latest",
    "predict",
    "read_curve",
    "step_seed",
]
