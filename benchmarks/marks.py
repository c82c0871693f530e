"""What is to be reached: the rows of the table, each a figure of a case and the mark for it."""

from __future__ import annotations

from dataclasses import dataclass

from .registry import ENTRANTS, INFERENCES, OTHER_PEERS, OWN, PAPERS, STEPS


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One row of the table: a figure of a case, and what it has to be; without a mark it is only shown."""

    text: str
    case: str
    graph: str
    against: str
    """What is written in the table's column of that name."""
    figure: tuple[str, ...]
    """Where the figure stands in a result: keys, one inside the other."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""


_GRAPHS = ("arxiv8", "arxiv")
# Case, entrant, then the speed to reach on the graphs that the case is declared for.
_SPEEDS: tuple[tuple[str, str, tuple[float | None, ...]], ...] = (
    ("revgcn", "pyg", (8.0, 5.0)),
    ("revgcn", "pyg-csr", (3.5, 3.5)),
    ("revgcn", "pyg-residual-csr", (3.0, 2.5)),
    ("revsage", "pyg", (4.0, 4.0)),
    ("revsage", "pyg-csr", (None, None)),
    ("revgen", "pyg", (8.0, 8.0)),
    ("revgen", "pyg-csr", (None, None)),
    ("revgat-1", "pyg", (3.0, 3.0)),
    ("revgat-1", "pyg-csr", (None, None)),
    ("revgat-4", "pyg", (3.0, 3.0)),
    ("revgat-4", "pyg-csr", (None, None)),
    ("revgen-edges", "pyg", (12.0,)),
    ("revgen-edges", "pyg-csr", (None,)),
)
# Case, then how many times as fast as float32 a step in bfloat16 is to be, on a CPU that multiplies bfloat16.
_NARROW: dict[str, tuple[float | None, ...]] = {
    "revgcn": (1.8, 2.3),
    "revsage": (1.8, 2.3),
    "revgen": (1.5, 1.5),
    "revgat-1": (1.5, 1.5),
    "revgat-4": (1.5, 1.5),
    "revgen-edges": (None,),
}
_OVER_STORE, _OVER_STORE_OF = 1.45, {"revgen-edges": 1.25}
_WORK_SPACES = {"revgcn": 3.5, "revsage": None, "revgen": 6.0, "revgat-1": 6.0, "revgat-4": 6.0}
_EXPONENT = 1.1
_OF_CEILING = 0.8
_INFERENCE = 2.5


def _speeds() -> list[Mark]:
    return [
        Mark(
            text=f"{STEPS[case].title}: step",
            case=case,
            graph=graph,
            against=ENTRANTS[entrant].text,
            figure=("ratios", entrant),
            at_least=mark,
            unit="x faster",
        )
        for case, entrant, marks in _SPEEDS
        for graph, mark in zip(STEPS[case].graphs, marks, strict=True)
    ]


def _narrow() -> list[Mark]:
    return [
        Mark(
            text=f"{STEPS[case].title}: step in bfloat16",
            case=case,
            graph=graph,
            against="the same in float32",
            figure=("bf16", OWN),
            at_least=mark,
            unit="x faster",
        )
        for case, marks in _NARROW.items()
        for graph, mark in zip(STEPS[case].graphs, marks, strict=True)
    ]


def _narrow_peers() -> list[Mark]:
    """Our step in bfloat16 beside PyG's plain residual network, in the same precision and in its fastest form."""
    return [
        Mark(
            text=f"{STEPS['revgcn'].title}: step in bfloat16",
            case="revgcn",
            graph="arxiv8",
            against=ENTRANTS[entrant].text,
            figure=("bf16", entrant),
            at_least=mark,
            unit="x faster",
        )
        for entrant, mark in (("pyg-residual-bf16", 3.5), ("pyg-residual-csr", None))
    ]


def _over_store() -> list[Mark]:
    return [
        Mark(
            text=f"{step.title}: time of a step",
            case=case,
            graph=step.graphs[0],
            against=ENTRANTS["store"].text,
            figure=("over_store",),
            at_most=_OVER_STORE_OF.get(case, _OVER_STORE),
            unit="x as long",
        )
        for case, step in STEPS.items()
    ]


def _work_spaces() -> list[Mark]:
    rows = []
    for case, mark in _WORK_SPACES.items():
        text = f"{STEPS[case].title}: work space of a step"
        for graph in _GRAPHS:
            rows.append(
                Mark(
                    text=f"{text}, any depth",
                    case=f"work-{case}",
                    graph=graph,
                    against="–",
                    figure=("largest",),
                    at_most=mark,
                    unit="N D 4 bytes",
                )
            )
            rows.append(
                Mark(
                    text=text,
                    case=case,
                    graph=graph,
                    against="PyG GroupAddRev's own, edge_index",
                    figure=("runs", "pyg", "peak_nd"),
                    unit="N D 4 bytes",
                )
            )
    return rows


def _growths() -> list[Mark]:
    rows = []
    for axis in ("depth", "edges", "width"):
        rows += [
            Mark(
                case=f"growth-{axis}",
                graph="arxiv8",
                text=f"RevGCN: time of a step grows with {axis} to the power",
                against="linear is 1",
                figure=("exponent",),
                at_most=_EXPONENT,
            ),
            Mark(
                case=f"growth-{axis}",
                graph="arxiv8",
                text=f"RevGCN: time of a step over {axis}",
                against="the straight line that fits best",
                figure=("off_line",),
                unit="off at most",
            ),
        ]
    return rows


def _ceilings() -> list[Mark]:
    return [
        Mark(
            text=f"spmm, {width} channels",
            case=f"spmm-{width}",
            graph=graph,
            against="the machine's random row gather",
            figure=("of_ceiling",),
            at_least=_OF_CEILING,
            unit="of it",
        )
        for width in (64, 128, 256)
        for graph in _GRAPHS
    ]


def _inference() -> list[Mark]:
    return [
        Mark(
            text=f"{STEPS[case.step].title}, {case.layers} layers: peak of inference and embedding",
            case=name,
            graph=graph,
            against="–",
            figure=("largest",),
            at_most=_INFERENCE,
            unit="N D 4 bytes",
        )
        for name, case in INFERENCES.items()
        for graph in case.graphs
    ]


def _other_peers() -> list[Mark]:
    return [
        Mark(
            text=f"{step.title}: step",
            case=name,
            graph=graph,
            against=ENTRANTS[entrant].text,
            figure=("ratios", entrant),
            unit="x faster",
        )
        for name, step in OTHER_PEERS.items()
        for graph in step.graphs
        for entrant in step.against
        if ENTRANTS[entrant].compiled or ENTRANTS[entrant].requires
    ]


def _papers() -> list[Mark]:
    return [
        Mark(
            text=f"{paper.title}: memory of a step",
            case=case,
            graph=paper.graphs[0],
            against="the paper's memory column",
            figure=("peak_gb",),
            at_most=paper.paper_gb,
            unit="GiB",
        )
        for case, paper in PAPERS.items()
    ]


CUDA_MARKS = _papers()
MARKS = [
    *_speeds(), *_other_peers(), *_narrow(), *_narrow_peers(), *_over_store(), *_work_spaces(), *_inference(),
    *_growths(), *_ceilings(),
]  # fmt: skip
