"""What a model learnt to read and to answer: columns of features, their widths, classes, and which edges there are.

Kept in the folder of a run, so that the model refuses a graph that it would misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .dataset import Described, Level


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What two graphs must share so that the model of one can be applied to the other."""

    name: str
    """What the data set is called."""
    level: Level
    task: str
    in_channels: int
    """F."""
    categories: tuple[int, ...] | None
    """Codes of each column of features; ``None``: the columns are numbers."""
    features: tuple[tuple[str, int], ...] | None
    """Name and width of each of the user's columns; ``None`` where they have no names."""
    edge_channels: int | None
    """K; ``None``: the edges carry nothing."""
    num_outputs: int
    """T."""
    class_names: tuple[str, ...] | None
    """The label of each class; ``None``: its number."""
    undirected: bool
    """Whether the reverse of every edge was added."""
    self_loops: bool
    """Whether every node was given a self loop."""

    @classmethod
    def of(cls, data: Described) -> Schema:
        """Take it from a data set."""
        names, widths = data.feature_names, data.feature_widths
        return cls(
            name=data.name,
            level=data.level,
            task=data.task,
            in_channels=data.in_channels,
            categories=data.categories,
            features=None if names is None or widths is None else tuple(zip(names, widths, strict=True)),
            edge_channels=data.edge_channels,
            num_outputs=data.num_outputs,
            class_names=data.class_names,
            undirected=data.undirected,
            self_loops=data.self_loops,
        )

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Schema:
        """Take it back from JSON.

        Raises: TypeError, ValueError: it is not what `asdict` of one came to.
        """
        facts = dict(facts)
        features, classes, categories = (facts.pop(name) for name in ("features", "class_names", "categories"))
        return cls(
            categories=None if categories is None else tuple(map(int, categories)),
            features=None if features is None else tuple((str(name), int(width)) for name, width in features),
            class_names=None if classes is None else tuple(map(str, classes)),
            **facts,
        )

    def check_applies(self, other: Schema) -> None:
        """Refuse another graph whose features or edges are not what the model learnt.

        Args:
            other: of that graph; what it is labelled with does not matter.
        Raises: ValueError: every column that differs, and every other difference.
        """
        wrong = []
        if self.features is not None and other.features is not None:
            wrong += _columns(dict(self.features), dict(other.features))
            if not wrong and self.features != other.features:
                wrong.append(f"the columns must come in the order {', '.join(column for column, _ in self.features)}")
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
