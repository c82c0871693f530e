"""Training: losses, metrics, optimizers, the loop and checkpoints, independent of any model or data set."""

from __future__ import annotations

from ..launcher import is_writer, world_size
from .callbacks import (
    Callback,
    Checkpoints,
    FinalScores,
    KeepOutputs,
    MemoryRecorder,
    ProgressBar,
    Tracking,
    TrainState,
)
from .checkpoint import CheckpointError, check_weights, load_best, load_latest
from .config import TrainConfig
from .curve import Row, Score, read_curve
from .distill import LOGITS_FILE, TeacherOptions, distillation
from .distributed.ranks import one_run, own_statistics
from .dry_run import dry_run
from .evaluate import predict
from .forward import Forward
from .inference import Inference, InferenceBatch
from .label_inputs import LabelOptions
from .losses import LOSSES, Loss
from .metrics import METRICS, Metric
from .optim import OPTIMIZERS, learning_rate
from .result import FitResult
from .row_sums import Sums
from .signals import Interrupted
from .step import step_seed
from .trainer import Goal, fit

__all__ = [
    "LOGITS_FILE",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "FinalScores",
    "FitResult",
    "Forward",
    "Goal",
    "Inference",
    "InferenceBatch",
    "Interrupted",
    "KeepOutputs",
    "LabelOptions",
    "Loss",
    "MemoryRecorder",
    "Metric",
    "ProgressBar",
    "Row",
    "Score",
    "Sums",
    "TeacherOptions",
    "Tracking",
    "TrainConfig",
    "TrainState",
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
