"""An edge_index in place of a graph: what is remembered of it, of which tensors, and when it is looked at again."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.utils import to_edge_index

from edge_lists import EDGES, edge_lists, pairs_of, pickled, small_config
from revgnn import build_model, ops
from revgnn.data import GraphInfo
from revgnn.edge_index import fingerprint
from revgnn.graph import Graph, as_graph
from revgnn.nn.convs import CONVS
from revgnn.weak_cache import Memo


# ---------------------------------------------------------------------- edge_index in place of a graph
def test_an_edge_index_is_converted_once_while_it_is_unchanged() -> None:
    edge_index = EDGES.clone()
    graph = as_graph(edge_index, 4)
    assert as_graph(edge_index, 4) is graph
    assert as_graph(edge_index, 5) is not graph
    graph = as_graph(edge_index, 4)
    edge_index[0, 0] = 3
    changed = as_graph(edge_index, 4)
    assert changed is not graph
    assert pairs_of(changed.edge_index) == pairs_of(edge_index)


def test_as_graph_checks() -> None:
    graph = Graph.from_edge_index(EDGES)
    assert as_graph(graph, 4) is graph
    with pytest.raises(ValueError, match="x has 5 rows but the graph has 4 nodes; they must be equal"):
        as_graph(graph, 5)
    with pytest.raises(TypeError, match=r"expected a revgnn.Graph or an edge_index tensor \[2, E\], got list"):
        as_graph([[0], [1]], 2)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- other tensors than plain ones in memory
class Tagged(Tensor):
    """A subclass with memory of its own."""


class Wrapper(Tensor):
    """A subclass without memory, which knows how to be read."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        bare = tree_map(lambda value: value.inner if isinstance(value, Wrapper) else value, (args, kwargs or {}))
        return func(*bare[0], **bare[1])


class Sealed(Wrapper):
    """A subclass without memory that does not let itself be read."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError("sealed")


STAND_INS: dict[str, Callable[[Tensor], Tensor]] = {
    "EdgeIndex": lambda edges: EdgeIndex(edges, sparse_size=(4, 4)),
    "EdgeIndex of int32": lambda edges: EdgeIndex(edges.int()),
    "subclass": lambda edges: edges.as_subclass(Tagged),
    "wrapper": Wrapper,
    "parameter": lambda edges: nn.Parameter(edges, requires_grad=False),
    "transposed": lambda edges: edges.t().contiguous().t(),
    "expanded": lambda edges: edges[:, :1].expand(2, 3),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_any_kind_of_tensor_is_the_graph_of_its_values(kind: str) -> None:
    given = STAND_INS[kind](EDGES)
    plain = given.as_tensor() if isinstance(given, EdgeIndex) else EDGES if kind != "expanded" else EDGES[:, [0] * 3]
    expected = Graph.from_edge_index(plain, 4)
    for graph in (Graph.from_edge_index(given, 4), Graph.from_data(Data(edge_index=given, num_nodes=4))):
        assert torch.equal(graph.edge_index, expected.edge_index)
        assert type(graph.indices) is Tensor and graph.indices.data_ptr() and graph.indices.is_contiguous()
    assert as_graph(given, 4) is as_graph(given, 4)


@pytest.mark.parametrize("conv", CONVS)
def test_convolutions_take_pygs_edge_index(conv: str) -> None:
    layer, x = CONVS[conv](6, 6), torch.randn(4, 6)
    assert torch.equal(layer(x, EdgeIndex(EDGES, sparse_size=(4, 4))), layer(x, EDGES))


def test_a_tensor_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a Sealed does not copy into a plain tensor \(sealed\); pass the tensor that"):
        Graph.from_edge_index(Sealed(EDGES))


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_sparse_matrix_is_refused_with_the_way_to_its_edges(layout: torch.layout) -> None:
    """Of PyG's ``adj_t``, whose rows are destinations; its values would be lost."""
    adj_t = torch.sparse_coo_tensor(EDGES.flip(0), torch.rand(5), (4, 4)).to_sparse(layout=layout)
    with pytest.raises(
        TypeError, match=r"must be a dense tensor \[2, E\], got torch.sparse_.*to_edge_index\(adj_t.t\(\)"
    ):
        as_graph(adj_t, 4)
    edge_index, _ = to_edge_index(adj_t.t())
    assert pairs_of(as_graph(edge_index, 4).edge_index) == pairs_of(EDGES)


def test_what_is_no_tensor_is_refused_with_the_way_to_its_edges() -> None:
    sparse = type("SparseTensor", (), {})()
    for take in (Graph.from_edge_index, lambda value: as_graph(value, 4)):
        with pytest.raises(TypeError, match=r"got SparseTensor; take edge_index, edge_weight = torch_geometric"):
            take(sparse)
        with pytest.raises(TypeError, match="got Data; pass its edge_index, or Graph.from_data of it"):
            take(Data(edge_index=EDGES))


# ---------------------------------------------------------------------- inference mode
MADE_INSIDE: dict[str, Callable[[Graph, Tensor], Graph | Tensor]] = {
    "an edge_index of before": lambda graph, edges: edges,
    "an edge_index of inside": lambda graph, edges: edges.clone(),
    "a graph of before": lambda graph, edges: graph,
    "a graph of inside": lambda graph, edges: Graph.from_edge_index(edges.clone(), 4),
    "a graph that was moved": lambda graph, edges: graph.to("meta") and replace(graph, indices=graph.indices.clone()),
    "a graph from a pickle": lambda graph, edges: pickled(graph),
}


@pytest.mark.parametrize("how", MADE_INSIDE)
@pytest.mark.parametrize("conv", CONVS)
def test_what_was_evaluated_in_inference_mode_trains_after_it(conv: str, how: str) -> None:
    model, x = build_model(small_config(conv), GraphInfo(in_channels=6, num_outputs=2)), torch.randn(4, 6)
    edges = EDGES.clone()
    with torch.inference_mode():
        graph = MADE_INSIDE[how](Graph.from_edge_index(edges, 4), edges)
        for _ in range(2):
            model(x.clone(), graph)
    found = torch.autograd.grad(model(x, graph).square().sum(), list(model.parameters()))
    expected = torch.autograd.grad(model(x, EDGES.clone()).square().sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_tensor_of_a_graph_is_an_inference_tensor() -> None:
    with torch.inference_mode():
        batch = torch.tensor([0, 0, 1, 1])
        graph = Graph.from_edge_index(EDGES.clone(), 4, batch=batch)
        every = [*_tensors(graph), *_tensors(graph.reverse), *_tensors(graph.self_looped), graph.destinations]
        every += [graph.in_degree, graph.out_degree, graph.keep("vector", lambda: torch.ones(3))]
        every += _tensors(replace(graph, edge_ids=torch.arange(5)))
        assert not torch.is_grad_enabled()
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in every)


def _tensors(graph: Graph) -> list[Tensor]:
    return [tensor for tensor in (graph.indptr, graph.indices, graph.edge_ids, graph.batch) if tensor is not None]


# ---------------------------------------------------------------------- what a remembered graph is told of
def _through_numpy(edges: Tensor) -> None:
    edges.numpy()[0, 0] = 3


def _through_data(edges: Tensor) -> None:
    edges.data = torch.tensor([[0, 1], [1, 0]])


def _through_set(edges: Tensor) -> None:
    edges.set_(edges.flip(1).contiguous())


def _through_strides(edges: Tensor) -> None:
    edges.data = edges.data.flatten().view(5, 2).t()


def _through_a_view(edges: Tensor) -> None:
    edges.data.view(-1)[3:].fill_(0)


def _through_detached(edges: Tensor) -> None:
    edges.detach().numpy()[:] = edges.detach().numpy()[:, ::-1].copy()


@pytest.mark.parametrize(
    "change",
    [_through_numpy, _through_data, _through_set, _through_strides, _through_a_view, _through_detached],
    ids=lambda change: change.__name__[1:],
)
def test_a_change_by_any_way_is_seen(change: Callable[[Tensor], None]) -> None:
    edges = EDGES.clone()
    before = as_graph(edges, 4)
    assert as_graph(edges, 4) is before
    change(edges)
    after = as_graph(edges, 4)
    assert after is not before
    assert torch.equal(after.edge_index, Graph.from_edge_index(edges.clone(), 4).edge_index)
    assert pairs_of(before.edge_index) == pairs_of(EDGES), "what was made shares no memory with what was given"


@given(edge_lists())
@settings(deadline=None)
def test_the_fingerprint_tells_any_other_order_or_value(edges: tuple[Tensor, int]) -> None:
    edge_index, _ = edges
    mark = fingerprint(edge_index)
    assert mark == fingerprint(edge_index.int()) == fingerprint(edge_index.t().contiguous().t())
    for other in (edge_index.flip(0), edge_index.flip(1), edge_index + 1, edge_index[:, 1:]):
        assert (mark == fingerprint(other)) == torch.equal(edge_index, other)
    assert mark != fingerprint(torch.cat([edge_index, torch.zeros(2, 1, dtype=torch.int64)], 1))


def test_the_fingerprint_is_of_every_run() -> None:
    edge_index = torch.randint(0, 1000, (2, 300_000))
    swapped = edge_index.roll(2**17, dims=1)
    assert fingerprint(edge_index) != fingerprint(swapped)
    edge_index[1, -1] += 1
    assert fingerprint(edge_index) != fingerprint(edge_index - torch.eye(2, 300_000, dtype=torch.int64))


def test_a_remembered_graph_dies_with_its_edges() -> None:
    edges = torch.cat([EDGES[:, :4], EDGES[:, :4].flip(0), torch.arange(4).expand(2, 4)], 1)
    graph = weakref.ref(as_graph(edges, 4))
    found = graph()
    assert found is not None and found.self_looped is found and found.is_symmetric
    del found
    gc.disable()  # a graph in a cycle would wait for the collector
    try:
        assert graph() is not None
        del edges
        assert graph() is None
        edges, other = EDGES.clone(), EDGES.clone()
        graph = weakref.ref(as_graph(edges, 4))
        as_graph(other, 4)
        assert graph() is None, "only the last one is remembered"
    finally:
        gc.enable()


def test_graphs_of_many_threads_are_right_and_die_with_their_edges() -> None:
    graphs: list[weakref.ref[Graph]] = []
    faults: list[int] = []

    def convert(number: int) -> None:
        edges = torch.randint(0, 30, (2, 100), generator=torch.Generator().manual_seed(number))
        for _ in range(20):
            graph = as_graph(edges, 30)
            if pairs_of(graph.edge_index) != pairs_of(edges):
                faults.append(number)
        graphs.append(weakref.ref(graph))

    threads = [threading.Thread(target=convert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not faults
    assert [graph() for graph in graphs] == [None] * 8


def test_a_memo_asks_for_owner_and_mark() -> None:
    memo: Memo[object] = Memo()
    owner, other = torch.ones(1), torch.ones(1)
    value = memo.get(owner, 1, object)
    assert memo.get(owner, 1, object) is value
    assert memo.get(owner, 2, object) is not value
    assert memo.get(other, 2, object) is not memo.get(owner, 2, object)
    assert pickle.loads(pickle.dumps(memo)).get(owner, 2, lambda: "new") == "new"
    assert copy.deepcopy(memo).get(owner, 2, lambda: "new") == "new"


def test_weights_that_are_not_the_graphs_are_read_every_time() -> None:
    graph, memory = Graph.from_edge_index(EDGES, 4), np.random.default_rng(0).random(5)
    weight, x = torch.from_numpy(memory), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        (found,) = torch.autograd.grad(ops.spmm(x, graph, weight).sum(), x)
        with ops.using("reference"):
            (expected,) = torch.autograd.grad(ops.spmm(x, graph, weight).sum(), x)
        assert torch.allclose(found, expected)
        memory[:] = memory[::-1].copy()


# ---------------------------------------------------------------------- tools that would record one graph
@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("conv", CONVS)
def test_recorders_are_refused(conv: str) -> None:
    model, x = build_model(small_config(conv), GraphInfo(in_channels=6, num_outputs=2)).eval(), torch.randn(4, 6)
    graph = Graph.from_edge_index(EDGES, 4)
    remedy = r"use torch\.export\.export after model\.eval\(\), or torch\.compile"
    with pytest.raises(RuntimeError, match=rf"torch\.jit\.trace cannot take a graph network: .*{remedy}"):
        torch.jit.trace(model, (x, EDGES))
    with pytest.raises(RuntimeError, match=rf"torch\.jit\.trace cannot .*{remedy}"):
        torch.jit.trace(lambda x: model(x, graph), (x,))
    with pytest.raises(RuntimeError, match=rf"torch\.fx\.symbolic_trace cannot take a graph network: .*{remedy}"):
        torch.fx.symbolic_trace(model)
    with pytest.raises(RuntimeError, match=rf"make_fx cannot take a graph network: .*{remedy}"):
        make_fx(model)(x, EDGES)
    with pytest.raises(RuntimeError, match=r"torch\.func\.vmap cannot map over graphs"):
        torch.func.vmap(model, in_dims=(None, 0))(x, torch.stack([EDGES, EDGES]))


def _under_grad(model: nn.Module, x: Tensor, graph: Graph | Tensor) -> None:
    """Of all arguments, which are then wrapped, and of some."""
    for call in (lambda x, graph: model(x, graph).sum(), lambda x, _: model(x, graph).sum()):
        with suppress(RuntimeError):  # whether a kernel can be differentiated so is another question
            torch.func.grad(call)(x, graph)


def _under_jvp(model: nn.Module, x: Tensor, graph: Graph | Tensor) -> None:
    with suppress(RuntimeError):
        torch.func.jvp(lambda x: model(x, graph), (x,), (x,))


def _under_vmap(model: nn.Module, x: Tensor, graph: Graph | Tensor) -> None:
    with suppress(RuntimeError):
        torch.func.vmap(model, in_dims=(0, None))(torch.stack([x, x]), graph)


def _under_fakes(model: nn.Module, x: Tensor, graph: Graph | Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x), graph).shape == (4, 2)


def _under_a_counter(model: nn.Module, x: Tensor, graph: Graph | Tensor) -> None:
    with FlopCounterMode(display=False):
        model(x, graph)


@pytest.mark.parametrize("kind", ["graph", "edge_index"])
@pytest.mark.parametrize(
    "surround",
    [_under_grad, _under_jvp, _under_vmap, _under_fakes, _under_a_counter],
    ids=lambda call: call.__name__[1:],
)
@pytest.mark.parametrize("conv", CONVS)
def test_nothing_of_a_tracer_or_a_transform_stays_on_a_graph(conv: str, surround: Any, kind: str) -> None:
    model, x, edges = (
        build_model(small_config(conv), GraphInfo(in_channels=6, num_outputs=2)).eval(),
        torch.randn(4, 6),
        EDGES.clone(),
    )
    graph = Graph.from_edge_index(edges, 4) if kind == "graph" else edges
    surround(model, x, graph)
    found = torch.autograd.grad(model(x, graph).sum(), list(model.parameters()))
    expected = torch.autograd.grad(model(x, EDGES.clone()).sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
