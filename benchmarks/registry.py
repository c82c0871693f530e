"""Everything that is measured, declared once: graphs, networks, single operations, work space and growth.

Light to import: no torch here. `run` measures what stands here, `needs` says which tests must pass before, `marks` what
is to be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HIDDEN = 128
GROUPS = 2
DROPOUT = 0.5

Conv = Literal["gcn", "sage", "gen", "gat"]
Form = Literal["edge_index", "csr", "EdgeIndex", "SparseTensor"]


@dataclass(frozen=True, kw_only=True)
class GraphShape:
    """A synthetic graph: symmetric, no repeated edges, heavy-tailed degrees, nodes in random order (no locality)."""

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
    "arxiv32": GraphShape(num_nodes=5_292, num_pairs=36_181, features=128, classes=40, layers=28),
    "proteins": GraphShape(
        num_nodes=13_253, num_pairs=395_612, features=8, classes=112, layers=3,
        self_loops=False, edge_channels=8, shift=2000.0, power=0.8,
    ),
    "tiny": GraphShape(num_nodes=400, num_pairs=2_000, features=16, classes=5, layers=2, edge_channels=8),
}  # fmt: skip
"""The size of ogbn-arxiv, an eighth and a 32nd of it, one of ten parts of ogbn-proteins, and one for tests."""


# ---------------------------------------------------------------------- training steps
@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step of a reversible network beside its peers: forward, backward, Adam; encoder and head included."""

    title: str
    conv: Conv
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
    autocast: bool = False
    """Whether it steps under autocast to bfloat16."""
    compiled: Literal["static", "dynamic"] | None = None
    """Whether torch.compile compiles its blocks, and for which shapes: a reversible layer itself resizes storages."""
    requires: str | None = None
    """A module without which it is left out."""
    form: Form | None = None
    """The form of its graph; ``None``: `Step.csr` with ``rows``, else ``edge_index``."""


OWN = "revgnn"
NARROW = "revgnn-bf16"
ENTRANTS = {
    OWN: Entrant(text="revgnn, reversible", peer=False, backprop="reversible"),
    "store": Entrant(text="revgnn, the same network stored", peer=False, backprop="store"),
    "pyg": Entrant(text="PyG GroupAddRev, edge_index", peer=True, backprop="reversible"),
    "pyg-csr": Entrant(text="PyG GroupAddRev, fastest CSR form", peer=True, backprop="reversible", rows=True),
    "pyg-residual-csr": Entrant(
        text="PyG plain residual net, stored, fastest CSR form", peer=True, backprop="store", rows=True
    ),
    NARROW: Entrant(text="revgnn, reversible, bfloat16 autocast", peer=False, backprop="reversible", autocast=True),
    "pyg-bf16": Entrant(
        text="PyG GroupAddRev, edge_index, bfloat16 autocast", peer=True, backprop="reversible", autocast=True
    ),
    "pyg-residual-bf16": Entrant(
        text="PyG plain residual net, stored, EdgeIndex, bfloat16 autocast",
        peer=True, backprop="store", rows=True, autocast=True, form="EdgeIndex",
    ),
    "pyg-compiled": Entrant(
        text="PyG GroupAddRev, edge_index, torch.compile", peer=True, backprop="reversible", compiled="static"
    ),
    "pyg-compiled-dynamic": Entrant(
        text="PyG GroupAddRev, edge_index, torch.compile with dynamic shapes",
        peer=True, backprop="reversible", compiled="dynamic",
    ),
    "pyg-residual-compiled": Entrant(
        text="PyG plain residual net, stored, edge_index, torch.compile", peer=True, backprop="store", compiled="static"
    ),
    "pyg-torch-sparse": Entrant(
        text="PyG GroupAddRev, SparseTensor of torch-sparse",
        peer=True, backprop="reversible", rows=True, requires="torch_sparse", form="SparseTensor",
    ),
    "pyg-lib": Entrant(
        text="PyG GroupAddRev, edge_index, with pyg-lib", peer=True, backprop="reversible", requires="pyg_lib"
    ),
}  # fmt: skip
_REVERSIBLE = ("store", "pyg", "pyg-csr", "revgnn-bf16", "pyg-bf16")


# ---------------------------------------------------------------------- one operation
@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of this project beside the same by PyG or torch."""

    op: Literal["spmm", "gen_softmax", "gen_edges", "attention", "norm_act_drop"]
    width: int
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


@dataclass(frozen=True, kw_only=True)
class OverDepth:
    """Time and work space of a training step over depth, beside PyG's."""

    step: str
    """The name of a `Step`."""
    against: tuple[str, ...] = ("pyg-csr", "pyg-residual-csr")
    """Names in `ENTRANTS`: PyG's least memory, and its least time."""
    depths: tuple[int, ...] = (7, 28, 56, 112)
    graphs: tuple[str, ...] = ("arxiv32",)


# ---------------------------------------------------------------------- inference
@dataclass(frozen=True, kw_only=True)
class Inferring:
    """Logits or embeddings of every node of a deep network, without gradients."""

    step: str
    """The name of a `Step`, whose convolution takes sources and destinations apart in PyG."""
    layers: int
    graphs: tuple[str, ...] = ("arxiv8",)


# ---------------------------------------------------------------------- what else a block may be made of
@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """What the blocks of a network are made of."""

    text: str
    conv: Conv = "gcn"
    aggr: str = ""
    """Of SAGE and GEN."""
    norm: Literal["layer", "graph"] = "layer"
    mlp_layers: int = 1
    """Of GEN."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and activations."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A training step with blocks of each kind: fused where they can be, and differentiated by autograd."""

    kinds: tuple[str, ...]
    """Names in `BLOCK_KINDS`."""
    layers: int = 4
    graphs: tuple[str, ...] = ("arxiv8",)


# ---------------------------------------------------------------------- on a CUDA device
@dataclass(frozen=True, kw_only=True)
class Paper:
    """A training step at the depth and width of a row of the paper, beside the memory that the paper prints."""

    title: str
    step: str
    """The name of a `Step`: its convolution and PyG's form of the graph."""
    layers: int
    hidden: int
    paper_gb: float
    """The paper's memory column, GiB."""
    reversible: bool = True
    heads: int = 1
    aggr: Literal["softmax", "softmax_sg", "max"] = "softmax_sg"
    """Of GEN; PyG's steps aggregate with its softmax."""
    mlp_layers: int = 1
    """Of GEN."""
    norm: Literal["layer", "batch"] = "layer"
    graphs: tuple[str, ...] = ("arxiv",)
    devices: tuple[str, ...] = ("cuda",)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A training step launched kernel by kernel beside the same step captured in a CUDA graph."""

    step: str
    """The name of a `Step`."""
    hidden: int
    graphs: tuple[str, ...] = ("proteins",)
    devices: tuple[str, ...] = ("cuda",)


Case = Step | Op | WorkSpace | Growth | OverDepth | Inferring | Blocks | Paper | Capture

STEPS: dict[str, Step] = {
    "revgcn": Step(
        title="RevGCN",
        conv="gcn",
        # torch has no sparse product in bfloat16 on CPUs, so the residual network in bfloat16 cannot take a CSR tensor.
        against=(*_REVERSIBLE, "pyg-residual-csr", "pyg-residual-bf16"),
        csr="csr",
        edge_tensors=3.2,
    ),
    "revsage": Step(
        title="RevSAGE",
        conv="sage",
        against=_REVERSIBLE,
        csr="csr",
        edge_tensors=2.1,
    ),
    "revgen": Step(
        title="RevGEN, softmax",
        conv="gen",
        against=_REVERSIBLE,
        edge_tensors=16.0,
    ),
    "revgat-1": Step(
        title="RevGAT, 1 head",
        conv="gat",
        against=_REVERSIBLE,
        csr="csr",
        edge_tensors=6.4,
    ),
    "revgat-4": Step(
        title="RevGAT, 4 heads",
        conv="gat",
        heads=4,
        against=_REVERSIBLE,
        csr="csr",
        edge_tensors=6.8,
    ),
    "revgen-edges": Step(
        title="RevGEN, edge features",
        conv="gen",
        against=_REVERSIBLE,
        graphs=("proteins",),
        edge_features=True,
        edge_tensors=15.3,
    ),
}

OTHER_PEERS: dict[str, Step] = {
    "revgcn-others": Step(
        title="RevGCN",
        conv="gcn",
        against=(
            "pyg", "pyg-csr", "pyg-residual-csr", "pyg-compiled", "pyg-compiled-dynamic", "pyg-residual-compiled",
            "pyg-torch-sparse", "pyg-lib",
        ),
        graphs=("arxiv8",),
        csr="csr",
        edge_tensors=3.2,
    )
}  # fmt: skip
"""A step beside peers that need a compiler, and minutes of it, or packages from outside PyPI."""

OPS: dict[str, Op] = {
    **{f"spmm-{width}": Op(op="spmm", width=width, backward=False, edge_tensors=1.1) for width in (64, 128, 256)},
    "gen-softmax-64": Op(op="gen_softmax", width=64, edge_tensors=10.1),
    "gen-edges-64": Op(op="gen_edges", width=64, graphs=("proteins",), edge_tensors=10.1),
    "attention-64": Op(op="attention", width=64, edge_tensors=4.2),
    "attention-64-4-heads": Op(op="attention", width=64, heads=4, edge_tensors=4.5),
    "norm-act-drop-64": Op(op="norm_act_drop", width=64),
    "norm-act-drop-128": Op(op="norm_act_drop", width=128),
}

WORK_SPACES: dict[str, WorkSpace] = {
    f"work-{step}": WorkSpace(step=step) for step in ("revgcn", "revsage", "revgen", "revgat-1", "revgat-4")
}

GROWTHS: dict[str, Growth] = {
    "growth-depth": Growth(step="revgcn", axis="depth", points=(2, 4, 8, 16)),
    "growth-edges": Growth(step="revgcn", axis="edges", points=(0.25, 0.5, 1.0, 2.0)),
    "growth-width": Growth(step="revgcn", axis="width", points=(32, 64, 128, 256)),
}

OVER_DEPTH: dict[str, OverDepth] = {"over-depth": OverDepth(step="revgcn")}

INFERENCES: dict[str, Inferring] = {"inference": Inferring(step="revsage", layers=28)}

BLOCK_KINDS: dict[str, BlockKind] = {
    "gcn": BlockKind(text="GCN, LayerNorm"),
    "gcn-graph-norm": BlockKind(text="GCN, GraphNorm", norm="graph"),
    "sage-max": BlockKind(text="SAGE, maximum", conv="sage", aggr="max"),
    "gen-mlp-2": BlockKind(text="GEN, softmax, MLP of two maps", conv="gen", aggr="softmax", mlp_layers=2),
    "gen-max": BlockKind(text="GEN, maximum", conv="gen", aggr="max"),
    "gen-power": BlockKind(text="GEN, power mean", conv="gen", aggr="power"),
    "gcn-bfloat16": BlockKind(text="GCN, weights and activations in bfloat16", dtype="bfloat16"),
    "gcn-float16": BlockKind(text="GCN, weights and activations in float16", dtype="float16"),
}
BLOCKS: dict[str, Blocks] = {"blocks": Blocks(kinds=tuple(BLOCK_KINDS))}

PAPERS: dict[str, Paper] = {
    "paper-resgcn": Paper(
        title="ResGCN 28x128", step="revgcn", layers=28, hidden=128, paper_gb=11.15, reversible=False, norm="batch"
    ),
    "paper-revgcn": Paper(title="RevGCN 28x128", step="revgcn", layers=28, hidden=128, paper_gb=1.84),
    "paper-revsage": Paper(title="RevSAGE 28x128", step="revsage", layers=28, hidden=128, paper_gb=1.17),
    "paper-revgen": Paper(title="RevGEN 28x128", step="revgen", layers=28, hidden=128, paper_gb=4.08),
    "paper-revgat": Paper(
        title="RevGAT 5x768", step="revgat-1", layers=5, hidden=768, heads=3, paper_gb=6.30, norm="batch"
    ),
    "paper-revgnn-deep": Paper(
        title="RevGNN-Deep 1001x80", step="revgen-edges", layers=1001, hidden=80, paper_gb=2.86,
        aggr="max", mlp_layers=2, graphs=("proteins",),
    ),
    "paper-revgnn-wide": Paper(
        title="RevGNN-Wide 448x224", step="revgen-edges", layers=448, hidden=224, paper_gb=7.91,
        aggr="max", mlp_layers=2, graphs=("proteins",),
    ),
}  # fmt: skip

CAPTURES: dict[str, Capture] = {"capture-revgen-edges": Capture(step="revgen-edges", hidden=80)}

CASES: dict[str, Case] = {
    **STEPS, **OTHER_PEERS, **OPS, **WORK_SPACES, **GROWTHS, **OVER_DEPTH, **INFERENCES, **BLOCKS, **PAPERS, **CAPTURES,
}  # fmt: skip


def cases_on(device: str) -> list[str]:
    """The cases that are declared for a device: all but those of another."""
    return [name for name, case in CASES.items() if device in getattr(case, "devices", (device,))]
