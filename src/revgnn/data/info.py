"""What is known of a data set without its arrays: one value that readers give, models keep and the planner scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..plain_config import from_json
from .task import Task, find_task


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of the user's, which may be several numbers wide."""

    name: str
    width: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How large a data set is; 0 where that is not known."""

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
    """What is known of a graph, or of many small ones, without its arrays.

    Whoever makes a `Dataset` states what its arrays do not tell; the widths and counts that they do tell are filled in.
    """

    name: str = "graph"
    """How reports call it."""
    level: str = "node"
    """What carries a label: every "node", or every "graph"."""
    task: str = "multiclass"
    """What is predicted; with ``level``, the key of a row of `TASKS`."""
    metric: str = ""
    """What selects the best epoch, a key of `METRICS`; empty: the task's default, which is filled in."""
    num_outputs: int = 0
    """T: classes of a multiclass task, else columns of the labels; 0: nothing is known of the labels."""
    class_names: tuple[str, ...] | None = None
    """The label that each class number stands for; of a multilabel task, the name of each column; ``None``: the
    number itself."""
    in_channels: int = 0
    """F, the columns of node features."""
    features: tuple[Feature, ...] = ()
    """The user's columns that the node features were made of, in this order; empty where they have no names."""
    categories: tuple[int, ...] | None = None
    """How many codes each column of node features has; ``None``: the columns are numbers."""
    edge_channels: int | None = None
    """K as a `Batch` delivers it: multi-hot columns counted one by one; ``None``: the edges carry nothing."""
    edge_features: tuple[Feature, ...] = ()
    """The user's columns of the edges; empty where they have no names."""
    edge_categories: tuple[int, ...] | None = None
    """How many codes each column of edge features has; ``None``: the columns are numbers."""
    undirected: bool = False
    """Whether the reverse of every edge was added after reading."""
    self_loops: bool = False
    """Whether every node was given a self loop after reading."""
    label_channels: int = 0
    """How many columns of labels a model reads beside the F columns of features."""
    counts: Counts = Counts()
    """How large it is; a model keeps none of it."""

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
    def from_json(cls, facts: Mapping[str, Any]) -> GraphInfo:
        """Take it back from JSON.

        Raises: ValueError: it is not what `asdict` of one came to.
        """
        return from_json(cls, facts)

    @property
    def task_spec(self) -> Task:
        """All that follows from level and task: labels, losses, metrics, head, columns of a prediction."""
        return find_task(self.level, self.task)

    @property
    def num_rows(self) -> int:
        """Rows of labels: nodes, or graphs."""
        return self.counts.graphs if self.task_spec.has_many_graphs else self.counts.nodes

    @property
    def split_sizes(self) -> dict[str, int]:
        """Split name -> how many nodes or graphs it has."""
        return dict(self.counts.splits)

    def without_counts(self) -> GraphInfo:
        """Give what a model must know to read another graph as it reads this one."""
        return replace(self, counts=Counts())

    def with_label_inputs(self) -> GraphInfo:
        """Give what a model reads where labels stand beside the features.

        Raises: ValueError: graphs carry the labels, not nodes.
        """
        if self.task_spec.has_many_graphs:
            raise ValueError(
                f"{self.name} is graph-level: labels as an input are of nodes; choose train.labels.reuse=false"
            )
        return replace(self, label_channels=self.num_outputs)

    def scaled(self, factor: float) -> GraphInfo:
        """Give the same data set with so many times the nodes, edges, graphs and rows of splits; factor above 0."""
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
        """Refuse another graph whose features or edges are not what a model of this one learnt.

        Args:
            other: of that graph; what it is labelled with does not matter.
        Raises: ValueError: every column that differs, and every other difference.
        """
        wrong = []
        if self.features and other.features:
            wrong += _columns(*({each.name: each.width for each in info.features} for info in (self, other)))
            if not wrong and self.features != other.features:
                wrong.append(f"the columns must come in the order {', '.join(each.name for each in self.features)}")
        elif self.in_channels != other.in_channels:
            wrong.append(f"nodes must have {self.in_channels} features, got {other.in_channels}")
        if (self.level, self.categories) != (other.level, other.categories):
            wrong.append(f"it must be {self.level}-level with the same categories, got {other.level}-level")
        if self.edge_channels != other.edge_channels:
            wrong.append(f"edges must have {self.edge_channels or 0} features, got {other.edge_channels or 0}")
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


def _spoken(value: bool) -> str:
    return "true" if value else "false"
