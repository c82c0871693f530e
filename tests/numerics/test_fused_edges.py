"""GEN blocks that read raw edge features and differentiate themselves, against autograd on the same blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revgnn.data import GraphInfo
from revgnn.data.categorical import multi_hot
from revgnn.graph import Graph
from revgnn.nn.block import Block
from revgnn.nn.convs import GENConv, GENOptions, mlp
from revgnn.nn.gnn import GNN
from revgnn.nn.model import ModelConfig, build_model
from revgnn.nn.norms import NormActDrop
from revgnn.ops import cpu, triton, using
from revgnn.stack import WorkSpace, recomputing
from tolerances import assert_close, relative_error

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]

AGGRS = ["max", "softmax", "softmax_sg", "sum", "mean"]
_rng = torch.Generator().manual_seed(0)
_some = torch.randint(60, (2, 400), generator=_rng)
GRAPHS = {
    "isolated nodes, repeated edges": Graph.from_edge_index(torch.cat([_some, _some[:, :30]], 1), 63),
    "no edges": Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 7),
}
MAPS = {  # the convolution's own map, its bias, the shared encoder, its bias
    "own and shared": (True, True, True, True),
    "own and shared, no bias": (True, False, True, False),
    "own": (True, True, False, False),
    "shared": (False, False, True, True),
}


def make(
    aggr: Any, width: int, features: int, maps: str, *, mlp_layers: int = 1, mlp_norm: Any = "layer"
) -> tuple[Block, Tensor | None, Tensor | None]:
    """A block in float64, and the shared encoder's weight and bias."""
    torch.manual_seed(0)
    own, own_bias, shared, shared_bias = MAPS[maps]
    columns = 2 * width if own and shared else width if shared else features
    options = GENOptions(
        aggr=aggr, t=0.7, learn_t=aggr == "softmax", mlp_layers=mlp_layers, mlp_norm=mlp_norm,
        edge_linear=own, edge_bias=own_bias,
    )  # fmt: skip
    conv = GENConv(width, width, edge_channels=columns, options=options)
    block = Block(NormActDrop(width, "layer", dropout=0.4), conv).double()
    for parameter in block.parameters():  # zeros and ones would hide a term
        parameter.data += 0.3 * torch.randn_like(parameter)
    if not shared:
        return block, None, None
    weight = torch.randn(columns, features, dtype=torch.double)
    return block, weight, torch.randn(columns, dtype=torch.double) if shared_bias else None


def by_autograd(block: Block, x: Tensor, cotangent: Tensor, graph: Graph, *edges: Tensor | None) -> list[Tensor]:
    leaves = [x.clone().requires_grad_(), *(e.clone().requires_grad_() for e in edges[1:] if e is not None)]
    rest = iter(leaves[1:])
    maps = [None if e is None else next(rest) for e in edges[1:]]
    with recomputing():
        value = block(leaves[0], 5, graph, None, edges[0], *maps)
    wanted = [*leaves, *block.parameters()]
    grads = torch.autograd.grad(value, wanted, cotangent, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True))]


def fused(
    block: Block, x: Tensor, cotangent: Tensor, graph: Graph, *edges: Tensor | None, sign: int = 1
) -> list[Tensor]:
    """As `by_autograd`; value and gradient are columns of wider tensors."""
    assert block.fuses(x, graph, None, *edges)
    to, dx = (torch.full((x.size(0), 3 * x.size(1)), at, dtype=x.dtype)[:, : x.size(1)] for at in (0.0, 1.0))
    with torch.no_grad(), recomputing():
        found = block.add_value_and_grad(
            to, sign, x, cotangent, dx, 5, graph, None, *edges, accumulate=True, work=WorkSpace()
        )  # fmt: skip
        value = torch.empty_like(x)
        block.add_value(value, 0, x, 5, graph, None, *edges, work=WorkSpace())
    assert torch.equal(value, to * sign), "both evaluations give the same bits"
    keys = [e for e in edges[1:] if e is not None]
    return [value, dx - 1.0, *(found[key] for key in keys), *(found[p] for p in block.parameters())]


def check(found: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert relative_error(a.double(), b) < bound or float((a - b).abs().max()) < bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [6, 40, 66])
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("aggr", AGGRS)
def test_value_and_every_gradient_equal_autograds(aggr: str, graph: str, width: int, dtype: torch.dtype) -> None:
    for number, maps in enumerate(MAPS):
        features = (8, 1, 5, 3)[number]
        block, weight, bias = make(aggr, width, features, maps)
        x, cotangent = torch.randn(2, GRAPHS[graph].num_nodes, width, dtype=torch.double)
        attr = torch.randn(GRAPHS[graph].num_edges, features, dtype=torch.double)
        expected = by_autograd(block, x, cotangent, GRAPHS[graph], attr, weight, bias)
        block.to(dtype)
        edges = [None if e is None else e.to(dtype) for e in (attr, weight, bias)]
        found = fused(block, x.to(dtype), cotangent.to(dtype), GRAPHS[graph], *edges, sign=-1 if number else 1)
        check(found, expected, 1e-12 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("width", [6, 66])
@pytest.mark.parametrize("aggr", ["softmax", "sum", "mean"])  # the edge of a maximum is another one where two are close
def test_under_autocast_rows_are_bfloat16_and_everything_else_float32(aggr: str, width: int) -> None:
    graph = GRAPHS["isolated nodes, repeated edges"]
    for maps in MAPS:
        block, weight, bias = make(aggr, width, 5, maps)
        x, cotangent = torch.randn(2, graph.num_nodes, width, dtype=torch.double)
        attr = torch.randn(graph.num_edges, 5, dtype=torch.double)
        expected = by_autograd(block, x, cotangent, graph, attr, weight, bias)
        block.float()
        edges = [None if e is None else e.float() for e in (attr, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16):
            found = fused(block, x.float(), cotangent.float(), graph, *edges)
        assert all(value.dtype == torch.float32 for value in found)
        for part in (slice(0, 1), slice(1, 2), slice(2, None)):  # the value, the gradient of x, those of parameters
            joined = [torch.cat([value.flatten().double() for value in values[part]]) for values in (found, expected)]
            assert relative_error(*joined) < 3e-2


@pytest.mark.parametrize("rows", [16, 63, 8192])
@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("aggr", ["max", "softmax"])
def test_an_mlp_of_two_maps_in_blocks_of_rows(aggr: str, norm: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "ROWS", rows)
    graph = GRAPHS["isolated nodes, repeated edges"]
    block, weight, bias = make(aggr, 20, 8, "own and shared", mlp_layers=2, mlp_norm=norm)
    x, cotangent = torch.randn(2, graph.num_nodes, 20, dtype=torch.double)
    edges = torch.randn(graph.num_edges, 8, dtype=torch.double), weight, bias
    check(fused(block, x, cotangent, graph, *edges), by_autograd(block, x, cotangent, graph, *edges), 1e-12)


def test_categorical_edges() -> None:
    graph = GRAPHS["isolated nodes, repeated edges"]
    codes = torch.stack([torch.randint(size, (graph.num_edges,), generator=_rng) for size in (5, 6, 2)], 1)
    attr = multi_hot(codes, (5, 6, 2)).double()
    block, weight, bias = make("softmax", 16, 13, "own and shared")
    x, cotangent = torch.randn(2, graph.num_nodes, 16, dtype=torch.double)
    edges = attr, weight, bias
    check(fused(block, x, cotangent, graph, *edges), by_autograd(block, x, cotangent, graph, *edges), 1e-12)


def test_what_does_not_fuse_goes_by_autograd() -> None:
    graph, attr = GRAPHS["isolated nodes, repeated edges"], torch.randn(430, 8)
    block, weight, bias = make("max", 16, 8, "own and shared")
    x = torch.randn(63, 16)
    block.float()
    assert weight is not None
    assert bias is not None
    weight, bias = weight.float(), bias.float()
    assert block.fuses(x, graph, None, attr, weight, bias)
    assert not block.fuses(x, graph, None, attr.clone().requires_grad_(), weight, bias)
    assert not block.fuses(x, graph, None, attr.double(), weight, bias)
    assert not block.fuses(x, graph, None, torch.randn(8, 430).t(), weight, bias)
    assert not block.fuses(x, graph, None, attr, weight.t(), bias)
    assert not block.fuses(x, graph, None, None)
    assert not make("power", 16, 8, "own")[0].float().fuses(x, graph, None, attr)
    assert not GENConv(16, 16, edge_channels=16, options=GENOptions(edge_linear=False)).fuses(x, graph)


@pytest.mark.parametrize("aggr", ["max", "softmax", "mean"])
@pytest.mark.parametrize("state", ["float", "exact64"])
def test_a_network_with_a_shared_encoder_equals_store(aggr: Any, state: Any) -> None:
    """The encoder's gradients are sums over all layers and groups."""
    graph = GRAPHS["isolated nodes, repeated edges"]
    x, attr = torch.randn(63, 5, dtype=torch.double), torch.rand(graph.num_edges, 8, dtype=torch.double)
    info = GraphInfo(in_channels=5, num_outputs=3, edge_channels=8)
    found = []
    for backprop, held in (("store", "float"), ("reversible", state)):
        torch.manual_seed(0)
        config = ModelConfig(
            conv="gen", num_layers=6, hidden_channels=12, dropout=0.2, gen=GENOptions(aggr=aggr, learn_t=True),
            backprop=backprop, state=held,
        )  # fmt: skip
        model = build_model(config, info).double()
        loss = model(x, graph, attr, seed=3).square().mean()
        found.append(torch.autograd.grad(loss, _used(model, aggr)))
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm().clamp(min=1e-3)


def _used(model: GNN, aggr: str) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if aggr == "softmax" or not name.endswith("conv.t")]


def test_a_gradient_of_edge_features_still_arrives() -> None:
    graph = GRAPHS["isolated nodes, repeated edges"]
    x, attr = torch.randn(63, 5, dtype=torch.double), torch.rand(graph.num_edges, 8, dtype=torch.double)
    found = []
    for backprop in ("store", "reversible"):
        torch.manual_seed(0)
        config = ModelConfig(conv="gen", num_layers=3, hidden_channels=8, dropout=0.0, backprop=backprop)
        model = build_model(config, GraphInfo(in_channels=5, num_outputs=3, edge_channels=8)).double()
        leaf = attr.clone().requires_grad_()
        found.append(torch.autograd.grad(model(x, graph, leaf, seed=3).square().mean(), leaf)[0])
    assert_close(found[1], found[0])


@pytest.mark.skipif(
    not (triton.AVAILABLE and triton.interpreted()), reason="needs Triton's interpreter: TRITON_INTERPRET is not 1"
)
@pytest.mark.parametrize("aggr", ["max", "softmax", "mean"])
def test_the_same_on_the_kernels_for_cuda_interpreted(aggr: str) -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 2, 3, 3, 5], [1, 0, 0, 0, 3, 5, 3]]), 7)
    block, weight, bias = make(aggr, 6, 3, "own and shared", mlp_layers=2)
    assert weight is not None
    assert bias is not None
    x, cotangent = torch.randn(2, 7, 6)
    edges = torch.randn(7, 3), weight.float(), bias.float()
    block.float()
    expected = fused(block, x, cotangent, graph, *edges)
    with using("triton"):
        check(fused(block, x, cotangent, graph, *edges), [e.double() for e in expected], 2e-5)
