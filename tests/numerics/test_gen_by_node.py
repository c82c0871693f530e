"""The softmax of GEN with exponentials per node and per edge: the same sums by either way, in wide ranges too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from revgnn.graph import Graph
from revgnn.ops import cpu, reference
from tolerances import assert_close

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]

NUM_NODES = 77


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph.from_edge_index(torch.randint(0, NUM_NODES - 3, (2, 700)), NUM_NODES)


def _aggregate(x: Tensor, t: Tensor, graph: Graph, scratch: Tensor | None) -> tuple[Tensor, Tensor]:
    y, lse = torch.empty_like(x), torch.empty(x.shape, dtype=cpu.sum_dtype(x.dtype))
    cpu.gen_aggr(x, cpu.forward_csr(graph), reduce="softmax", out=y, t=t, lse=lse, scratch=scratch)
    return y, lse


@pytest.mark.parametrize("width", [1, 5, 8, 20, 64, 65, 130])
@pytest.mark.parametrize("temperature", [1.0, -0.5])
@pytest.mark.parametrize(("spread", "offset"), [(1.0, 0.0), (1.0, 50.0), (300.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_node_is_by_edge(
    dtype: torch.dtype, spread: float, offset: float, temperature: float, width: int, graph: Graph
) -> None:
    x = (torch.randn(NUM_NODES, width) * spread + offset).to(dtype)
    t = torch.full((width,), temperature, dtype=dtype)
    expected = reference.gen_aggr(x.double(), graph, t=t.double())
    by_edge, lse = _aggregate(x, t, graph, None)
    by_node, node_lse = _aggregate(x, t, graph, torch.empty(NUM_NODES, 2 * width, dtype=dtype))
    scale = spread + offset
    for y in (by_edge, by_node):
        assert_close(y.double() / scale, expected / scale, dtype=dtype)
    assert_close(node_lse / scale, lse / scale, dtype=dtype)


def test_the_same_bits_with_any_number_of_threads() -> None:
    graph = Graph.from_edge_index(torch.randint(0, 3000, (2, 20_000)), 3000)
    x, t = torch.randn(3000, 40), torch.rand(40)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(_aggregate(x, t, graph, torch.empty(3000, 80)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_the_output(value: float, graph: Graph) -> None:
    x = torch.zeros(NUM_NODES, 20)
    x[int(graph.indices[0]), 3] = value
    y, _ = _aggregate(x, torch.ones(20), graph, torch.empty(NUM_NODES, 40))
    assert not y[int(graph.destinations[0]), 3].isfinite()
    assert y[:, :3].isfinite().all()
