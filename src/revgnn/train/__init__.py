"""Training: losses, metrics, optimizers, the loop, checkpoints that resume. Knows no model and no data set."""

from __future__ import annotations

from ..launcher import is_writer, world_size
from .checkpoint import CheckpointError, check_weights, load_best, load_latest
from .config import TrainConfig
from .curve import Row, Score, read_curve
from .distill import LOGITS_FILE, TeacherOptions, distillation
from .distributed.ranks import one_run, own_statistics
from .dry_run import dry_run
from .evaluate import predict
from .inference import Inference, InferenceBatch
from .interrupt import Interrupted
from .label_inputs import LabelOptions
from .losses import LOSSES, Loss
from .metrics import METRICS, Metric
from .optim import OPTIMIZERS, learning_rate
from .progress import Progress, ProgressBar
from .result import FitResult
from .row_sums import Sums
from .step import step_seed
from .trainer import fit

__all__ = [
    "LOGITS_FILE",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "CheckpointError",
    "FitResult",
    "Inference",
    "InferenceBatch",
    "Interrupted",
    "LabelOptions",
    "Loss",
    "Metric",
    "Progress",
    "ProgressBar",
    "Row",
    "Score",
    "Sums",
    "TeacherOptions",
    "TrainConfig",
    "check_weights",
    "distillation",
    "dry_run",
    "fit",
    "is_writer",
    "learning_rate",
    "load_best",
    "load_latest",
    "one_run",
    "own_statistics",
    "predict",
    "read_curve",
    "step_seed",
    "world_size",
]
