"""Reversible equals store for every conv, norm and number of groups, with real blocks; purity; the memory law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.measure import peak_memory, saved_bytes
from revgnn.nn.convs import CONVS, GATOptions, GENOptions
from revgnn.nn.model import GNN, ModelConfig, build_model
from revgnn.nn.norms import NORMS
from revgnn.ops import cpu

K, T = 3, 4


def make_graph() -> Graph:
    """Two graphs of odd sizes with isolated nodes, repeated edges, self loops and a hub."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(10, (2, 40), generator=generator), torch.randint(11, 22, (2, 30), generator=generator)
    hub = torch.stack([torch.arange(10), torch.zeros(10, dtype=torch.int64)])
    repeated = first[:, :5]
    edge_index = torch.cat([first, second, hub, repeated], dim=1)
    return Graph.from_edge_index(edge_index, 23, batch=(torch.arange(23) >= 11).long())


def make_model(conv: Any, norm: Any, num_groups: int, *, num_layers: int, **choices: Any) -> GNN:
    torch.manual_seed(0)
    config = ModelConfig(
        conv=conv,
        norm=norm,
        num_groups=num_groups,
        num_layers=num_layers,
        hidden_channels=24,
        dropout=0.2,
        gen=GENOptions(aggr="softmax", learn_t=True, mlp_norm=norm),
        gat=GATOptions(heads=2, edge_drop=0.3),
        **choices,
    )
    model = build_model(config, GraphInfo(in_channels=5, num_outputs=T, edge_channels=K)).double()
    if norm == "none":  # nothing else keeps 64 layers from growing beyond all numbers
        for parameter in model.stack.parameters():
            parameter.data.mul_(0.2)
    return model


def gradients(model: GNN, graph: Graph) -> tuple[list[Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(graph.num_nodes, 5, dtype=torch.double, generator=generator).requires_grad_()
    edge_attr = torch.rand(graph.num_edges, K, dtype=torch.double, generator=generator).requires_grad_()
    wanted = [x, *model.parameters()]
    if model.uses_edge_attr:
        wanted.append(edge_attr)
    out = model(x, graph, edge_attr if model.uses_edge_attr else None, seed=11)
    cotangent = torch.randn(out.shape, dtype=torch.double, generator=generator)
    grads = torch.autograd.grad(out, wanted, cotangent)
    return [out.detach(), *grads], dict(model.named_buffers())


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error among: output, x, all parameters together, edge features."""
    parts = [slice(0, 1), slice(1, 2), slice(2, -1), slice(-1, None)]
    return max(norm_of_difference(found[part], expected[part]) for part in parts)


def norm_of_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    difference = sum(float((f - e).norm() ** 2) for f, e in zip(found, expected, strict=True))
    return float((difference / sum(float(e.norm() ** 2) for e in expected)) ** 0.5)


@pytest.mark.parametrize("num_groups", [2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv", CONVS)
def test_reversible_equals_store_at_64_layers(conv: str, norm: str, num_groups: int) -> None:
    graph = make_graph()
    expected, moved_once = gradients(make_model(conv, norm, num_groups, num_layers=64, backprop="store"), graph)
    found, moved = gradients(make_model(conv, norm, num_groups, num_layers=64), graph)
    # Norms over nodes magnify what rounding leaves behind: over seeds, GraphNorm's errors scatter from 2e-13 to 2e-12,
    # on the reference implementation too.
    assert relative_error(found, expected) < (1e-11 if norm in ("batch", "graph") else 1e-12)
    for name, buffer in moved_once.items():
        torch.testing.assert_close(buffer, moved[name], rtol=1e-12, atol=1e-12)
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == 1


@pytest.mark.parametrize("mask", ["shared", "independent"])
@pytest.mark.parametrize("conv", CONVS)
def test_reversible_equals_store_under_every_kind_of_dropout(conv: str, mask: Any) -> None:
    graph = make_graph()
    expected, _ = gradients(make_model(conv, "layer", 2, num_layers=8, backprop="store", dropout_mask=mask), graph)
    for choices in ({"segments": 3}, {"backprop": "checkpoint"}):
        found, _ = gradients(make_model(conv, "layer", 2, num_layers=8, dropout_mask=mask, **choices), graph)
        assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv", CONVS)
def test_gradcheck_of_a_small_network(conv: str, norm: str) -> None:
    graph = make_graph()
    model = make_model(conv, norm, 2, num_layers=3)
    x = torch.randn(graph.num_nodes, 5, dtype=torch.double, requires_grad=True)
    edge_attr = torch.rand(graph.num_edges, K, dtype=torch.double) if model.uses_edge_attr else None
    parameters = [p for p in model.parameters() if p.numel() <= 40][:6]
    assert torch.autograd.gradcheck(lambda x, *_: model(x, graph, edge_attr, seed=2), (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv", CONVS)
def test_a_block_is_a_pure_function(conv: str, norm: str) -> None:
    """The same call twice gives the same bits, writes to no input, and another seed gives others."""
    graph = make_graph()
    model = make_model(conv, norm, 2, num_layers=3)
    block = model.stack.layers[0][0]
    x = torch.randn(graph.num_nodes, 12, dtype=torch.double)
    edges = model._edge_context(torch.rand(graph.num_edges, K, dtype=torch.double))
    before = x.clone()
    first = block(x, 5, graph, None, *edges)
    assert torch.equal(block(x, 5, graph, None, *edges), first)
    assert torch.equal(x, before)
    assert not torch.equal(block(x, 6, graph, None, *edges), first)


@pytest.mark.parametrize("conv", CONVS)
def test_memory_law(conv: str) -> None:
    """What autograd keeps is the same at depth 1, 10, 100 and 1001, parameters aside."""
    graph = make_graph()
    x = torch.randn(graph.num_nodes, 5)
    edge_attr = torch.rand(graph.num_edges, K)

    def kept(depth: int, backprop: str = "reversible") -> int:
        stem = 2 if conv == "gat" else 0
        model = make_model(conv, "layer", 2, num_layers=depth + stem, backprop=backprop).float()
        return saved_bytes(lambda: model(x, graph, edge_attr, seed=0))

    law = kept(1)
    assert kept(10) == kept(100) == kept(1001) == law
    assert kept(100, "store") > 10 * law


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_memory_law_of_inference(conv: str, narrow: bool) -> None:
    """Without gradients the stream is updated in place: N D for it, and one of work space, at any depth."""
    config = ModelConfig(conv=conv, num_layers=30, hidden_channels=64)
    model = build_model(config, in_channels=5, out_channels=T).eval()
    num_nodes = 3000
    graph, x = Graph.from_edge_index(torch.randint(num_nodes, (2, 9000)), num_nodes), torch.randn(num_nodes, 5)

    @torch.no_grad()
    def logits() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return model(x, graph)

    expected = logits()
    nd = num_nodes * 64 * 4
    assert peak_memory(logits) < (2.0 if narrow else 2.5) * nd
    seen: list[Tensor] = []
    # What a hook has seen is not overwritten; a copy gives the same bits, but under autocast a hooked map rounds more.
    with model.encoder.register_forward_hook(lambda module, arguments, value: seen.extend([value, value.clone()])):
        found = logits()
    assert torch.equal(*seen)
    assert torch.equal(found, expected) or narrow


def test_features_that_are_the_stream_are_not_overwritten() -> None:
    """An encoder that returns its input; and a stack that may overwrite gives the same bits."""
    graph, model = make_graph(), make_model("sage", "layer", 2, num_layers=4).eval()
    model.encoder = torch.nn.Identity()
    x = torch.randn(graph.num_nodes, 24, dtype=torch.double)
    before = x.clone()
    with torch.no_grad():
        model(x, graph)
        assert torch.equal(x, before)
        wanted, found = model.stack(x, graph), model.stack(x, graph, overwrite=True)
    assert torch.equal(found, wanted)
    assert found is x


@pytest.mark.parametrize("part", ["stack", "encoder"])
def test_a_stream_that_a_hook_keeps_is_not_overwritten(part: str) -> None:
    graph, model, kept = make_graph(), make_model("sage", "layer", 2, num_layers=4).eval(), []
    watched = getattr(model, part)
    if part == "stack":
        watched.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
    else:
        watched.register_forward_hook(lambda _, __, value: kept.append(value))
    x = torch.randn(graph.num_nodes, model.encoder.in_features, dtype=torch.double)
    with torch.no_grad():
        model(x, graph)
        assert torch.equal(kept[0], model.encoder(x))


def test_1001_layers_of_80_channels_make_a_step() -> None:
    """RevGNN-Deep's network, on a graph as small as a test needs."""
    torch.manual_seed(0)
    graph = make_graph()
    config = ModelConfig(
        conv="gen", num_layers=1001, hidden_channels=80, dropout=0.1, species=8, gen=GENOptions(aggr="max")
    )
    model = build_model(config, GraphInfo(in_channels=16, num_outputs=112, edge_channels=8))
    assert sum(p.numel() for p in model.parameters()) == 20_031_384
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, edge_attr = torch.rand(graph.num_nodes, 16), torch.rand(graph.num_edges, 8)
    before = model.stack.layers[500][1].conv.lins[0].weight.detach().clone()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        model(x, graph, edge_attr, seed=0), torch.ones(graph.num_nodes, 112)
    )
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    optimizer.step()
    assert not torch.equal(model.stack.layers[500][1].conv.lins[0].weight, before)


def test_more_than_one_step_in_flight() -> None:
    """Two forwards before their backwards, in either order, as in multi-task training."""
    graph = make_graph()
    model = make_model("sage", "layer", 2, num_layers=4)
    x = torch.randn(graph.num_nodes, 5, dtype=torch.double)
    apart = []
    for seed in (1, 2):
        model.zero_grad()
        model(x, graph, seed=seed).sum().backward()
        apart.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    first, second = model(x, graph, seed=1).sum(), model(x, graph, seed=2).sum()
    second.backward()
    first.backward()
    for parameter, a, b in zip(model.parameters(), *apart, strict=True):
        torch.testing.assert_close(parameter.grad, a + b, rtol=1e-10, atol=1e-10)
