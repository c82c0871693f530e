"""The facts of a run as JSON values: ``run.json``, which a report is made from, and ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from ..resident import ResidentFacts
from ..train.curve import Score


class Configuration(TypedDict):
    """The configuration of an experiment; every part of it by its fields."""

    dataset: Mapping[str, object]
    model: Mapping[str, object]
    train: Mapping[str, object]
    batch_size: int | None
    loader: Mapping[str, object]


class Published(TypedDict, total=False):
    """Published figures of a recipe; ``None`` or missing: there is none."""

    metric: float | None
    """In percent for accuracy and ROC-AUC."""
    std: float | None
    memory_gb: float | None
    """GiB."""
    parameters: int | None
    assumed: Sequence[str]
    """Fields of the experiment that no source gives."""
    notes: Sequence[str]


class Predicted(TypedDict):
    """The planner's prediction of memory, in bytes."""

    peak_bytes: int
    """Of tensors."""
    process_bytes: NotRequired[int | None]
    """Of the process; ``None``: not predicted."""
    how: str
    kinds: NotRequired[Mapping[str, int]]
    """Kind of tensor -> its bytes at the peak."""


class Circumstances(TypedDict):
    """Where and when a run happens."""

    date: str
    machine: dict[str, str | int | None]
    versions: dict[str, str | None]
    git_commit: str | None


class RunFacts(TypedDict):
    """The content of ``run.json``; the training itself writes ``result.json`` and ``curve.jsonl``."""

    format: int
    name: str
    """Name of the run, such as "ogbn-arxiv/revgcn_deep"."""
    ranks: int
    dataset: Mapping[str, object]
    """Facts of the data (nodes, edges, features, rows of each split): name -> number or text."""
    schema: Mapping[str, object]
    """Metadata of the graph that the model was built for."""
    where: NotRequired[Circumstances]
    """Circumstances at the start of the run; missing: the current ones."""
    warnings: NotRequired[Sequence[str]]
    """Warnings to the reader, one sentence each."""
    config: Configuration
    """The full configuration; a value that is not JSON is written as text."""
    paper: Published | None
    """The paper's figures; ``None``: it has none."""
    implementation: str
    """The implementation of the ops."""
    memory_how: str | None
    """How the peak memory of tensors was measured; ``None``: it was not."""
    resident: NotRequired[ResidentFacts | None]
    """Resident memory at its peak; ``None``: it was not measured."""
    predicted: NotRequired[Predicted | None]
    """The planner's prediction of memory; ``None``: there is none."""


class Result(TypedDict):
    """What a run reached."""

    metric: str
    scores: dict[str, Score]
    """Split -> score of the selected weights."""
    best_epoch: int
    epochs: int
    stopped: str
    selection: NotRequired[dict[str, Score]]
    """Split -> score that selected the weights; missing in a result of an older version: ``scores``."""


class Time(TypedDict):
    """What a run took."""

    seconds_per_step_median: float
    steps: int
    training_seconds: float


class Memory(TypedDict):
    """Peak memory of a run."""

    peak_bytes: int | None
    """Of tensors; ``None``: not measured."""
    how: str | None
    resident: NotRequired[ResidentFacts | None]
    predicted: NotRequired[Predicted | None]


class Report(TypedDict):
    """The content of ``report.json``."""

    format: int
    name: str
    date: str
    dataset: dict[str, object]
    result: Result
    curve: dict[str, str | float | None]
    observed: dict[str, float]
    """Quantities that the model reported of the last step."""
    time: Time
    memory: Memory
    parameters: int
    paper: Published | None
    implementation: str
    machine: dict[str, str | int | None]
    versions: dict[str, str | None]
    git_commit: str | None
    warnings: list[str]
    config: Configuration
