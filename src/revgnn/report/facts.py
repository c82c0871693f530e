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


class FittedBaseline(TypedDict):
    """A model without a graph."""

    name: str
    rows: int
    """Training rows that it was fitted to."""


class Confusion(TypedDict):
    """Counts of rows by true class (row) and predicted class (column)."""

    names: list[str]
    counts: list[list[int]]


class Points(TypedDict):
    """True and predicted values of a label column, for a sample of the rows."""

    column: str
    true: list[float]
    predicted: list[float]


Line = dict[str, str | int | float | None]
"""Title of a column -> its cell."""


class Details(TypedDict):
    """What is known of an evaluated split by the kind of its labels."""

    classes: NotRequired[list[Line]]
    """A line for each class."""
    confusion: NotRequired[Confusion]
    columns: NotRequired[list[Line]]
    """A line for each label column."""
    points: NotRequired[list[Points]]


class Evaluation(Details):
    """What a network and its baselines reach on the evaluated splits, and details of one of them."""

    metrics: dict[str, dict[str, dict[str, float | None]]]
    """Split -> "network" or name of a baseline -> metric -> value; ``None``: undefined."""
    baselines: list[FittedBaseline]
    training_rows: int
    rows: dict[str, int]
    """Split -> its rows that are described."""
    split: str | None
    """The split of the details; ``None``: there are none."""
    worst: NotRequired[list[Line]]
    """The rows with the worst predictions, by the user's ids."""


class Described(TypedDict):
    """What only the experiment knows of a run."""

    evaluation: Evaluation
    """The evaluation beside the baselines."""
    changed: Sequence[str]
    """Dotted names of the fields of the configuration that differ from their defaults."""
    paper: Published | None
    """Published results; ``None``: there are none."""


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
    evaluation: NotRequired[Evaluation]
    """The evaluation beside the baselines; missing: it was not described."""
    changed: NotRequired[Sequence[str]]
    """Dotted names of the fields of the configuration that differ from their defaults; missing: not known."""


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
    evaluation: Evaluation | None
    """``None``: it was not described."""
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
    changed: Sequence[str] | None
    """Fields that differ from their defaults; ``None``: not known."""
