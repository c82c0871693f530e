"""Metadata of a data set without its arrays: readers return it, models store it and the planner scales it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..plain_config import from_json
from .encodings import Encoding, NumberEncoding
from .task import TargetScale, Task, find_task

if TYPE_CHECKING:
    # Metadata is read without torch.
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A feature column of the user's table, which may hold several numbers.

    Examples:
        >>> from revgnn.data import Feature
        >>> Feature(name="price", width=1)
        Feature(name='price', width=1, encoding=None)
    """

    name: str
    width: int
    encoding: Encoding | None = None
    """What was done to its values, fitted; ``None``: nothing, or it is not known."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The size of a data set; 0: unknown.

    Examples:
        >>> from revgnn.data import Counts
        >>> Counts(nodes=34, edges=156, splits=(("train", 4), ("test", 30)))
        Counts(nodes=34, edges=156, graphs=1, splits=(('train', 4), ('test', 30)))
    """

    nodes: int = 0
    """N, over all graphs."""
    edges: int = 0
    """E directed edges, self loops included."""
    graphs: int = 1
    """B, 1 at node level."""
    splits: tuple[tuple[str, int], ...] = ()
    """Name of each split and its rows: nodes, or graphs."""


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """Metadata of a graph, or of many small graphs.

    The creator of a `Dataset` gives what the arrays do not contain; widths and counts are filled in from the arrays.

    Examples:
        >>> import revgnn
        >>> info = revgnn.GraphInfo(name="prices", task="regression", num_outputs=1, in_channels=8)
        >>> info.metric, info.task_spec.loss
        ('rmse', 'mse')
    """

    name: str = "graph"
    """Name in reports."""
    level: str = "node"
    """What has labels: "node" or "graph"."""
    task: str = "multiclass"
    """The task; with ``level``, a key of `TASKS`."""
    metric: str = ""
    """Metric that selects the best epoch, a key of `METRICS`; empty: the task's default, which is filled in."""
    num_outputs: int = 0
    """T: classes of a multiclass task, otherwise label columns; 0: there are no labels."""
    class_names: tuple[str, ...] | None = None
    """Label of each class number; for a multilabel task, the name of each column; ``None``: the number itself."""
    in_channels: int = 0
    """F, number of node feature columns."""
    features: tuple[Feature, ...] = ()
    """The user's columns that form the node features, in order; empty: they have no names."""
    categories: tuple[int, ...] | None = None
    """Number of codes of each node feature column; ``None``: the columns are numbers."""
    edge_channels: int | None = None
    """K as in a `Batch`, with multi-hot columns counted one by one; ``None``: the edges have no features."""
    edge_features: tuple[Feature, ...] = ()
    """The user's edge feature columns; empty: they have no names."""
    edge_weight: bool = False
    """Whether the one edge feature is a weight, which multiplies messages."""
    edge_categories: tuple[int, ...] | None = None
    """Number of codes of each edge feature column; ``None``: the columns are numbers."""
    undirected: bool = False
    """Whether the reverse of every edge was added after reading."""
    self_loops: bool = False
    """Whether a self loop was added to every node after reading."""
    target_scale: TargetScale | None = None
    """Scale of the labels that a network learns standardised; ``None``: it learns them as they are."""
    label_channels: int = 0
    """Label columns that a model reads in addition to the F feature columns."""
    counts: Counts = Counts()
    """Size of the data set; not stored with a model."""

    def __post_init__(self) -> None:
        task = self.task_spec
        object.__setattr__(self, "metric", self.metric or task.metric)
        if task.num_outputs is not None and self.num_outputs not in (0, task.num_outputs):
            raise ValueError(
                f"{self.name}: a {self.task} task has {task.num_outputs} column of labels, got {self.num_outputs}; "
                "choose another task"
            )
        named = self.num_outputs if task.num_names is None else task.num_names
        if self.class_names is not None and len(self.class_names) != named:
            raise ValueError(f"class_names must be one for each of {named} outputs, got {len(self.class_names)}")

    @classmethod
    def from_json(cls, facts: Mapping[str, object]) -> GraphInfo:
        """Create a `GraphInfo` from JSON.

        Raises: ValueError: the value is not the `asdict` of a `GraphInfo`.
        """
        return from_json(cls, facts)

    @property
    def task_spec(self) -> Task:
        """The `Task` of level and task: labels, loss, metric, head and prediction columns."""
        return find_task(self.level, self.task)

    @property
    def num_rows(self) -> int:
        """Rows of labels: nodes, or graphs."""
        return self.counts.graphs if self.task_spec.has_many_graphs else self.counts.nodes

    @property
    def split_sizes(self) -> dict[str, int]:
        """Split name -> number of nodes or graphs."""
        return dict(self.counts.splits)

    def without_counts(self) -> GraphInfo:
        """Return the metadata that a model needs to read another graph in the same way."""
        return replace(self, counts=Counts())

    def in_unit(self, logits: Tensor) -> Tensor:
        """Return a network's outputs [n, T] in the unit of the user's labels."""
        return logits if self.target_scale is None else self.target_scale.restore(logits)

    def with_label_inputs(self) -> GraphInfo:
        """Return the metadata for a model that reads labels in addition to features.

        Raises: ValueError: the task is graph-level, or its labels are numbers.
        """
        if self.task_spec.labels == "numbers":
            raise ValueError(
                f"{self.name} has numbers as labels: labels as an input are classes or flags; choose "
                "train.labels.reuse=false"
            )
        if self.task_spec.has_many_graphs:
            raise ValueError(
                f"{self.name} is graph-level: labels as an input are of nodes; choose train.labels.reuse=false"
            )
        return replace(self, label_channels=self.num_outputs)

    def scaled(self, factor: float) -> GraphInfo:
        """Return the metadata with nodes, edges, graphs and split rows multiplied by a factor above 0."""
        if factor == 1.0:
            return self
        counts, graphs = self.counts, 1
        if self.task_spec.has_many_graphs:
            graphs = max(round(counts.graphs * factor), 8)
            factor = graphs / counts.graphs
        return replace(
            self,
            counts=Counts(
                nodes=max(round(counts.nodes * factor), 8),
                edges=max(round(counts.edges * factor), 8),
                graphs=graphs,
                splits=tuple((name, max(round(rows * factor), 4) if rows else 0) for name, rows in counts.splits),
            ),
        )

    def check_applies(self, other: GraphInfo) -> None:
        """Check that a model trained on this graph can be applied to another graph.

        Args:
            other: metadata of the other graph; its labels are ignored.
        Raises: ValueError: features or edges differ; the message lists every difference.
        """
        wrong = []
        if self.features and other.features:
            wrong += _columns(*({each.name: each.width for each in info.features} for info in (self, other)))
            order, theirs = ([each.name for each in info.features] for info in (self, other))
            if not wrong and order != theirs:
                wrong.append(f"the columns must come in the order {', '.join(order)}")
            wrong = wrong or _encodings(self.features, other.features)
        elif self.in_channels != other.in_channels:
            wrong.append(f"nodes must have {self.in_channels} features, got {other.in_channels}")
        if (self.level, self.categories) != (other.level, other.categories):
            wrong.append(f"it must be {self.level}-level with the same categories, got {other.level}-level")
        if self.edge_channels != other.edge_channels:
            wrong.append(f"edges must have {self.edge_channels or 0} features, got {other.edge_channels or 0}")
        wrong = wrong or _encodings(self.edge_features, other.edge_features)
        for field in ("undirected", "self_loops"):
            if getattr(self, field) != getattr(other, field):
                wrong.append(f"{field} was {_spoken(getattr(self, field))} and is {_spoken(getattr(other, field))}")
        if wrong:
            raise ValueError(f"{other.name} is not what the model was trained on: {'; '.join(wrong)}")


def _columns(own: Mapping[str, int], got: Mapping[str, int]) -> list[str]:
    missing = [f"column {name} is missing" for name in own if name not in got]
    more = [f"column {name} is unknown to the model" for name in got if name not in own]
    wide = [
        f"column {name} must hold {width} numbers, got {got[name]}"
        for name, width in own.items()
        if name in got and got[name] != width
    ]
    return missing + more + wide


def _encodings(own: tuple[Feature, ...], got: tuple[Feature, ...]) -> list[str]:
    theirs = {each.name: _plain(each) for each in got}
    other = [each.name for each in own if _plain(each) != theirs.get(each.name, _plain(each))]
    if not other:
        return []
    return [f"column {', '.join(other)} was encoded by other statistics; prepare it with --like RUN, the run's folder"]


def _plain(feature: Feature) -> Encoding:
    """Return the encoding of a column, of one without any the one that changes nothing."""
    return feature.encoding or NumberEncoding(size=feature.width)


def _spoken(value: bool) -> str:
    return "true" if value else "false"
