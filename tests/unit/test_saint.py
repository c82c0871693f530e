"""GraphSAINT: what its samplers draw, and that losses and gradients of subgraphs have the whole graph's expectation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drawn_graphs import one_graph
from revgnn import ModelConfig, build_model
from revgnn.data import Batch, Dataset, LoaderConfig, make_batches
from revgnn.data.sampling.saint import SaintBatches, SaintOptions, node_sampler
from revgnn.data.subgraphs import GraphSource
from revgnn.graph import Graph
from revgnn.nn.convs import GCNConv, SAGEConv, SAGEOptions
from revgnn.train import LOSSES, TrainConfig, fit
from tolerances import assert_close

SAMPLERS = [
    SaintOptions(sampler="node", budget=8),
    SaintOptions(sampler="edge", budget=5),
    SaintOptions(sampler="walk", budget=3, walk_length=2),
]
PRESAMPLED, DRAWS = 2000, 400


def small(*, weighted: bool = False) -> Dataset:
    """24 nodes, 70 edges with repeats and loops, and three nodes that no edge touches."""
    data = one_graph(24, 70, seed=4, plain=True)
    edge_index = data.edge_index.clone()
    edge_index[edge_index > 20] -= 20
    info = replace(data.info, edge_weight=weighted)
    weight = torch.rand(edge_index.size(1), 1, generator=torch.Generator().manual_seed(0)) + 0.5
    return replace(data, info=info, edge_index=edge_index, edge_attr=weight if weighted else None)


@pytest.mark.parametrize("options", SAMPLERS, ids=lambda options: options.sampler)
def test_nodes_are_drawn_as_published(options: SaintOptions) -> None:
    """Compare how often a node is in a subgraph with the chance that independent draws leave it out."""
    data = small()
    graph = Graph.from_edge_index(data.edge_index, data.num_nodes)
    draw, rounds = node_sampler(graph, options), 2000
    count = torch.zeros(graph.num_nodes)
    for number in range(rounds):
        nodes = draw(np.random.default_rng(number))
        assert nodes.tolist() == sorted(set(nodes.tolist()))
        count[nodes] += 1
    chance = 1 - (1 - hit(graph, options)) ** options.budget
    spread = (chance * (1 - chance) / rounds).sqrt()
    assert bool(((count / rounds - chance).abs() <= 4.5 * spread).all())
    assert bool((chance > 0).all()), "what is never drawn could not be weighed"


def hit(graph: Graph, options: SaintOptions) -> Tensor:
    """[N] the chance that one draw (of a node, an edge, a walk) has a node, edge by edge."""
    n, degree = graph.num_nodes, graph.in_degree.tolist()
    edges = graph.edge_index.T.tolist()
    found = torch.zeros(n)
    if options.sampler == "node":
        for node in range(n):
            found[node] += 1 / (degree[node] + 1) ** 2
        for src, dst in edges:
            found[src] += 1 / (degree[dst] + 1) ** 2
        return found / found.sum()
    if options.sampler == "edge":
        edges += [[node, node] for node in range(n) if not any(node in edge for edge in edges)]
        weights = [1 / max(degree[src], 1) + 1 / max(degree[dst], 1) for src, dst in edges]
        for (src, dst), weight in zip(edges, weights, strict=True):
            for node in {src, dst}:
                found[node] += weight / sum(weights)
        return found
    step = torch.eye(n)
    for node in range(n):
        if degree[node]:
            step[node] = 0.0
    for src, dst in edges:
        step[dst, src] += 1 / degree[dst]
    for node in range(n):  # the chance that a walk of so many steps avoids a node
        avoids = torch.ones(n)
        avoids[node] = 0.0
        for _ in range(options.walk_length):
            avoids = step @ avoids
            avoids[node] = 0.0
        found[node] = 1 - avoids.mean()
    return found


@cache
def subgraphs(options: SaintOptions, *, weighted: bool = False) -> tuple[Dataset, list[Batch]]:
    """Draw the subgraphs of an epoch, normalised by `PRESAMPLED` others."""
    data = small(weighted=weighted)
    size = SaintBatches(GraphSource(data), replace(options, coverage=5), 0).normalization.mean_nodes
    coverage = round(PRESAMPLED * size / data.num_nodes)
    batches = SaintBatches(GraphSource(data), replace(options, steps=DRAWS, coverage=coverage), 7)
    return data, list(batches.train(1))


def check_mean(found: Tensor, exact: Tensor) -> None:
    """Compare the mean of [DRAWS, n] with [n], within 4 standard errors of the draws and of pre-sampling."""
    error = found.double().std(0) * (1 / DRAWS + 1 / PRESAMPLED) ** 0.5
    assert bool(((found.double().mean(0) - exact).abs() <= 4 * error + 1e-6).all())


@pytest.mark.parametrize("options", SAMPLERS, ids=lambda options: options.sampler)
@pytest.mark.parametrize("conv", ["sage", "gcn", "weighted sage"])
def test_gradients_of_a_linear_model_are_unbiased(options: SaintOptions, conv: str) -> None:
    """A loss that is linear in one layer: every weight of loss and messages enters, and nothing else does."""
    if conv == "weighted sage" and options.sampler != "walk":
        pytest.skip("one sampler says enough")
    data, batches = subgraphs(options, weighted=conv == "weighted sage")
    slope = torch.randn(data.num_nodes, 3, generator=torch.Generator().manual_seed(1))
    x = torch.randn(data.num_nodes, 2, generator=torch.Generator().manual_seed(2)) + 1
    torch.manual_seed(0)
    layer = GCNConv(2, 3) if conv == "gcn" else SAGEConv(2, 3, options=SAGEOptions(bias=False))

    def gradient(graph: Graph, rows: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
        loss = ((layer(x[ids], graph) * slope[ids]).sum(1)[rows] * weight[rows]).sum()
        return torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(loss, list(layer.parameters()))])

    def of_batch(batch: Batch) -> Tensor:
        assert batch.ids is not None
        assert batch.loss_weight is not None
        drawn = batch.graph if batch.edge_attr is None else batch.graph.weighted(batch.edge_attr)
        return gradient(drawn, batch.rows["train"], batch.ids, batch.loss_weight)

    graph = Graph.from_edge_index(data.edge_index, data.num_nodes)
    if data.edge_attr is not None:
        graph = graph.weighted(graph.sort_edges(data.edge_attr))
    everything, train = torch.arange(data.num_nodes), data.splits["train"]
    exact = gradient(graph, train, everything, torch.full((data.num_nodes,), 1 / train.numel()))
    check_mean(torch.stack([of_batch(batch) for batch in batches]), exact)


@pytest.mark.parametrize("options", SAMPLERS, ids=lambda options: options.sampler)
def test_gradients_of_cross_entropy_are_unbiased_without_aggregation(options: SaintOptions) -> None:
    data, batches = subgraphs(options)
    torch.manual_seed(0)
    layer, train = nn.Linear(data.x.size(1), data.info.num_outputs), data.splits["train"]
    (exact,) = torch.autograd.grad(cross_entropy(layer(data.x[train]), data.y[train]), [layer.weight])

    def of_batch(batch: Batch) -> Tensor:
        rows = batch.rows["train"]
        assert batch.loss_weight is not None
        loss = LOSSES["cross_entropy"].weighted(layer(batch.x)[rows], batch.y[rows], batch.loss_weight[rows])
        return torch.autograd.grad(loss, [layer.weight])[0].reshape(-1)

    check_mean(torch.stack([of_batch(batch) for batch in batches]), exact.reshape(-1))


@pytest.mark.parametrize("name", ["cross_entropy", "log_cross_entropy", "bce", "mse"])
def test_equal_weights_give_the_mean(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    if name.endswith("cross_entropy"):
        y, labels = torch.arange(7) % 3, 7
    else:
        y, labels = (torch.rand(7, 3, generator=generator) > 0.5).double(), 19
        y[2, 1] = y[5, 0] = float("nan")
    weight = torch.full((7,), 1 / labels, dtype=torch.float64)
    assert_close(LOSSES[name].weighted(logits, y, weight), LOSSES[name](logits, y))


def test_a_network_trains_on_weighted_subgraphs_or_says_why_not() -> None:
    data = one_graph(40, 200, seed=1, plain=True)
    saint = SaintOptions(budget=6, coverage=3, steps=2)
    config = TrainConfig(epochs=2)

    def train(conv: str, options: SaintOptions) -> int:
        batches = make_batches(data, None, 0, LoaderConfig(kind="saint", saint=options))
        model = build_model(ModelConfig(conv=conv, num_layers=2, hidden_channels=8), data.info)
        return fit(model, batches, config, metric="accuracy", device="cpu").steps

    assert train("sage", saint) == train("gcn", saint) == 4
    with pytest.raises(
        ValueError, match=r"does not apply weights; choose conv gcn or sage, or loader\.saint\.aggr_norm"
    ):
        train("gen", saint)
    assert train("gen", replace(saint, aggr_norm=False)) == 4


def test_an_epoch_has_as_many_nodes_as_the_graph() -> None:
    batches = SaintBatches(GraphSource(one_graph(60, 300)), SaintOptions(budget=4), 0)
    nodes = sum(batch.graph.num_nodes for epoch in range(1, 9) for batch in batches.train(epoch)) / 8
    assert nodes == pytest.approx(60, rel=0.2)


@pytest.mark.parametrize("name", ["budget", "walk_length", "steps", "coverage"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"loader.saint.{name} must be at least 1, got 0"):
        SaintOptions(**{name: 0})
    with pytest.raises(ValueError, match=r"loader\.saint=.* belongs to loader\.kind=saint, got kind=full"):
        LoaderConfig(saint=SaintOptions(**{name: 7}))
