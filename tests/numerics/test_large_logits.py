"""Softmax aggregation and attention where logits are large: gradients as good as PyG's in the same precision.

Beyond 2^24 a logit in float32 has no digits behind the point: whatever adds the logarithm of a sum to one loses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import softmax

from revgnn import ops
from revgnn.graph import Graph
from revgnn.ops import cpu, triton

N, E, D, K = 40, 200, 20, 3
WAYS = ["reference", "baseline", "avx2", "avx512", "triton"]


@contextmanager
def _running(way: str) -> Iterator[None]:
    """Run the ops by an implementation, or natively on an instruction set."""
    if way == "triton" and not triton.interpreted():
        pytest.skip("Triton's kernels are compiled")
    if way in ("reference", "triton"):
        with ops.using(way):
            yield
        return
    if not cpu.AVAILABLE:
        pytest.skip(cpu.STATE)
    before = cpu.isa()
    try:
        cpu.use_isa(way)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        cpu.use_isa(before)


def _edges() -> tuple[Tensor, Graph]:
    """Edges in the graph's own order, with nodes of one edge and of none."""
    graph = Graph.from_edge_index(torch.randint(0, N - 3, (2, E)), N)
    return graph.edge_index, Graph.from_edge_index(graph.edge_index, N)


def _gradients(call: Callable[..., Tensor], inputs: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    leaves = [value.clone().requires_grad_() for value in inputs]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def _check(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor], way: str) -> None:
    """Compare value and gradients with float64, beside PyG's in float32."""
    with torch.no_grad():
        cotangent = torch.randn(theirs(*inputs).shape)
    truth = _gradients(theirs, [value.double() for value in inputs], cotangent)
    peer = _gradients(theirs, inputs, cotangent)
    with _running(way):
        found = _gradients(ours, inputs, cotangent)
    for one, other, exact in zip(found, peer, truth, strict=True):
        assert one.isfinite().all()
        # A gradient of scores that is zero is a difference of products of the cotangent's size.
        size = exact.norm().clamp(min=float(cotangent.norm()))
        assert (one - exact).norm() < 3 * (other - exact).norm() + 1e-5 * size


def _sum_to(values: Tensor, weights: Tensor, edges: Tensor) -> Tensor:
    return values.new_zeros(N, *values.shape[1:]).index_add(0, edges[1], values * weights)


@pytest.mark.parametrize(("t", "scale", "offset"), [
    (1.0, 1e4, 0.0), (1.0, 1e5, 0.0), (-1.0, 1e5, 0.0), (100.0, 1e4, 0.0), (1e6, 100.0, 0.0), (-1e6, 100.0, 0.0),
    (1.0, 1.0, 1e6), (1e6, 1e-6, 1.0), (0.0, 1e4, 0.0), (1e4, 1e4, 0.0),
])  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_softmax_aggregation(way: str, t: float, scale: float, offset: float) -> None:
    edges, graph = _edges()

    def theirs(x: Tensor, t: Tensor) -> Tensor:
        messages = (x.relu() + 1e-7)[edges[0]]
        return _sum_to(messages, softmax(messages * t, edges[1], num_nodes=N), edges)

    inputs = [torch.randn(N, D) * scale + offset, torch.full((D,), t)]
    _check(lambda x, t: ops.gen_aggr(x, graph, t=t), theirs, inputs, way)


@pytest.mark.parametrize(("t", "scale"), [(1.0, 1e5), (-1.0, 1e5), (1e6, 100.0)])
@pytest.mark.parametrize("way", WAYS)
def test_softmax_aggregation_with_edge_features(way: str, t: float, scale: float) -> None:
    """Whole numbers, so that every order of their sums gives the same messages."""
    edges, graph = _edges()

    def theirs(x: Tensor, attr: Tensor, weight: Tensor, t: Tensor) -> Tensor:
        messages = (x[edges[0]] + attr @ weight.t()).relu() + 1e-7
        return _sum_to(messages, softmax(messages * t, edges[1], num_nodes=N), edges)

    x, attr, weight = (torch.randn(N, D) * scale).round(), torch.randint(0, 3, (E, K)), torch.randint(-2, 3, (D, K))
    inputs = [x, attr.float(), weight.float(), torch.full((D,), t)]
    _check(lambda x, attr, weight, t: ops.gen_aggr(x, graph, attr, weight, t=t), theirs, inputs, way)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("scale", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("way", WAYS)
def test_attention(way: str, scale: float, dropping: bool) -> None:
    edges, graph = _edges()
    keep = torch.rand(E) > 0.3 if dropping else None
    kept = edges if keep is None else edges[:, keep]

    def theirs(x: Tensor, score_src: Tensor, score_dst: Tensor) -> Tensor:
        logits = F.leaky_relu(score_src[kept[0]] + score_dst[kept[1]], 0.2)
        return _sum_to(x[kept[0]], softmax(logits, kept[1], num_nodes=N).unsqueeze(2), kept)

    inputs = [torch.randn(N, 2, 5), torch.randn(N, 2) * scale, torch.randn(N, 2) * scale]
    _check(lambda x, s, d: ops.attention(x, graph, s, d, keep=keep), theirs, inputs, way)


@pytest.mark.parametrize("way", WAYS)
def test_scores_that_nearly_tie(way: str) -> None:
    """The weights of a row are then all alike, and its gradient is a small difference of large products."""
    edges, graph = _edges()

    def theirs(x: Tensor, score_src: Tensor) -> Tensor:
        logits = F.leaky_relu(score_src, 0.2)[edges[0]]
        return _sum_to(x[edges[0]], softmax(logits, edges[1], num_nodes=N).unsqueeze(2), edges)

    inputs = [torch.randn(N, 3, 4), -1e7 + torch.randint(0, 4, (N, 3)).float()]
    _check(lambda x, s: ops.attention(x, graph, s), theirs, inputs, way)
