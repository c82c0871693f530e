"""Attention on the compiled kernels: every way that heads can share vectors, and rows that fill more than one tile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from revgnn import ops
from revgnn.graph import Graph
from revgnn.ops import cpu
from tolerances import assert_close

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
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
    before = cpu.isa()
    yield
    cpu.use_isa(before)


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
        cpu.use_isa(isa)
    except ValueError:
        pytest.skip(f"this machine or build has no {isa}")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        _check(heads, width, with_dst, dtype, graph)


def _check(heads: int, width: int, with_dst: bool, dtype: torch.dtype, graph: Graph) -> None:
    x = torch.randn(NUM_NODES, heads, width).to(dtype)
    scores = [3 * torch.randn(NUM_NODES, heads, dtype=cpu.sum_dtype(dtype)) for _ in range(1 + with_dst)]
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
    grad, y, normaliser = torch.randn_like(x), torch.empty_like(x), torch.empty(NUM_NODES, 2, heads)
    csr = cpu.forward_csr(graph)
    cpu.attention(
        x, csr, score_src=src, score_dst=None, negative_slope=0.2, keep=None, out=y, normaliser=normaliser
    )  # fmt: skip
    written, added = torch.empty_like(x), torch.ones_like(x)
    for dx in (written, added):
        cpu.attention_backward(
            grad,
            x,
            cpu.reverse_csr(graph),
            score_src=src,
            score_dst=None,
            negative_slope=0.2,
            keep=None,
            y=y,
            normaliser=normaliser,
            slope_y=None,
            slope_sum=None,
            scratch=torch.empty(NUM_NODES, heads, 4),
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


# ---------------------------------------------------------------------- scores
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_dst", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (1, 64), (4, 16), (3, 21), (5, 7), (2, 300)])
@pytest.mark.parametrize("nodes", [0, 1, 333])
def test_scores_and_their_gradients(nodes: int, heads: int, width: int, with_dst: bool, dtype: torch.dtype) -> None:
    vectors = [torch.randn(1, heads, width, dtype=cpu.sum_dtype(dtype)) for _ in range(1 + with_dst)]
    inputs = [torch.randn(nodes, heads, width).to(dtype), *vectors]
    cotangents = [torch.randn(nodes, heads, dtype=cpu.sum_dtype(dtype)) for _ in vectors]
    found = _scores(inputs, cotangents)
    with ops.using("reference"):
        expected = _scores([value.double() for value in inputs], [value.double() for value in cotangents])
    assert [value.shape for value in found] == [value.shape for value in expected]
    for value, right in zip(found, expected, strict=True):
        scale = max(1.0, float(right.abs().max()) if right.numel() else 0.0, nodes**0.5, width**0.5)
        assert_close(value.double() / scale, right / scale, dtype=dtype)


def _scores(inputs: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in inputs]
    scores = [score for score in ops.attention_scores(*leaves) if score is not None]
    return [*(score.detach() for score in scores), *torch.autograd.grad(scores, leaves, cotangents)]


def test_the_gradient_of_scores_is_added_with_the_same_bits_on_any_number_of_threads() -> None:
    x, src, dst = torch.randn(3000, 3, 21), torch.randn(3, 21), torch.randn(3, 21)
    dsrc, ddst = torch.randn(3000, 3), torch.randn(3000, 3)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        dx, da, db = torch.ones_like(x), torch.empty_like(src), torch.empty_like(dst)
        cpu.attention_scores_backward(
            x, src, dst, dscore_src=dsrc, dscore_dst=ddst, dx=dx, dattn_src=da, dattn_dst=db, accumulate=True
        )
        results.append((dx, da, db))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert_close(results[0][0], 1 + dsrc.unsqueeze(2) * src + ddst.unsqueeze(2) * dst)


def test_vectors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[2, 3\], as x is \[5, 2, 3\]; got \[3, 2\]"):
        ops.attention_scores(torch.randn(5, 2, 3), torch.randn(3, 2))


def test_scores_compile() -> None:
    torch.compiler.reset()
    x, src = torch.randn(9, 2, 3), torch.randn(2, 3)
    compiled = torch.compile(lambda x: ops.attention_scores(x, src)[0], fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), ops.attention_scores(x, src)[0])
