"""Layer-wise computation on sampled neighbours: the logits and gradients of the whole sample, from fewer rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drawn_graphs import one_graph
from rank_jobs import node_dataset
from revgnn.data import Batch, Dataset, LoaderConfig, make_batches
from revgnn.graph import Graph
from revgnn.nn.convs import CONVS, GATOptions, GENOptions
from revgnn.nn.model import GNN, EquilibriumOptions, ModelConfig, build_model
from revgnn.train import Forward, Goal, LabelOptions, TrainConfig, fit
from tolerances import assert_close

LOADER = LoaderConfig(kind="neighbor", fanouts=(3, 2, 2), batch_size=5, layer_wise=True, prefetch=0)


def first_batch(data: Dataset, loader: LoaderConfig = LOADER) -> Batch:
    batch = next(iter(make_batches(data, seed=3, loader=loader).train(1)))
    edge_attr = None if batch.edge_attr is None else batch.edge_attr.double() / 900
    return replace(batch, x=batch.x.double() / 300, edge_attr=edge_attr)


def make_model(data: Dataset, conv: str, **choices: Any) -> GNN:
    torch.manual_seed(0)
    config = ModelConfig(
        conv=conv,
        hidden_channels=16,
        dropout=0.3,
        gen=GENOptions(aggr="softmax"),
        gat=GATOptions(heads=2, edge_drop=0.2),
        **choices,
    )
    return build_model(config, data.info).double()


def gradients(model: GNN, batch: Batch, hops: tuple[int, ...] | None) -> list[Tensor]:
    """The logits of the training nodes, and the gradients of features, edge features and parameters."""
    assert batch.hops is not None
    x = batch.x.clone().requires_grad_()
    edge_attr = None if batch.edge_attr is None else batch.edge_attr.clone().requires_grad_(model.uses_edge_attr)
    logits = model(x, batch.graph, edge_attr, seed=7, hops=hops)[: batch.hops[0]]
    wanted = [x, *model.parameters(), *([edge_attr] if edge_attr is not None and model.uses_edge_attr else [])]
    cotangent = torch.randn(logits.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return [logits.detach(), *torch.autograd.grad(logits, wanted, cotangent)]


CHOICES: tuple[dict[str, Any], ...] = (
    {"coupling": "residual", "backprop": "store", "num_layers": 3},
    {"coupling": "residual", "backprop": "checkpoint", "segments": 2, "num_layers": 5},
    {"coupling": "grouped", "backprop": "store", "num_layers": 2},
    {"coupling": "grouped", "backprop": "checkpoint", "num_layers": 3, "weight_tied": True},
)


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: f"{choices['coupling']}-{choices['backprop']}")
@pytest.mark.parametrize("conv", CONVS)
def test_the_same_logits_and_gradients_as_from_all_rows(conv: str, choices: dict[str, Any]) -> None:
    if conv == "gat":
        choices = {**choices, "num_layers": choices["num_layers"] + 1}
    data = one_graph(400, 3000)
    batch = first_batch(data)
    assert batch.hops is not None
    assert batch.hops[0] == 5 and len(set(batch.hops)) == 4, "the case is empty unless every hop reaches something"
    model = make_model(data, conv, **choices)
    found, expected = gradients(model, batch, batch.hops), gradients(model, batch, None)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    model.eval()
    with torch.no_grad():
        assert_close(
            model(batch.x, batch.graph, batch.edge_attr, hops=batch.hops),
            model(batch.x, batch.graph, batch.edge_attr)[:5],
        )


@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_weights_and_self_loops_of_a_sample(conv: str) -> None:
    """Degrees are those of the sample, not those of the rows that are left."""
    data = one_graph(400, 3000)
    data = replace(data, info=replace(data.info, edge_weight=True), edge_attr=data.edge_attr / 3000)  # type: ignore[operator]
    batch = first_batch(data)
    model = make_model(data, conv, coupling="residual", backprop="store", num_layers=3)
    assert model.uses_edge_weight
    for one, other in zip(gradients(model, batch, batch.hops), gradients(model, batch, None), strict=True):
        assert_close(one, other)


def test_other_batches_of_the_same_sample() -> None:
    """The order of the nodes aside, a batch is the one of a loader that is not layer-wise."""
    data = node_dataset()
    model = make_model(data, "sage", coupling="residual", backprop="store", num_layers=4).eval()
    ahead = replace(LOADER, prefetch=2)
    plain = make_batches(data, seed=3, loader=replace(LOADER, layer_wise=False))
    for epoch in (1, 2):
        pairs = zip(make_batches(data, seed=3, loader=ahead).train(epoch), plain.train(epoch), strict=True)
        for batch, other in pairs:
            assert batch.hops is not None and other.hops is None and batch.ids is not None
            assert other.ids is not None and batch.hops[-1] == other.graph.num_nodes
            place = torch.searchsorted(other.ids, batch.ids)
            assert torch.equal(place[batch.rows["train"]], other.rows["train"])
            assert torch.equal(batch.y, other.y[place])
            with torch.no_grad():
                logits, placed = Forward(model.float())(batch)
                whole, _ = Forward(model.float())(other)
            assert len(logits) == len(placed.y) == batch.hops[0]
            assert_close(logits, whole[place])


def test_every_layer_has_the_rows_that_later_ones_need() -> None:
    data = one_graph(400, 3000)
    batch = first_batch(data)
    model = make_model(data, "sage", coupling="residual", backprop="store", num_layers=5)
    rows: list[int] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x, graph = arguments[0], arguments[1]
        assert isinstance(graph, Graph)
        assert x.size(0) == graph.num_nodes
        rows.append(x.size(0))

    model.stem.register_forward_pre_hook(note)  # type: ignore[union-attr]
    for blocks in model.stack.layers:  # type: ignore[union-attr]
        blocks[0].conv.register_forward_pre_hook(note)  # type: ignore[index, union-attr]
    model(batch.x, batch.graph, hops=batch.hops)
    hops = batch.hops
    assert hops is not None
    assert rows == [hops[3], hops[3], hops[3], hops[2], hops[1]]
    assert all(more > fewer for more, fewer in pairwise(rows[2:]))
    edges = [int(batch.graph.indptr[hops[reach - 1]]) for reach in (1, 2, 3)]
    assert edges == sorted(edges) and edges[-1] == batch.graph.num_edges


def test_training_is_the_same() -> None:
    """Loss and scores of a short training, label reuse included, are those of samples that are computed whole."""
    data = node_dataset()
    scores = []
    for layer_wise in (False, True):
        torch.manual_seed(0)
        labels = LabelOptions(reuse=True, refine=0)
        config = ModelConfig(
            conv="gcn", num_layers=3, hidden_channels=8, coupling="residual", backprop="store", dropout=0.0
        )
        batches = make_batches(data, seed=3, loader=replace(LOADER, batch_size=20, layer_wise=layer_wise))
        model = build_model(config, data.info.with_label_inputs())
        train = TrainConfig(epochs=2, lr=0.01, labels=labels)
        found = fit(model, batches, train, metric=Goal(metric="accuracy", num_outputs=3), device="cpu")
        scores.append(torch.tensor([row["loss"] for row in found.curve]))
    assert_close(*scores)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({}, "reversible stack"),
        (
            {"coupling": "residual", "weight_tied": True, "backprop": "implicit", "equilibrium": EquilibriumOptions()},
            "equilibrium",
        ),
    ],
)
def test_networks_that_need_all_rows_are_refused(choices: dict[str, Any], words: str) -> None:
    data = node_dataset()
    batch = first_batch(data)
    model = make_model(data, "gcn", num_layers=2, **choices)
    assert not model.takes_hops
    with pytest.raises(ValueError, match=rf"{words}.*choose model.backprop=store or checkpoint"):
        Forward(model)(batch)
    with pytest.raises(ValueError, match="leave hops|choose backprop='store'"):
        model(batch.x, batch.graph, hops=batch.hops)


def test_wrong_hops_and_refined_labels_are_refused() -> None:
    data = node_dataset()
    batch = first_batch(data)
    model = make_model(data, "gcn", num_layers=2, coupling="residual", backprop="store")
    for hops in ((), (5, 3, batch.graph.num_nodes), (5, batch.graph.num_nodes - 1)):
        with pytest.raises(ValueError, match="ascending to the"):
            model(batch.x, batch.graph, hops=hops)
    with pytest.raises(ValueError, match="choose labels.refine=0"):
        Forward(model, labels=LabelOptions(reuse=True), num_outputs=3)(batch, seed=1)
