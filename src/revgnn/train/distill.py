"""Knowledge distillation: trains a student on a teacher's logits, and writes logits for a student.

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
"""The file of a run folder that holds the outputs of its best weights, for a student to learn from.

Examples:
    >>> from revgnn.train import LOGITS_FILE
    >>> LOGITS_FILE  # in the folder of a run with ``train.keep_logits``
    'logits.safetensors'
"""


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """The teacher's logits and the weight of the distillation loss.

    Examples:
        >>> import revgnn
        >>> from revgnn.train import TeacherOptions
        >>> config = revgnn.TrainConfig(teacher=TeacherOptions(path="runs/teacher/logits.safetensors"))
    """

    path: str | None = None
    """Path of the logits that a run with keep_logits wrote; ``{seed}`` is replaced by the run's seed. ``None``: no
    teacher."""
    alpha: float = 0.95
    """Weight of the distillation loss; the loss on the labels has weight 1 - alpha."""
    temperature: float = 0.7
    """Temperature T of both softmaxes, dimensionless."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"teacher.alpha must lie in [0, 1], got {self.alpha}")
        if not self.temperature > 0.0:
            raise ValueError(f"teacher.temperature must be above 0, got {self.temperature}")


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation loss: mean over all entries of the KL divergence between the teacher's and the student's softmax.

    ``T^2 sum_ik p_ik (log p_ik - log q_ik) / (n K)`` with ``p = softmax(t / T)`` and ``q = softmax(s / T)``.

    Args:
        student, teacher: [n, K] logits; the teacher receives no gradient.
        temperature: T.
    Returns: a scalar. It is divided by n K (the official code's reduction "mean"), not by n.

    Examples:
        >>> import torch
        >>> from revgnn.train import distillation
        >>> logits = torch.randn(5, 3)
        >>> distillation(logits, logits, temperature=0.7).abs() < 1e-6
        tensor(True)
    """
    p = F.softmax(teacher.detach() / temperature, dim=-1)
    total = F.kl_div(F.log_softmax(student / temperature, dim=-1), p, reduction="sum")
    return temperature**2 * total / max(student.numel(), 1)


def with_teacher(loss: Tensor, student: Tensor, teacher: Tensor, options: TeacherOptions) -> Tensor:
    """Combine the loss on the labels with the distillation loss: ``(1 - alpha) loss + alpha distillation``.

    The distillation loss is over all rows of ``student``.

    Raises: ValueError: the teacher's logits have another shape.
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's logits {list(teacher.shape)} must have the shape of the student's {list(student.shape)}; "
            "use the teacher of this data set, which gives one row for each node"
        )
    term = distillation(student, teacher.to(student.dtype), options.temperature)
    return (1.0 - options.alpha) * loss + options.alpha * term


def rows_of(teacher: Tensor, ids: Tensor | None) -> Tensor:
    """Select the teacher's logits of a batch.

    Args:
        teacher: [N, T] logits of every row of the data set, in the data set's order.
        ids: [n] int64 rows of the data set that are in the batch; ``None``: the batch is the whole data set.
    Returns: [n, T].
    Raises: ValueError: the teacher has fewer rows than the data set.
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
    """Read the teacher's logits for a seed; ``None`` if there is no teacher.

    Raises: FileNotFoundError, ValueError: the file is missing or invalid; the message says how to make it.
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
    """Write the logits of all rows into a run folder, for a student that selects rows by number (`rows_of`).

    Args:
        folder: the run folder.
        logits: [n, T].
        ids: [n] int64 row of the data set of each logit row; ``None``: the rows are in the data set's order.
    """
    path = folder / LOGITS_FILE
    if ids is not None:
        logits = logits.index_select(0, ids.argsort().to(logits.device))
    kept = logits.detach().to("cpu", torch.float32).contiguous()
    with room_for(LOGITS_FILE, kept.nbytes, folder), replacing(path) as temporary:
        save_file({"logits": kept}, temporary)
    return path
