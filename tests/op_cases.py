"""What the tests of all implementations of the ops ask, declared once: graphs, cases with their inputs, and calls.

The oracle of a case is the reference in float64 on the same (rounded) inputs, backpropagating the same random
cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from revgnn import ops
from revgnn.graph import Graph
from tolerances import assert_close

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
K = 5


def _star(leaves: int) -> Tensor:
    hub, nodes = torch.zeros(leaves, dtype=torch.int64), torch.arange(1, leaves + 1)
    return torch.cat([torch.stack([nodes, hub]), torch.stack([hub, nodes])], 1)


def _random(num_nodes: int, num_edges: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, num_nodes, (2, num_edges), generator=generator)


def _path(num_nodes: int) -> Tensor:
    nodes = torch.arange(num_nodes)
    return torch.stack([nodes[:-1], nodes[1:]])


GRAPHS = {
    "no nodes": Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0),
    "no edges": Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 5),
    "one loop": Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64), 1),
    "isolated": Graph.from_edge_index(_random(20, 60), 63),
    "star": Graph.from_edge_index(_star(299), 300),
    "path": Graph.from_edge_index(_path(65), 65),
    "repeated": Graph.from_edge_index(_random(30, 50).repeat(1, 3), 63),
    "loops": Graph.from_edge_index(torch.arange(63).repeat(2, 2), 63),
    "random": Graph.from_edge_index(_random(1000, 4000), 1000),
}


@dataclass(frozen=True)
class Case:
    """An op with everything but its inputs fixed."""

    make: Callable[[Graph, int], dict[str, Tensor]]
    """Inputs that may need gradients, float64, by name, of a width."""
    run: Callable[..., Tensor]
    """(graph, width, **inputs) -> output"""
    over_edges: bool = True
    """Whether the graph matters."""


def _x(graph: Graph, width: int) -> dict[str, Tensor]:
    return {"x": torch.randn(graph.num_nodes, width, dtype=torch.float64)}


def _with_weight(graph: Graph, width: int) -> dict[str, Tensor]:
    return _x(graph, width) | {"weight": torch.randn(graph.num_edges, dtype=torch.float64)}


def _with_t(graph: Graph, width: int) -> dict[str, Tensor]:
    return _x(graph, width) | {"t": torch.tensor(1.5, dtype=torch.float64)}


def _with_edges(graph: Graph, width: int) -> dict[str, Tensor]:
    return _x(graph, width) | {
        "edge_attr": torch.randn(graph.num_edges, K, dtype=torch.float64),
        "weight": torch.randn(width, K, dtype=torch.float64) / 2,
        "bias": torch.randn(width, dtype=torch.float64),
    }


def _with_edges_and_t(graph: Graph, width: int) -> dict[str, Tensor]:
    return _with_edges(graph, width) | _with_t(graph, width)


def _with_affine(graph: Graph, width: int) -> dict[str, Tensor]:
    return _x(graph, width) | {
        "weight": torch.randn(width, dtype=torch.float64),
        "bias": torch.randn(width, dtype=torch.float64),
    }


def _heads(width: int) -> int:
    return 3 if width % 3 == 0 else (4 if width % 4 == 0 else 1)


def _with_score(graph: Graph, width: int) -> dict[str, Tensor]:
    heads = _heads(width)
    return {
        "x": torch.randn(graph.num_nodes, heads, width // heads, dtype=torch.float64),
        "score_src": 2 * torch.randn(graph.num_nodes, heads, dtype=torch.float64),
    }


def _with_scores(graph: Graph, width: int) -> dict[str, Tensor]:
    both = _with_score(graph, width)
    return both | {"score_dst": 2 * torch.randn_like(both["score_src"])}


def _keep(graph: Graph) -> Tensor:
    return torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(2)).to(graph.device) > 0.4


def _mask(graph: Graph, width: int) -> Tensor:
    return torch.rand(graph.num_nodes, width, generator=torch.Generator().manual_seed(3)).to(graph.device) > 0.4


def _stats(x: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    ends = ((-1, 1), (0.5, 2))
    mean, var = (torch.linspace(low, high, x.size(1), dtype=dtype, device=x.device) for low, high in ends)
    return mean, var


def _gen(reduce: ops.Aggr, **more: float) -> Callable[..., Tensor]:
    def run(graph: Graph, width: int, x: Tensor, edge_attr: Tensor | None = None, **inputs: Tensor) -> Tensor:
        return ops.gen_aggr(x, graph, edge_attr, reduce=reduce, **inputs, **more)

    return run


def _head(**settings: object) -> Callable[..., Tensor]:
    def run(graph: Graph, width: int, x: Tensor, **affine: Tensor) -> Tensor:
        return ops.norm_act_drop(x, **affine, **settings)

    return run


CASES = {
    "spmm sum": Case(_x, lambda g, d, x: ops.spmm(x, g)),
    "spmm mean": Case(_x, lambda g, d, x: ops.spmm(x, g, reduce="mean")),
    "spmm max": Case(_x, lambda g, d, x: ops.spmm(x, g, reduce="max")),
    "spmm weighted": Case(_with_weight, lambda g, d, x, weight: ops.spmm(x, g, weight)),
    "spmm weighted mean": Case(_with_weight, lambda g, d, x, weight: ops.spmm(x, g, weight, reduce="mean")),
    "spmm constant weights": Case(
        _x, lambda g, d, x: ops.spmm(x, g, torch.linspace(0, 1, g.num_edges, dtype=torch.float64, device=g.device))
    ),
    "gen softmax": Case(_with_t, _gen("softmax")),
    "gen softmax_sg": Case(_with_t, _gen("softmax_sg")),
    "gen sum": Case(_x, _gen("sum")),
    "gen mean": Case(_x, _gen("mean")),
    "gen max": Case(_x, _gen("max")),
    "gen power": Case(_x, _gen("power", p=2.0)),
    "gen edges softmax": Case(_with_edges_and_t, _gen("softmax")),
    "gen edges softmax_sg": Case(_with_edges_and_t, _gen("softmax_sg")),
    "gen edges sum": Case(_with_edges, _gen("sum")),
    "gen edges mean": Case(_with_edges, _gen("mean")),
    "gen edges max": Case(_with_edges, _gen("max")),
    "attention": Case(
        _with_scores, lambda g, d, x, score_src, score_dst: ops.attention(x, g, score_src, score_dst, keep=_keep(g))
    ),
    "attention, one side": Case(_with_score, lambda g, d, x, score_src: ops.attention(x, g, score_src)),
    "layer": Case(_with_affine, _head(norm="layer"), over_edges=False),
    "layer, seed": Case(_with_affine, _head(norm="layer", p=0.5, seed=2**40 + 7), over_edges=False),
    "layer, mask": Case(
        _with_affine,
        lambda g, d, x, **affine: ops.norm_act_drop(x, **affine, p=0.4, mask=_mask(g, d)),
        over_edges=False,
    ),
    "batch": Case(_with_affine, _head(norm="batch", p=0.3, seed=5), over_edges=False),
    "batch, given": Case(
        _with_affine,
        lambda g, d, x, **affine: ops.norm_act_drop(x, **affine, norm="batch", stats=_stats(x)),
        over_edges=False,
    ),
    "none": Case(_x, _head(norm="none", p=0.2, seed=1), over_edges=False),
    "none, linear": Case(_x, _head(norm="none", act=False, p=0.2, seed=1), over_edges=False),
}


def _settle(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Round to a dtype, as leaves; what is not features is at most float32 where sums are."""
    parameters = torch.float32 if dtype == torch.bfloat16 else dtype
    return {
        name: value.to(dtype if name == "x" else parameters).detach().requires_grad_() for name, value in inputs.items()
    }


def _value_and_gradients(
    case: Case, graph: Graph, width: int, inputs: dict[str, Tensor], cotangent: Tensor
) -> dict[str, Tensor]:
    out = case.run(graph, width, **inputs)
    assert out.dtype == inputs["x"].dtype
    gradients = torch.autograd.grad(out, list(inputs.values()), cotangent.to(out.dtype))
    return {"out": out.detach(), **dict(zip(inputs, gradients, strict=True))}


def _scale(value: Tensor, graph: Graph, x: Tensor) -> float:
    """What errors are measured by: the largest value, or the root of the number of terms that it is a sum of."""
    largest = float(value.abs().max()) if value.numel() else 0.0
    degrees = torch.cat([graph.in_degree, graph.out_degree, torch.ones(1)])
    terms = x.numel() if value.dim() == 0 else float(degrees.max())
    return max(largest, terms**0.5, 1.0)


def check(
    name: str, graph: Graph, width: int, implementation: ops.Choice, dtype: torch.dtype, device: str = "cpu"
) -> None:
    """Compare value and every gradient of a case, by an implementation, with the oracle."""
    case = CASES[name]
    inputs = _settle(case.make(graph, width), dtype)
    exact = {key: value.detach().double().requires_grad_() for key, value in inputs.items()}
    cotangent = torch.randn(graph.num_nodes, *inputs["x"].shape[1:]).to(dtype)
    with ops.using("reference"):
        expected = _value_and_gradients(case, graph, width, exact, cotangent.double())
    inputs = {key: value.detach().to(device).requires_grad_() for key, value in inputs.items()}
    with ops.using(implementation):
        found = _value_and_gradients(case, graph.to(device), width, inputs, cotangent.to(device))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = _scale(value, graph, inputs["x"])
        assert_close(found[key].cpu().double() / scale, value / scale, dtype=dtype)


# ---------------------------------------------------------------------- calls, for what is asked of every op alike
def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def calls(graph: Graph, width: int) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Calls of every op: name -> (function of leaves, leaves)."""
    nodes, edges = graph.num_nodes, graph.num_edges
    x, row = leaf(nodes, width), leaf(width)
    attr, weight, t = leaf(edges, K), leaf(width, K), leaf()
    values, src, dst = leaf(nodes, 2, width), leaf(nodes, 2), leaf(nodes, 2)
    keep, mask = torch.rand(edges) > 0.3, torch.rand(nodes, width) > 0.3
    found: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "spmm": (lambda x, w: ops.spmm(x, graph, w), [x, leaf(edges)]),
        "mean": (lambda x: ops.spmm(x, graph, reduce="mean"), [x]),
        "max": (lambda x: ops.spmm(x, graph, reduce="max"), [x]),
        "softmax": (lambda x, t: ops.gen_aggr(x, graph, t=t), [x, t]),
        "power": (lambda x, p: ops.gen_aggr(x, graph, reduce="power", p=p), [x, torch.tensor(2.0).requires_grad_()]),
        "attention": (lambda x, s, d: ops.attention(x, graph, s, d, keep=keep), [values, src, dst]),
        "layer": (lambda x, w, b: ops.norm_act_drop(x, w, b, p=0.3, seed=3), [x, row, leaf(width)]),
        "batch": (lambda x, w, b: ops.norm_act_drop(x, w, b, norm="batch", p=0.3, mask=mask), [x, row, leaf(width)]),
        "none": (lambda x: ops.norm_act_drop(x, norm="none", p=0.3, seed=3), [x]),
    }
    for reduce in ("softmax", "sum", "mean", "max"):
        found[f"edges {reduce}"] = (
            lambda x, e, w, b, reduce=reduce: ops.gen_aggr(x, graph, e, w, b, reduce=reduce),
            [x, attr, weight, row],
        )
    return found


NAMES = sorted(calls(Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64)), 1))


def results(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The value of a call, and the gradients of its leaves."""
    out = call(*leaves)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]


def custom_ops(graph: Graph) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each custom op with arguments: what `torch.library.opcheck` takes."""
    nodes, num_edges, reverse = graph.num_nodes, graph.num_edges, graph.reverse
    edges = (graph.indptr, graph.indices, reverse.indptr, reverse.indices, reverse.edge_ids)
    x, t, attr, weight, bias = leaf(nodes, 6), leaf(6), leaf(num_edges, K), leaf(K, 6), leaf(6)
    values, src, dst = leaf(nodes, 2, 3), leaf(nodes, 2), leaf(nodes, 2)
    mask, keep = torch.rand(nodes, 6) > 0.3, torch.rand(num_edges) > 0.3
    kernels = torch.ops.revgnn
    yield kernels.spmm, (x, leaf(num_edges), *edges, True)
    yield kernels.spmm, (x.detach(), None, *edges[:2], None, None, None, False)
    yield kernels.neighbour_max, (x, *edges)
    yield kernels.gen_aggr, (x, t, None, None, None, *edges, "softmax")
    yield kernels.gen_aggr, (x, None, attr, weight, bias, *edges, "mean")
    yield kernels.edge_max, (x, attr, weight, None, *edges)
    yield kernels.attention, (values, src, dst, keep, *edges, 0.2)
    yield kernels.norm_act_drop, (x, t, bias, None, None, mask, "layer", 1e-5, True, 0.5, None, True)
    yield kernels.linear, (torch.randn(5, 6).bfloat16().requires_grad_(), leaf(4, 6), leaf(4), False)
    yield kernels.linear, (torch.randn(5, 6).bfloat16(), leaf(4, 6), None, True)
    yield kernels.norm_act_drop, (x, t, bias, torch.zeros(6), torch.ones(6), None, "batch", 1e-5, True, 0.5, 7, False)
