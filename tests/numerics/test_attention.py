"""Attention on the compiled kernels: every way that heads can share vectors, and rows that fill more than one tile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from revgnn import ops
from revgnn.graph import Graph
from revgnn.ops import native
from tolerances import assert_close

pytestmark = [
    pytest.mark.skipif(not native.AVAILABLE, reason=native.STATE),
    pytest.mark.usefixtures("poison"),
]

NUM_NODES, HUB_EDGES = 50, 1500


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Short rows, empty rows, and one long row in both directions."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randint(1, NUM_NODES - 4, (2, HUB_EDGES), generator=generator)
    hub = torch.zeros(HUB_EDGES, dtype=torch.int64)
    edges = [torch.stack([nodes[0], hub]), torch.stack([hub, nodes[1]]), nodes[:, :400]]
    return Graph.from_edge_index(torch.cat(edges, 1), NUM_NODES)


@pytest.fixture
def any_isa() -> Iterator[None]:
    before = native.isa()
    yield
    native.use_isa(before)


# heads, width of one: one head narrow, odd, wide and in pieces; heads that fill one vector, two, a half or an odd part;
# more heads than a vector has lanes; several heads that are wide.
SHAPES = [
    (1, 3), (1, 5), (1, 65), (1, 257), (1, 600), (4, 16), (4, 8), (8, 8), (2, 32), (3, 40), (4, 4), (5, 1), (3, 21),
    (2, 3), (7, 9), (20, 3), (33, 8), (3, 100), (2, 300),
]  # fmt: skip


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize(("heads", "width"), SHAPES)
@pytest.mark.parametrize("with_dst", [True, False])
def test_every_shape_of_heads(heads: int, width: int, with_dst: bool, isa: str, graph: Graph, any_isa: None) -> None:
    try:
        native.use_isa(isa)
    except ValueError:
        pytest.skip(f"this machine or build has no {isa}")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        _check(heads, width, with_dst, dtype, graph)


def _check(heads: int, width: int, with_dst: bool, dtype: torch.dtype, graph: Graph) -> None:
    x = torch.randn(NUM_NODES, heads, width).to(dtype)
    scores = [3 * torch.randn(NUM_NODES, heads, dtype=native.sum_dtype(dtype)) for _ in range(1 + with_dst)]
    keep = torch.rand(graph.num_edges) > 0.3
    cotangent = torch.randn_like(x)
    found = _results([x, *scores], keep, cotangent, graph)
    with ops.using("reference"):
        exact = [value.double() for value in (x, *scores)]
        expected = _results(exact, keep, cotangent.double(), graph)
    for value, right in zip(found, expected, strict=True):
        scale = max(1.0, float(right.abs().max()), HUB_EDGES**0.5)
        assert_close(value.double() / scale, right / scale, dtype=dtype)


def _results(inputs: list[Tensor], keep: Tensor, cotangent: Tensor, graph: Graph) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in inputs]
    x, src, *dst = leaves
    out = ops.attention(x, graph, src, dst[0] if dst else None, keep=keep)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]


@pytest.mark.parametrize(("heads", "width"), [(4, 16), (3, 21), (1, 300)])
def test_the_gradient_is_added(heads: int, width: int, graph: Graph) -> None:
    x, src = torch.randn(NUM_NODES, heads, width), torch.randn(NUM_NODES, heads)
    grad, y, lse = torch.randn_like(x), torch.empty_like(x), torch.empty_like(src)
    csr = native.forward_csr(graph)
    native.attention(x, csr, score_src=src, score_dst=None, negative_slope=0.2, keep=None, out=y, lse=lse)
    written, added = torch.empty_like(x), torch.ones_like(x)
    for dx in (written, added):
        native.attention_backward(
            grad,
            x,
            native.reverse_csr(graph),
            score_src=src,
            score_dst=None,
            negative_slope=0.2,
            keep=None,
            y=y,
            lse=lse,
            slope_y=None,
            slope_sum=None,
            scratch=torch.empty(NUM_NODES, heads, 3),
            dx=dx,
            dscore_src=torch.empty_like(src),
            dscore_dst=None,
            accumulate=dx is added,
        )
    assert_close(added, written + 1)


def test_the_same_bits_with_any_number_of_threads() -> None:
    graph = Graph.from_edge_index(torch.randint(0, 2000, (2, 30_000)), 2000)
    before = torch.get_num_threads()
    inputs = [torch.randn(2000, 4, 16), torch.randn(2000, 4), torch.randn(2000, 4)]
    keep, cotangent = torch.rand(graph.num_edges) > 0.3, torch.randn(2000, 4, 16)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(_results(inputs, keep, cotangent, graph))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
