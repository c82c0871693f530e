"""Everything that is measured, declared once: graphs, networks, single operations, growth, and the marks to reach.

Light to import: no torch here. `run` measures what stands here, `table` shows it beside the marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HIDDEN = 128
GROUPS = 2
DROPOUT = 0.5

Conv = Literal["gcn", "sage", "gen", "gat"]
Form = Literal["edge_index", "csr", "EdgeIndex"]


@dataclass(frozen=True, kw_only=True)
class GraphShape:
    """A synthetic graph: symmetric, without repeated edges, heavy-tailed degrees, nodes in random order (no locality)."""

    num_nodes: int
    num_pairs: int
    """Undirected pairs; each is two edges."""
    features: int
    classes: int
    layers: int
    """Depth of the networks that are measured on it."""
    self_loops: bool = True
    edge_channels: int = 0
    shift: float = 20.0
    """Node k is drawn with weight ``(k + shift)^-power``: the larger the shift, the smaller the hubs."""
    power: float = 0.6


GRAPHS = {
    "arxiv": GraphShape(num_nodes=169_343, num_pairs=1_157_799, features=128, classes=40, layers=2),
    "arxiv8": GraphShape(num_nodes=21_167, num_pairs=144_724, features=128, classes=40, layers=7),
    "proteins": GraphShape(
        num_nodes=13_253, num_pairs=395_612, features=8, classes=112, layers=3,
        self_loops=False, edge_channels=8, shift=2000.0, power=0.8,
    ),
    "tiny": GraphShape(num_nodes=400, num_pairs=2_000, features=16, classes=5, layers=2, edge_channels=8),
}  # fmt: skip
"""The size of ogbn-arxiv, an eighth of it, one of ten parts of ogbn-proteins, and one for tests."""


# ---------------------------------------------------------------------- training steps
@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step (forward, backward, Adam; encoder and head included) of a reversible network, beside its peers."""

    conv: Conv
    tests: str
    """Which tests of tests/numerics must pass first, as pytest's ``-k`` takes it."""
    against: tuple[str, ...]
    """Names in `ENTRANTS`."""
    graphs: tuple[str, ...] = ("arxiv8", "arxiv")
    heads: int = 1
    edge_features: bool = False
    csr: Form = "EdgeIndex"
    """The fastest form of a graph by rows that PyG's convolution takes without anything from outside PyPI."""
    edge_tensors: float
    """Peak of PyG's reversible step in tensors of E x D/C, as measured; decides whether it fits into memory."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One of the networks that are stepped in turn."""

    text: str
    peer: bool
    """Whether it is PyG's."""
    backprop: Literal["reversible", "store"]
    rows: bool = False
    """Whether it is given the graph by rows (`Step.csr`) instead of ``edge_index``."""


OWN = "revgnn"
ENTRANTS = {
    OWN: Entrant(text="revgnn, reversible", peer=False, backprop="reversible"),
    "store": Entrant(text="revgnn, the same network stored", peer=False, backprop="store"),
    "pyg": Entrant(text="PyG GroupAddRev, edge_index", peer=True, backprop="reversible"),
    "pyg-csr": Entrant(text="PyG GroupAddRev, fastest CSR form", peer=True, backprop="reversible", rows=True),
    "pyg-residual-csr": Entrant(
        text="PyG plain residual net, stored, fastest CSR form", peer=True, backprop="store", rows=True
    ),
}
_REVERSIBLE = ("store", "pyg", "pyg-csr")


# ---------------------------------------------------------------------- one operation
@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of this project beside the same by PyG or torch."""

    op: Literal["spmm", "gen_softmax", "gen_edges", "attention", "norm_act_drop"]
    width: int
    tests: str
    graphs: tuple[str, ...] = ("arxiv8", "arxiv")
    heads: int = 1
    backward: bool = True
    edge_tensors: float = 0.0
    """Peak of PyG's in tensors of E x D, as measured."""


# ---------------------------------------------------------------------- memory and growth
@dataclass(frozen=True, kw_only=True)
class WorkSpace:
    """Peak bytes of a training step above weights, Adam's moments, graph and features, at two depths."""

    step: str
    """The name of a `Step`."""
    depths: tuple[int, ...] = (2, 8)
    graphs: tuple[str, ...] = ("arxiv8", "arxiv")


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Time of a training step over one quantity, all else equal."""

    step: str
    axis: Literal["depth", "edges", "width"]
    points: tuple[float, ...]
    """Layers, parts of the graph's edges, or channels."""
    graphs: tuple[str, ...] = ("arxiv8",)


Case = Step | Op | WorkSpace | Growth

_GCN = "(test_convs and gcn) or (test_reversible and gcn) or spmm"
_SAGE = "(test_convs and sage) or (test_reversible and sage) or spmm"
_GEN = "(test_convs and gen) or (test_reversible and gen)"
_GAT = "(test_convs and gat) or (test_reversible and gat)"

STEPS: dict[str, Step] = {
    "revgcn": Step(
        conv="gcn", tests=_GCN, against=(*_REVERSIBLE, "pyg-residual-csr"), csr="csr", edge_tensors=3.2
    ),
    "revsage": Step(conv="sage", tests=_SAGE, against=_REVERSIBLE, csr="csr", edge_tensors=2.4),
    "revgen": Step(conv="gen", tests=_GEN, against=_REVERSIBLE, edge_tensors=16.0),
    "revgat-1": Step(conv="gat", tests=_GAT, against=_REVERSIBLE, edge_tensors=6.4),
    "revgat-4": Step(conv="gat", heads=4, tests=_GAT, against=_REVERSIBLE, edge_tensors=7.0),
    "revgen-edges": Step(
        conv="gen", tests=_GEN, against=_REVERSIBLE, graphs=("proteins",), edge_features=True, edge_tensors=20.0
    ),
}  # fmt: skip

OPS: dict[str, Op] = {
    **{
        f"spmm-{width}": Op(op="spmm", width=width, tests=_GCN, backward=False, edge_tensors=2.5)
        for width in (64, 128, 256)
    },
    "gen-softmax-64": Op(op="gen_softmax", width=64, tests=_GEN, edge_tensors=11.0),
    "gen-edges-64": Op(op="gen_edges", width=64, tests=_GEN, graphs=("proteins",), edge_tensors=11.0),
    "attention-64": Op(op="attention", width=64, tests=_GAT, edge_tensors=6.0),
    "attention-64-4-heads": Op(op="attention", width=64, heads=4, tests=_GAT, edge_tensors=7.0),
    "norm-act-drop-64": Op(op="norm_act_drop", width=64, tests="test_reversible or norm"),
    "norm-act-drop-128": Op(op="norm_act_drop", width=128, tests="test_reversible or norm"),
}

WORK_SPACES: dict[str, WorkSpace] = {
    f"work-{step}": WorkSpace(step=step) for step in ("revgcn", "revsage", "revgen", "revgat-1", "revgat-4")
}

GROWTHS: dict[str, Growth] = {
    "growth-depth": Growth(step="revgcn", axis="depth", points=(2, 4, 8, 16)),
    "growth-edges": Growth(step="revgcn", axis="edges", points=(0.25, 0.5, 1.0, 2.0)),
    "growth-width": Growth(step="revgcn", axis="width", points=(32, 64, 128, 256)),
}

CASES: dict[str, Case] = {**STEPS, **OPS, **WORK_SPACES, **GROWTHS}


def tests_of(name: str) -> str:
    """The numerics tests that a case depends on."""
    case = CASES[name]
    return STEPS[case.step].tests if isinstance(case, WorkSpace | Growth) else case.tests


# ---------------------------------------------------------------------- what is to be reached
@dataclass(frozen=True, kw_only=True)
class Mark:
    """One row of the table: a figure of a case, and what it has to be."""

    text: str
    case: str
    graph: str
    against: str
    """What is written in the table's second column."""
    figure: tuple[str, ...]
    """Where the figure stands in a result: keys, one inside the other."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"


def _speed(case: str, text: str, against: str, marks: dict[str, float | None]) -> list[Mark]:
    return [
        Mark(
            text=text, case=case, graph=graph, against=ENTRANTS[against].text,
            figure=("ratios", against), at_least=mark, unit="x faster",
        )
        for graph, mark in marks.items()
    ]  # fmt: skip


def _both(mark: float | None) -> dict[str, float | None]:
    return {"arxiv8": mark, "arxiv": mark}


def _marks() -> list[Mark]:
    names = {
        "revsage": "RevSAGE step", "revgen": "RevGEN (softmax) step",
        "revgat-1": "RevGAT step, 1 head", "revgat-4": "RevGAT step, 4 heads",
    }  # fmt: skip
    rows = [
        *_speed("revgcn", "RevGCN step", "pyg", {"arxiv8": 8.0, "arxiv": 5.0}),
        *_speed("revgcn", "RevGCN step", "pyg-csr", _both(3.5)),
        *_speed("revgcn", "RevGCN step", "pyg-residual-csr", {"arxiv8": 3.0, "arxiv": 2.5}),
    ]
    for case, mark in (("revsage", 4.0), ("revgen", 8.0), ("revgat-1", 3.0), ("revgat-4", 3.0)):
        rows += _speed(case, names[case], "pyg", _both(mark))
        rows += _speed(case, names[case], "pyg-csr", _both(None))
    rows += _speed("revgen-edges", "RevGEN step, edge features", "pyg", {"proteins": 6.0})
    rows += _speed("revgen-edges", "RevGEN step, edge features", "pyg-csr", {"proteins": None})
    rows += [
        Mark(
            text=f"{name}: time / the same network stored", case=case, graph="arxiv8",
            against="revgnn, stored", figure=("over_store",), at_most=1.45,
        )
        for case, name in (("revgcn", "RevGCN"), ("revsage", "RevSAGE"), ("revgen", "RevGEN"),
                           ("revgat-1", "RevGAT, 1 head"), ("revgat-4", "RevGAT, 4 heads"))
    ]  # fmt: skip
    rows += [
        Mark(
            text=f"{step} work space, largest of depths", case=f"work-{step}", graph=graph, against="–",
            figure=("largest",), at_most=mark, unit="N D 4 bytes",
        )
        for step, mark in (("revgcn", 3.5), ("revgen", 6.0), ("revgat-1", 6.0), ("revgat-4", 6.0))
        for graph in ("arxiv8", "arxiv")
    ]  # fmt: skip
    rows += [
        Mark(
            text=f"time of a step grows with {axis} to the power", case=f"growth-{axis}", graph="arxiv8", against="1",
            figure=("exponent",), at_most=1.1, unit="",
        )
        for axis in ("depth", "edges", "width")
    ]  # fmt: skip
    rows += [
        Mark(
            text=f"spmm, {width} channels", case=f"spmm-{width}", graph=graph, against="random row gather",
            figure=("of_ceiling",), at_least=0.8, unit="of it",
        )
        for width in (64, 128, 256) for graph in ("arxiv8", "arxiv")
    ]  # fmt: skip
    return rows


MARKS = _marks()
