"""The peers of the paper's tables against formulas written out on dense matrices or node by node."""

from __future__ import annotations

import gc
import math
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.paper.baselines import BASELINES, BaselineConfig
from revgnn.paper.baselines.attention import EdgeGATConv
from revgnn.paper.baselines.transformer import CrossEdges
from tolerances import assert_close

NODES, FEATURES, CLASSES, EDGE_FEATURES = 13, 6, 5, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "gcn": {"num_layers": 3},
    "sage": {"num_layers": 3},
    "gat": {"num_layers": 3, "heads": 2},
    "edge_gat": {"num_layers": 2, "heads": 2},
    "gcn2": {"num_layers": 3, "initial": 0.3, "identity": 0.7},
    "gcnii": {"num_layers": 3, "initial": 0.5},
    "dagnn": {"num_layers": 2, "hops": 4},
    "sgc": {"num_layers": 1, "hops": 3},
    "sign": {"num_layers": 3, "hops": 2},
    "unimp": {"num_layers": 2, "heads": 2},
    "unimp_cef": {"num_layers": 2, "heads": 2},
    "unimp_v2": {"num_layers": 3, "heads": 2},
}


def peer(kind: Any, **changes: Any) -> nn.Module:
    config = BaselineConfig(kind=kind, hidden_channels=8, **(OPTIONS[kind] | {"dropout": 0.0} | changes))
    labels = CLASSES if kind.startswith("unimp") else 0
    info = GraphInfo(in_channels=FEATURES, num_outputs=CLASSES, edge_channels=EDGE_FEATURES, label_channels=labels)
    torch.manual_seed(3)
    # BatchNorm in training mode scales by the batch; evaluation keeps the formulas short.
    return config.build(info).double().eval()


def graph() -> Graph:
    """Random edges, some twice, a self loop, and two last nodes without any."""
    ends = torch.randint(0, NODES - 2, (2, 40), generator=torch.Generator().manual_seed(1))
    return Graph.from_edge_index(torch.cat([ends, torch.tensor([[2], [2]])], 1), NODES)


def inputs(kind: str) -> tuple[Tensor, Graph, Tensor]:
    make = torch.Generator().manual_seed(2)
    found, x = graph(), torch.randn(NODES, FEATURES, dtype=torch.double, generator=make)
    if kind.startswith("unimp"):
        labels = F.one_hot(torch.arange(NODES) % CLASSES, CLASSES).double()
        labels[::3] = 0.0
        x = torch.cat([x, labels], dim=1)
    return x, found, torch.rand(found.num_edges, EDGE_FEATURES, dtype=torch.double, generator=make)


def dense(found: Graph, *, loops: bool) -> Tensor:
    """The normalised adjacency of Kipf and Welling, or plain counts normalised by degree."""
    a = torch.zeros(NODES, NODES, dtype=torch.double)
    for source, destination in zip(*found.edge_index.tolist(), strict=True):
        if not loops or source != destination:
            a[destination, source] += 1
    if loops:
        a += torch.eye(NODES, dtype=torch.double)
    scale = a.sum(1).clamp(min=1).rsqrt() * (a.sum(1) > 0)
    return scale[:, None] * a * scale


# ------------------------------------------------------------------ what holds for all
@pytest.mark.parametrize("kind", BASELINES)
def test_it_answers_per_node_and_every_weight_learns(kind: str) -> None:
    x, found, edge_attr = inputs(kind)
    model = peer(kind, dropout=0.2).train()
    out = model(x, found, edge_attr, seed=1)
    assert out.shape == (NODES, CLASSES)
    F.cross_entropy(out, torch.arange(NODES) % CLASSES).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize("kind", BASELINES)
def test_renumbering_the_nodes_renumbers_the_answer(kind: str) -> None:
    x, found, edge_attr = inputs(kind)
    model = peer(kind)
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(5))
    place = order.argsort()
    other = Graph.from_edge_index(place[found.edge_index], NODES)
    with torch.no_grad():
        assert_close(model(x[order], other, other.sort_edges(edge_attr)), model(x, found, edge_attr)[order])


@pytest.mark.parametrize("kind", ["edge_gat", "unimp", "unimp_cef"])
def test_edge_features_are_read(kind: str) -> None:
    x, found, edge_attr = inputs(kind)
    model = peer(kind)
    with torch.no_grad():
        assert not torch.equal(model(x, found, edge_attr), model(x, found, edge_attr.flip(0)))


@pytest.mark.parametrize("kind", ["unimp", "unimp_cef", "unimp_v2"])
def test_labels_are_read_where_they_are_given(kind: str) -> None:
    x, found, edge_attr = inputs(kind)
    model, other = peer(kind), x.clone()
    other[1, -CLASSES:] = other[1, -CLASSES:].roll(1)
    with torch.no_grad():
        assert not torch.allclose(model(x, found, edge_attr)[1], model(other, found, edge_attr)[1])


# ------------------------------------------------------------------ formulas
def test_gcn_is_its_formula() -> None:
    x, found, _ = inputs("gcn")
    model, a = peer("gcn", norm=False), dense(graph(), loops=True)
    for conv in model.convs[:-1]:
        x = (a @ x @ conv.lin.weight.T + conv.bias).relu()
    last = model.convs[-1]
    assert_close(model(inputs("gcn")[0], found), a @ x @ last.lin.weight.T + last.bias)


def test_sage_is_its_formula() -> None:
    x, found, _ = inputs("sage")
    model = peer("sage", norm=False)
    counts = torch.zeros(NODES, NODES, dtype=torch.double)
    counts.index_put_((found.edge_index[1], found.edge_index[0]), torch.ones(1, dtype=torch.double), accumulate=True)
    mean = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for number, conv in enumerate(model.convs):
        x = mean @ x @ conv.lin_l.weight.T + conv.lin_l.bias + x @ conv.lin_r.weight.T
        x = x.relu() if number < 2 else x
    assert_close(model(inputs("sage")[0], found), x)


def test_gcnii_is_its_formula() -> None:
    x, found, _ = inputs("gcnii")
    model, a = peer("gcnii"), dense(graph(), loops=True)
    h = first = model.lin_in(x).relu()
    for own, initial, norm in zip(model.own, model.first, model.norms, strict=True):
        inner = a @ (h + h @ own.weight.T) + 0.5 * first + first @ initial.weight.T
        h = norm(inner).relu() + h
    assert_close(model(x, found), model.lin_out(h))


def test_gcn2_is_its_formula() -> None:
    x, found, _ = inputs("gcn2")
    model, a, eye = peer("gcn2"), dense(graph(), loops=True), torch.eye(8, dtype=torch.double)
    h = first = model.lin_in(x / x.abs().sum(1, keepdim=True)).relu()
    for layer, conv in enumerate(model.convs, start=1):
        share = math.log(0.7 / layer + 1)
        h = ((0.7 * a @ h + 0.3 * first) @ ((1 - share) * eye + share * conv.weight1)).relu()
    assert_close(model(x, found), model.lin_out(h))


def test_dagnn_stacks_its_hops_and_weighs_them() -> None:
    x, found, _ = inputs("dagnn")
    model, a = peer("dagnn"), dense(graph(), loops=True)
    hops = [model.lins[1](model.norms[0](model.lins[0](x)).relu())]
    for _ in range(4):
        hops.append(a @ hops[-1])
    stacked = torch.stack(hops, dim=1)
    scores = model.score(stacked).sigmoid().transpose(1, 2)
    assert_close(model(x, found), (scores @ stacked).squeeze(1))


def test_sgc_is_pyg_s() -> None:
    from torch_geometric.nn import SGConv

    x, found, _ = inputs("sgc")
    model, theirs = peer("sgc"), SGConv(FEATURES, CLASSES, K=3).double()
    theirs.lin.load_state_dict(model.lin.state_dict())
    assert_close(model(x, found), theirs(x, found.edge_index))


@pytest.mark.parametrize("kind", ["sgc", "sign"])
def test_what_is_propagated_follows_the_features_and_the_graph(kind: str) -> None:
    x, found, _ = inputs(kind)
    model, other = peer(kind), Graph.from_edge_index(found.edge_index.flip(0), NODES)

    def fresh(values: Tensor, where: Graph) -> Tensor:
        return peer(kind)(values.clone(), where)

    assert_close(model(x, found), fresh(x, found))
    kept = model._cache._features[0]
    assert_close(model(x, found), fresh(x, found))
    assert model._cache._features[0] is kept, "the same features are propagated once"
    assert_close(model(x, other), fresh(x, other))
    x.mul_(2.0)
    assert_close(model(x, other), fresh(x, other))
    assert_close(model(x + 1.0, other), fresh(x + 1.0, other))
    if kind == "sgc":
        model(x, other)
        model.hops = 0
        assert_close(model(x, other), model.lin(x))


@pytest.mark.parametrize("kind", ["sgc", "sign"])
def test_what_is_propagated_serves_training_after_inference_and_dies_with_its_features(kind: str) -> None:
    x, found, _ = inputs(kind)
    model = peer(kind)
    with torch.inference_mode():
        model(x, found)
        assert not any(hop.is_inference() for hop in model._cache._features)
    model(x, found).sum().backward()
    expected = model.eval()(x, found)
    assert_close(pickle.loads(pickle.dumps(model))(x, found), expected)
    made = [weakref.ref(hop) for hop in model._cache._features]
    del x, expected
    gc.collect()
    assert [hop() for hop in made] == [None] * len(made)


def test_sign_reads_pyg_s_hops() -> None:
    from torch_geometric.data import Data
    from torch_geometric.transforms import SIGN

    x, found = inputs("sign")[0].float(), graph()
    # The transform reads float32 alone.
    data = SIGN(2)(Data(x=x, edge_index=found.edge_index, num_nodes=NODES))
    model, hops = peer("sign").float(), [x, data.x1, data.x2]
    assert_close(hops[2], dense(found, loops=False).float() @ hops[1])
    h = torch.cat([lin(hop) for lin, hop in zip(model.branches, hops, strict=True)], dim=1)
    for act, lin in zip(model.act, model.lins, strict=True):
        h = lin(act(h))
    assert_close(model(x, found), h)


def test_attention_with_edge_features_is_the_per_node_loop() -> None:
    x, found, edge_attr = inputs("edge_gat")
    conv = EdgeGATConv(FEATURES, 8, edge_channels=EDGE_FEATURES, heads=2, edge_drop=0.0).double()
    values = conv.lin_src(x).view(NODES, 2, 4)
    expected = conv.lin_root(x).view(NODES, 2, 4).clone()
    for node in range(NODES):
        edges = (found.edge_index[1] == node).nonzero().view(-1)
        if edges.numel():
            sources = found.edge_index[0, edges]
            score = conv.score_src(x[sources]) + conv.score_dst(x[node]) + conv.score_edge(edge_attr[edges])
            weight = F.leaky_relu(score, 0.2).softmax(0)
            expected[node] += (weight.unsqueeze(-1) * values[sources]).sum(0)
    assert_close(conv(x, found, edge_attr), expected.flatten(1))


def test_one_layer_of_unimp_is_the_per_node_loop() -> None:
    x, found, edge_attr = inputs("unimp")
    model = peer("unimp", num_layers=1)
    labels = x[:, -CLASSES:]
    h = model.norm_x(model.lin_x(x[:, :-CLASSES]))
    for node in range(NODES):
        if bool(labels[node].any()):
            h[node] = h[node] + model.norm_label(model.lin_label(labels[node]))
    (conv,), edges = model.convs, model.lin_edge(edge_attr).view(-1, 2, 4)
    query, key, value = (lin(h).view(NODES, 2, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    out = conv.lin_skip(h).view(NODES, 2, 4).clone()
    for node in range(NODES):
        into = (found.edge_index[1] == node).nonzero().view(-1)
        if into.numel():
            sources = found.edge_index[0, into]
            weight = ((query[node] * (key[sources] + edges[into])).sum(-1) / 4**0.5).softmax(0)
            out[node] += (weight.unsqueeze(-1) * (value[sources] + edges[into])).sum(0)
    assert_close(model(x, found, edge_attr), model.head(model.norms[0](out.flatten(1)).relu()))


@pytest.mark.parametrize("most", [2, 64])
def test_the_summary_of_edges_is_the_per_node_loop(most: int) -> None:
    _, found, edge_attr = inputs("unimp_cef")
    cross = CrossEdges(EDGE_FEATURES, 4, most=most).double().eval()
    expected = torch.zeros(NODES, 4, dtype=torch.double)
    for node in range(NODES):
        edges = (found.edge_index[1] == node).nonzero().view(-1)[:most]
        if edges.numel():
            h = cross.encoder(edge_attr[edges])
            for layer in cross.layers:
                attention = (layer.query(h) @ layer.key(h).T).softmax(-1)
                h = layer.norm((layer.out(attention @ layer.value(h)) + h).relu())
            expected[node] = h.mean(0)
    assert_close(cross(found, edge_attr), expected)


def test_edges_of_the_summary_are_drawn_anew_in_training() -> None:
    found, edge_attr = graph(), inputs("unimp_cef")[2]
    cross = CrossEdges(EDGE_FEATURES, 4, most=1).double().train()
    with torch.no_grad():
        drawn = [cross._gathered(found, edge_attr)[0][:, 0] for _ in range(20)]
    busy = int(found.in_degree.argmax())
    seen = torch.stack(drawn)[:, busy].unique(dim=0)
    assert 1 < len(seen) <= int(found.in_degree[busy])
    own = edge_attr[found.edge_index[1] == busy]
    assert all(bool((own == row).all(1).any()) for row in seen), "edges of other nodes were drawn"


def test_one_gated_layer_is_its_formula() -> None:
    x, found, _ = inputs("unimp_v2")
    layer = peer("unimp_v2").layers[0]
    h = x[:, :FEATURES]
    src, dst = found.edge_index
    query, key, value = (
        lin(h).view(NODES, 2, 4) for lin in (layer.conv.lin_query, layer.conv.lin_key, layer.conv.lin_value)
    )
    attended = torch.zeros(NODES, 2, 4, dtype=torch.double)
    mean = torch.zeros(NODES, 2, 4, dtype=torch.double)
    for node in range(NODES):
        sources = src[dst == node]
        if sources.numel():
            weight = ((query[node] * key[sources]).sum(-1) / 2.0).softmax(0)
            attended[node] = (weight.unsqueeze(-1) * value[sources]).sum(0)
            mean[node] = value[sources].mean(0)
    h_0 = now = (0.8 * attended + 0.2 * mean).flatten(1)
    degree = found.in_degree.clamp(min=1).double()
    for gate in layer.gates:
        spread = torch.zeros_like(now).index_add(0, dst, now[src] / (degree[src] * degree[dst]).sqrt().unsqueeze(1))
        share = torch.sigmoid(gate(torch.cat([h_0, spread, spread - h_0], 1)))
        now = share * h_0 + (1 - share) * spread
    skip = layer.skip(h)
    share = torch.sigmoid(layer.gate(torch.cat([skip, now, now - skip], 1)))
    out, weight = layer(h, found)
    assert_close(out, share * skip + (1 - share) * now)
    assert weight.shape == (found.num_edges, 2)


def test_dropout_stands_between_the_layers_in_training_alone() -> None:
    for kind in BASELINES:
        if kind == "sgc":
            continue
        x, found, edge_attr = inputs(kind)
        model = peer(kind, dropout=0.5)
        assert torch.equal(model(x, found, edge_attr), model(x, found, edge_attr))
        model.train()
        assert not torch.equal(model(x, found, edge_attr), model(x, found, edge_attr)), kind
