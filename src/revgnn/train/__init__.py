"""Training: objectives, optimizers, the loop, checkpoints that resume. Knows no model and no data set."""

from __future__ import annotations

from ..launcher import is_writer, world_size
from .answers import Answer, Answering
from .checkpoint import CheckpointError, check_weights, load_best, load_latest
from .config import TrainConfig
from .curve import Row, Score, read_curve
from .distill import LOGITS_FILE, TeacherOptions, distillation
from .distributed import one_run, own_statistics
from .evaluate import predict
from .interrupt import Interrupted
from .labels import LabelOptions
from .loop import fit
from .objective import LOSSES, METRICS
from .optim import OPTIMIZERS, learning_rate
from .progress import Progress, ProgressBar
from .rehearse import rehearse
from .result import FitResult
from .step import step_seed
from .sums import Sums

__all__ = [
    "LOGITS_FILE",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "Answer",
    "Answering",
    "CheckpointError",
    "FitResult",
    "Interrupted",
    "LabelOptions",
    "Progress",
    "ProgressBar",
    "Row",
    "Score",
    "Sums",
    "TeacherOptions",
    "TrainConfig",
    "check_weights",
    "distillation",
    "fit",
    "is_writer",
    "learning_rate",
    "load_best",
    "load_latest",
    "one_run",
    "own_statistics",
    "predict",
    "read_curve",
    "rehearse",
    "step_seed",
    "world_size",
]
