"""Learning from a teacher's logits beside the labels, and keeping logits for a student.

Source: the paper's official code, ogbn_arxiv_dgl (self-knowledge distillation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..files import replacing, room_for

LOGITS_FILE = "logits.safetensors"


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Whose logits a student learns from, and how much."""

    path: str | None = None
    """What a run with keep_logits wrote; ``{seed}`` in it stands for the seed of the run. ``None``: no teacher."""
    alpha: float = 0.95
    """Share of the teacher's term in the loss; the labels' has the rest."""
    temperature: float = 0.7
    """T of both softmaxes, dimensionless."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"teacher.alpha must lie in [0, 1], got {self.alpha}")
        if not self.temperature > 0.0:
            raise ValueError(f"teacher.temperature must be above 0, got {self.temperature}")


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over all entries of the divergence of the student's distribution from the teacher's.

    ``T^2 sum_ik p_ik (log p_ik - log q_ik) / (n K)`` with ``p = softmax(t / T)`` and ``q = softmax(s / T)``.

    Args:
        student, teacher: [n, K] logits; the teacher's get no gradient.
        temperature: T.
    Returns: a scalar. It is divided by n K (the official code's reduction "mean"), not by n.
    """
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    total = F.kl_div(F.log_softmax(student / temperature, dim=-1), p, reduction="sum")
    return temperature**2 * total / max(student.numel(), 1)


def with_teacher(loss: Tensor, student: Tensor, teacher: Tensor, options: TeacherOptions) -> Tensor:
    """Mix the labels' loss with the teacher's: ``(1 - alpha) loss + alpha distillation``, over all rows of the latter.

    Raises: ValueError: the teacher's logits are of other rows or classes.
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's logits {list(teacher.shape)} must have the shape of the student's {list(student.shape)}; "
            "use the teacher of this data set, which gives one row for each node"
        )
    term = distillation(student, teacher.to(student.dtype), options.temperature)
    return (1.0 - options.alpha) * loss + options.alpha * term


def rows_of(teacher: Tensor, ids: Tensor | None) -> Tensor:
    """Give a teacher's logits of a batch.

    Args:
        teacher: [N, T], of every row of the data set, in its order.
        ids: [n] int64 rows of the data set that are in the batch; ``None``: it is the data set.
    Returns: [n, T].
    Raises: ValueError: the teacher's logits are of a smaller data set.
    """
    if ids is None:
        return teacher
    if ids.numel() and (largest := int(ids.max())) >= teacher.size(0):
        raise ValueError(
            f"the batch has row {largest} of the data set, and the teacher's logits are of {teacher.size(0)} rows; use "
            "the teacher of this data set"
        )
    return teacher.index_select(0, ids.to(teacher.device))


def load_teacher(options: TeacherOptions, *, seed: int) -> Tensor | None:
    """Read the teacher's logits of a seed; ``None`` where there is no teacher.

    Raises: FileNotFoundError, ValueError: naming the file and how it is made.
    """
    if options.path is None:
        return None
    path = Path(options.path.replace("{seed}", str(seed))).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"the teacher's logits are not at {path}; train the teacher first, with train.keep_logits=true and this "
            "seed, or name its file with --set train.teacher.path=FILE"
        )
    try:
        logits = load_file(path)["logits"]
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold logits: {error}; write it again by training the teacher") from error
    if logits.dim() != 2 or logits.dtype != torch.float32 or not bool(torch.isfinite(logits).all()):
        raise ValueError(
            f"the logits in {path} must be finite torch.float32 [n, T], got {logits.dtype} {list(logits.shape)}; "
            "write it again by training the teacher"
        )
    return logits


def save_logits(folder: Path, logits: Tensor, ids: Tensor | None = None) -> Path:
    """Write the logits of all rows into a run folder, for students, which find a row by its number (`rows_of`).

    Args:
        folder: of the run.
        logits: [n, T].
        ids: [n] int64: which row of the data set each is; ``None``: they are in its order.
    """
    path = folder / LOGITS_FILE
    if ids is not None:
        logits = logits.index_select(0, ids.argsort().to(logits.device))
    kept = logits.detach().to("cpu", torch.float32).contiguous()
    with room_for(LOGITS_FILE, kept.nbytes, folder), replacing(path) as temporary:
        save_file({"logits": kept}, temporary)
    return path
