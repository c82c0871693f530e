"""TrainConfig: everything that decides how a model is trained, and nothing of where and on what.

And whether a run may go on under a configuration: only under its own, save for fields that move no weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

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
        "loader.prefetch",
        "loader.final_parts",
        "loader.final_views",
    }
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    epochs: int = 500
    """Passes over the training batches."""
    accumulate: int = 1
    """Batches of an epoch that each rank takes for one step of the optimizer; their gradient is the mean over all
    training rows of the step."""
    parallel: ParallelName = "ddp"
    """How several ranks hold a model: "ddp", each the whole of it; or "fsdp", each a shard of weights, gradients and
    optimizer state, gathered where they are needed."""
    sync_batchnorm: bool = True
    """Whether BatchNorm normalises by the rows of all ranks; False: by those of each rank's own batch."""
    optimizer: OptimizerName = "adam"
    """"adam", "adamw" (decay apart from the gradient) or "rmsprop"."""
    lr: float = 0.001
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Coefficient of the decay of every parameter; 0 is none."""
    warmup_epochs: int = 0
    """Epochs of linear rise, ``lr * epoch / warmup_epochs``; 0 is none."""
    schedule: ScheduleName = "constant"
    """After the warm-up: "constant", or "cosine" towards 0 at the end."""
    clip_norm: float | None = None
    """Largest Euclidean norm of the gradient of all parameters together; ``None``: not clipped."""
    ema_decay: float | None = None
    """Decay, in (0, 1), of a running mean of the weights along the steps: it is what is evaluated, selected and kept;
    0.99 remembers a hundred steps. ``None``: the weights themselves are."""
    loss: str | None = None
    """A key of `LOSSES`: "cross_entropy", "log_cross_entropy" (log-shifted), "bce" (yes or no, NaN unlabelled), "mse";
    ``None``: that of the data's task."""
    select: Literal["metric", "loss"] = "metric"
    """Whose best value on the valid split selects the weights: the data set's "metric", or the lowest "loss"."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    seed: int = 0
    """Where every random number of the training comes from; 0 to 2^32 - 1."""
    precision: Precision = "float32"
    """"float32", or "bf16": bfloat16 autocast of the forward, with weights and loss in float32."""
    checkpoint_every: int | None = 50
    """Epochs between checkpoints; ``None``: only at the end, when interrupted, and as minutes go by."""
    checkpoint_minutes: float | None = 30.0
    """Minutes of training after which a checkpoint is written within an epoch too; ``None``: never."""
    keep_checkpoints: int = 2
    """How many checkpoints stay on disk, at least 2, so that a damaged one does not lose the run."""
    patience: int | None = None
    """Epochs without a better valid value after which the run ends; ``None``: it never ends early."""
    labels: LabelOptions = field(default_factory=LabelOptions)
    """Training labels as an input."""
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    """A teacher to learn from beside the labels."""
    keep_logits: bool = False
    """Whether logits.safetensors keeps the selected weights' answer for every node, for a student to learn from."""

    def __post_init__(self) -> None:
        self._check_choices()
        if self.loss is not None and self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        self._check_least(1, "epochs", "accumulate", "eval_every", "checkpoint_every", "patience")
        self._check_least(2, "keep_checkpoints")
        self._check_least(0, "weight_decay", "warmup_epochs", "seed")
        if self.seed > _LARGEST_SEED:
            raise ValueError(f"seed must be at most {_LARGEST_SEED}, got {self.seed}")
        for name in ("lr", "clip_norm", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule='cosine' needs epochs after the warm-up: epochs={self.epochs}, "
                f"warmup_epochs={self.warmup_epochs}; shorten the warm-up"
            )

    def for_task(self, task: Task, metric: str) -> TrainConfig:
        """Give it with the loss of a task, where it names none.

        Args:
            task: of the data.
            metric: that judges.
        Raises: ValueError: loss or metric do not go with the task, with those that do.
        """
        check_metric(task, metric)
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
    """Say what to try where a loss or a gradient is not finite."""
    remedies = [] if config.precision == "float32" else ["precision='float32'"]
    remedies.append(f"lr below {config.lr:g}")
    remedies.append("clip_norm=1.0" if config.clip_norm is None else f"clip_norm below {config.clip_norm:g}")
    if not config.warmup_epochs:
        remedies.append("warmup_epochs")
    return "try " + ", ".join(remedies)


def as_json(config: TrainConfig, configuration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give a run's configuration as JSON would hold it: ``config`` as "train" beside what the caller adds."""
    whole = {**(configuration or {}), "train": asdict(config)}
    plain: dict[str, Any] = json.loads(json.dumps(whole, default=str))
    return plain


def check_same(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to continue a run under another configuration.

    Raises: ValueError: each field that differs, by its dotted name, with both values; or that there are other fields.
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
    """Refuse to continue a run with other steps.

    Args:
        together: batches in a step of the run, over all ranks.
        own: batches in a step now.
    Raises: ValueError: they differ.
    """
    if together != own:
        raise ValueError(
            f"a run resumes only with as many batches in a step: ranks * train.accumulate was {together} and is "
            f"{own}; start other ranks, or set train.accumulate, so that the product is {together}"
        )
