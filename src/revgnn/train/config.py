"""The training configuration, independent of device and data, and the check that a resumed run has the same one.

A run may only resume with its own configuration, except for fields that do not affect the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal, get_args, get_type_hints

from ..data.task import Task
from ..plain_config import flatten
from .distill import TeacherOptions
from .distributed.ranks import ParallelName
from .forward import Precision
from .label_inputs import LabelOptions
from .losses import LOSSES, choose_loss
from .metrics import check_metric
from .optim import OptimizerName, ScheduleName

_LARGEST_SEED = 2**32 - 1

_FREE_ON_RESUME = frozenset(
    {
        "train.accumulate",
        "train.parallel",
        "train.epochs",
        "train.checkpoint_every",
        "train.checkpoint_minutes",
        "train.keep_checkpoints",
        "train.patience",
        "train.max_minutes",
        "loader.prefetch",
        "loader.final_parts",
        "loader.final_views",
    }
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    Examples:
        >>> import revgnn
        >>> config = revgnn.TrainConfig(epochs=200, lr=0.01, schedule="cosine", warmup_epochs=5, patience=30)
    """

    epochs: int = 500
    """Passes over the training batches."""
    accumulate: int = 1
    """Batches that each rank processes per optimizer step; the gradient is the mean over all training rows of the
    step."""
    parallel: ParallelName = "ddp"
    """Distributed training: with "ddp" each rank holds the whole model; with "fsdp" each rank holds a shard of the
    weights, gradients and optimizer state, and gathers the weights when it needs them."""
    sync_batchnorm: bool = True
    """Whether BatchNorm uses the statistics of all ranks' rows; False: of each rank's own batch."""
    optimizer: OptimizerName = "adam"
    """"adam", "adamw" (decay apart from the gradient) or "rmsprop"."""
    lr: float = 0.001
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Weight decay of every parameter; 0: none."""
    weight_decays: tuple[tuple[str, float], ...] = ()
    """Submodules with another weight decay, by name, such as [[stack, 0.01]] for the layers of a network."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up, ``lr * epoch / warmup_epochs``; 0: none."""
    schedule: ScheduleName = "constant"
    """After the warm-up: "constant", or "cosine" towards 0 at the end."""
    clip_norm: float | None = None
    """Largest Euclidean norm of the gradient over all parameters; ``None``: no clipping."""
    ema_decay: float | None = None
    """Decay, in (0, 1), of an exponential moving average (EMA) of the weights over steps. The averaged weights are
    evaluated, selected and saved; 0.99 averages about 100 steps. ``None``: no averaging."""
    loss: str | None = None
    """A key of `LOSSES`: "cross_entropy", "log_cross_entropy" (log-shifted), "bce" (yes or no, NaN unlabelled), "mse";
    ``None``: the default loss of the data's task."""
    class_weight: Literal["none", "balanced"] = "none"
    """Weight of a label in the training loss: "none", every label counts the same; "balanced", inversely to the
    frequency of its class among the training rows. Evaluations weight nothing."""
    select: Literal["metric", "loss"] = "metric"
    """Which score on the valid split selects the best weights: the data set's "metric" (of equal ones, the loss), or
    the "loss"."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    seed: int = 0
    """Seed of all random numbers in training; 0 to 2^32 - 1."""
    precision: Precision = "float32"
    """"float32", or "bf16": bfloat16 autocast of the forward, with weights and loss in float32."""
    checkpoint_every: int | None = 50
    """Epochs between checkpoints; ``None``: only at the end, on interruption, and by ``checkpoint_minutes``."""
    checkpoint_minutes: float | None = 30.0
    """Minutes between checkpoints, which may then fall within an epoch; ``None``: no limit."""
    keep_checkpoints: int = 2
    """Number of checkpoints kept on disk, at least 2, so that the run survives one damaged checkpoint."""
    max_minutes: float | None = None
    """Minutes after which the run ends with the epoch that it is in, as if it were the last; those before a resumption
    count by their steps. ``None``: no limit."""
    patience: int | None = None
    """Early stopping: epochs without a better valid score after which the run ends; ``None``: no early stopping."""
    labels: LabelOptions = field(default_factory=LabelOptions)
    """Training labels as an additional input."""
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    """Knowledge distillation from a teacher's logits."""
    keep_logits: bool = False
    """Whether to write the logits of every node, from the best weights, to logits.safetensors for distillation."""

    def __post_init__(self) -> None:
        self._check_choices()
        if self.loss is not None and self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        self._check_least(1, "epochs", "accumulate", "eval_every", "checkpoint_every", "patience")
        self._check_least(2, "keep_checkpoints")
        self._check_least(0, "weight_decay", "warmup_epochs", "seed")
        if self.seed > _LARGEST_SEED:
            raise ValueError(f"seed must be at most {_LARGEST_SEED}, got {self.seed}")
        for name in ("lr", "clip_norm", "checkpoint_minutes", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        wrong = [f"{name}={decay}" for name, decay in self.weight_decays if not decay >= 0]
        if wrong:
            raise ValueError(f"weight_decays must be at least 0, got {', '.join(wrong)}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule='cosine' needs epochs after the warm-up: epochs={self.epochs}, "
                f"warmup_epochs={self.warmup_epochs}; shorten the warm-up"
            )

    def for_task(self, task: Task, metric: str) -> TrainConfig:
        """Return a copy whose loss is the task's default, if the configuration names none.

        Args:
            task: the task of the data.
            metric: the metric of the run.
        Raises: ValueError: loss, metric or class weight do not fit the task; the message lists those that do.
        """
        check_metric(task, metric)
        if self.class_weight != "none" and task.labels == "numbers":
            raise ValueError(
                f"class_weight={self.class_weight!r} does not go with a {task.name} task, which has no classes; leave "
                "it out"
            )
        return replace(self, loss=choose_loss([task], self.loss))

    def _check_choices(self) -> None:
        hints = get_type_hints(type(self))
        for each in fields(self):
            choices = get_args(hints[each.name])
            if choices and all(isinstance(choice, str) for choice in choices):
                value = getattr(self, each.name)
                if value not in choices:
                    raise ValueError(f"{each.name}={value!r} is unknown; choose one of {', '.join(choices)}")

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


def remedy(config: TrainConfig) -> str:
    """Return advice for a loss or gradient that is not finite."""
    remedies = [] if config.precision == "float32" else ["precision='float32'"]
    remedies.append(f"lr below {config.lr:g}")
    remedies.append("clip_norm=1.0" if config.clip_norm is None else f"clip_norm below {config.clip_norm:g}")
    if not config.warmup_epochs:
        remedies.append("warmup_epochs")
    return "try " + ", ".join(remedies)


def as_json(config: TrainConfig, configuration: Mapping[str, object] | None) -> dict[str, object]:
    """Return a run's configuration as JSON values: ``config`` under "train", next to the caller's entries."""
    whole = {**(configuration or {}), "train": asdict(config)}
    plain: dict[str, object] = json.loads(json.dumps(whole, default=str))
    return plain


def check_same(saved: Mapping[str, object], own: Mapping[str, object]) -> None:
    """Check that a resumed run has the configuration that it was started with.

    Raises: ValueError: the message lists each field that differs, by its dotted name, with both values, or the fields
        that only one configuration has.
    """
    before, now = flatten(saved), flatten(own)
    free = _FREE_ON_RESUME if now["train.schedule"] == "constant" else _FREE_ON_RESUME - {"train.epochs"}
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)} - free
    if changed and changed.isdisjoint(before.keys() & now.keys()):
        raise ValueError(
            "the configuration of the run has other fields, as another version of revgnn may: "
            f"{', '.join(sorted(changed))}; resume it with the version that began it, or choose another folder"
        )
    if changed:
        differences = [f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in sorted(changed)]
        raise ValueError(
            f"a run resumes only with its own configuration: {'; '.join(differences)}; put it back, or choose another "
            "folder"
        )


def check_as_many(together: int, own: int) -> None:
    """Check that a resumed run takes as many batches per step as before.

    Args:
        together: batches per step of the checkpointed run, over all ranks.
        own: batches per step now.
    Raises: ValueError: they differ.
    """
    if together != own:
        raise ValueError(
            f"a run resumes only with as many batches in a step: ranks * train.accumulate was {together} and is "
            f"{own}; start other ranks, or set train.accumulate, so that the product is {together}"
        )
