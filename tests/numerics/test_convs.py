"""The convolutions against PyG's, and the properties that each of them must have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.nn import CONVS, GATConv, GCNConv, GENConv, SAGEConv
from revgnn.nn.convs import EdgeMap, GATOptions, GENOptions, SAGEOptions
from revgnn.nn.model import ModelConfig, build_model
from tolerances import assert_close, relative_error

N, D, O, K = 21, 6, 8, 3


@pytest.fixture
def edge_index() -> Tensor:
    """Repeated edges, self loops, and two isolated last nodes."""
    torch.manual_seed(0)
    edges = torch.randint(N - 2, (2, 60))
    return torch.cat([edges, edges[:, :4], torch.tensor([[3, 5], [3, 5]])], dim=1)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(N, D, dtype=torch.double)


def compare(found: Tensor, expected: Tensor, ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Compare values and, under one random cotangent, the gradients of corresponding tensors."""
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    cotangent = torch.randn_like(found)
    a = torch.autograd.grad(found, ours, cotangent)
    b = torch.autograd.grad(expected, theirs, cotangent)
    for ga, gb in zip(a, b, strict=True):
        torch.testing.assert_close(ga.reshape(gb.shape), gb, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("out_channels", [3, 8])
def test_gcn_is_pygs(x: Tensor, edge_index: Tensor, out_channels: int) -> None:
    ours, theirs = GCNConv(D, out_channels).double(), pyg.GCNConv(D, out_channels).double()
    theirs.lin.weight.data = ours.lin.weight.data.clone()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    # PyG keeps existing loops' weights and multiplicity; on a graph with one loop each, the two agree.
    looped = Graph.from_edge_index(edge_index, N).self_looped.edge_index
    compare(ours(xa, edge_index), theirs(xb, looped), [xa, ours.lin.weight], [xb, theirs.lin.weight])


def test_gcn_with_edge_weights_is_pygs(x: Tensor, edge_index: Tensor) -> None:
    ours = GCNConv(D, O, add_self_loops=False).double()
    theirs = pyg.GCNConv(D, O, add_self_loops=False).double()
    theirs.lin.weight.data = ours.lin.weight.data.clone()
    wa = torch.rand(edge_index.size(1), dtype=torch.double, requires_grad=True)
    wb = wa.detach().clone().requires_grad_()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    compare(ours(xa, edge_index, wa), theirs(xb, edge_index, wb), [xa, wa], [xb, wb])


def test_weights_of_the_graph_are_pygs_in_gcn_and_those_of_a_mean_in_sage(x: Tensor) -> None:
    """One of the loops is in the table, with a weight of its own; the others are added with 1."""
    edges = torch.stack([torch.randint(N - 2, (60,)), torch.randint(N - 2, (60,))])
    edges = torch.cat([edges[:, edges[0] != edges[1]], torch.tensor([[3], [3]])], dim=1)
    weight = torch.rand(edges.size(1), dtype=torch.double)
    graph = Graph.from_edge_index(edges, N)
    weighted = graph.weighted(graph.sort_edges(weight[:, None]))
    ours, theirs = GCNConv(D, O).double(), pyg.GCNConv(D, O).double()
    theirs.lin.weight.data = ours.lin.weight.data.clone()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    compare(ours(xa, weighted), theirs(xb, edges, weight), [xa, ours.lin.weight], [xb, theirs.lin.weight])
    adjacency = torch.zeros(N, N, dtype=torch.double).index_put((edges[1], edges[0]), weight, accumulate=True)
    for aggr, matrix in (("sum", adjacency), ("mean", adjacency / adjacency.sum(1, keepdim=True).clamp_min(1e-300))):
        conv = SAGEConv(D, O, options=SAGEOptions(aggr=aggr)).double()  # type: ignore[arg-type]
        assert conv.lin_r is not None
        expected = conv.lin_l(matrix @ xb) + conv.lin_r(xb)
        compare(conv(xa, weighted), expected, [xa, *conv.parameters()], [xb, *conv.parameters()])
    with pytest.raises(ValueError, match="aggr='max' takes no edge weights"):
        SAGEConv(D, O, options=SAGEOptions(aggr="max")).double()(x, weighted)


@pytest.mark.parametrize("conv", ["gcn", "sage"])
def test_a_network_weighs_edges_on_every_path(conv: str, edge_index: Tensor) -> None:
    """Reversible and fused is equal to stored; weights of 1 are those of no weights, and others change the answer."""
    info = GraphInfo(in_channels=D, num_outputs=3, edge_channels=1, edge_weight=True)
    graph, features = Graph.from_edge_index(edge_index, N), torch.randn(N, D)
    weight = torch.rand(edge_index.size(1), 1)
    found = []
    for backprop in ("reversible", "store"):
        torch.manual_seed(3)
        config = ModelConfig(conv=conv, num_layers=4, hidden_channels=16, dropout=0.0, backprop=backprop)  # type: ignore[arg-type]
        model = build_model(config, info)
        found.append((model, model(features, graph, weight)))
        found[-1][1].square().sum().backward()
    assert_close(found[0][1], found[1][1])
    for mine, oracle in zip(found[0][0].parameters(), found[1][0].parameters(), strict=True):
        assert mine.grad is not None and oracle.grad is not None
        assert relative_error(mine.grad, oracle.grad) < 1e-4
    model = found[0][0]
    plain = build_model(config, GraphInfo(in_channels=D, num_outputs=3))
    plain.load_state_dict(model.state_dict())
    assert_close(model(features, graph, torch.ones_like(weight)), plain(features, graph))
    assert relative_error(model(features, graph, weight).detach(), plain(features, graph).detach()) > 1e-2
    with pytest.raises(ValueError, match="this network weighs edges"):
        model(features, graph)


def test_what_is_ignored_of_edges_is_said_and_impossible_weights_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    info = GraphInfo(in_channels=D, num_outputs=3, edge_channels=1, edge_weight=True)
    with caplog.at_level("INFO", logger="revgnn"):
        build_model(ModelConfig(conv="gat", num_layers=3, hidden_channels=12, num_groups=2), info)
    assert "edge weights are ignored (1 columns): conv=gat reads none" in caplog.text
    with pytest.raises(ValueError, match="sage.aggr=max cannot weigh edges"):
        build_model(ModelConfig(conv="sage", hidden_channels=8, sage=SAGEOptions(aggr="max")), info)


@pytest.mark.parametrize("root_weight", [True, False])
@pytest.mark.parametrize("aggr", ["mean", "sum", "max"])
def test_sage_is_pygs(x: Tensor, edge_index: Tensor, aggr: Any, root_weight: bool) -> None:
    ours = SAGEConv(D, O, options=SAGEOptions(aggr=aggr, root_weight=root_weight)).double()
    theirs = pyg.SAGEConv(D, O, aggr=aggr, root_weight=root_weight).double()
    theirs.load_state_dict(ours.state_dict())
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    parameters = ("lin_l.weight", "lin_l.bias", "lin_r.weight")[: 3 if root_weight else 2]
    compare(
        ours(xa, edge_index),
        theirs(xb, edge_index),
        [xa, *(ours.get_parameter(name) for name in parameters)],
        [xb, *(theirs.get_parameter(name) for name in parameters)],
    )


@pytest.mark.parametrize("init", ["linear", "glorot"])
def test_sage_starts_as_its_option_says(init: Any) -> None:
    torch.manual_seed(3)
    conv = SAGEConv(400, 200, options=SAGEOptions(init=init))
    variance = 1 / (3 * 400) if init == "linear" else 2 / (400 + 200)
    for weight in (conv.lin_l.weight, conv.lin_r.weight):
        assert float(weight.detach().var()) == pytest.approx(variance, rel=0.02)
    assert bool((conv.lin_l.bias == 0).all()) == (init == "glorot")
    before = [parameter.clone() for parameter in conv.parameters()]
    torch.manual_seed(4)
    conv.reset_parameters()
    again = dict(zip(before, conv.parameters(), strict=True))
    assert not any(torch.equal(old, new) for old, new in again.items() if old.dim() == 2)


@pytest.mark.parametrize("aggr", ["softmax", "mean", "sum", "max", "power"])
@pytest.mark.parametrize("edges", [True, False])
def test_gen_is_pygs(x: Tensor, edge_index: Tensor, aggr: Any, edges: bool) -> None:
    names = {"sum": "add", "power": "powermean"}
    options = GENOptions(aggr=aggr, mlp_layers=2, learn_t=aggr == "softmax", learn_p=aggr == "power", t=0.7, p=1.5)
    ours = GENConv(D, D, edge_channels=K if edges else None, options=options).double()
    theirs = pyg.GENConv(
        D, D, aggr=names.get(aggr, aggr), t=0.7, p=1.5, learn_t=options.learn_t, learn_p=options.learn_p,
        num_layers=2, norm="layer", edge_dim=K if edges else None, bias=True,
    ).double()  # fmt: skip
    if aggr == "power":
        theirs.aggr_module.min_value = 1e-7  # the paper's code; PyG clamps at 1e-4
    theirs.lin_src, theirs.lin_dst = nn.Identity(), nn.Identity()
    linears = [theirs.mlp[0], theirs.mlp[-1]]
    pairs = list(zip(ours.lins, linears, strict=True))
    if edges:
        pairs.append((ours.lin_edge, theirs.lin_edge))
    for mine, other in pairs:
        other.weight.data, other.bias.data = mine.weight.data.clone(), mine.bias.data.clone()
    ea = torch.rand(edge_index.size(1), K, dtype=torch.double, requires_grad=True) if edges else None
    eb = None if ea is None else ea.detach().clone().requires_grad_()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, other = [xa, ours.lins[0].weight, ours.lins[1].bias], [xb, linears[0].weight, linears[1].bias]
    if edges:
        mine += [ea, ours.lin_edge.weight]
        other += [eb, theirs.lin_edge.weight]
    if options.learn_t:
        mine, other = [*mine, ours.t], [*other, theirs.aggr_module.t]
    if options.learn_p:
        mine, other = [*mine, ours.p], [*other, theirs.aggr_module.p]
    # PyG's power mean of no edges is not 0
    keep = Graph.from_edge_index(edge_index, N).in_degree > 0 if aggr == "power" else slice(None)
    compare(ours(xa, edge_index, ea)[keep], theirs(xb, edge_index, eb)[keep], mine, other)


def test_gat_is_pygs_without_normalisation(x: Tensor, edge_index: Tensor) -> None:
    ours = GATConv(D, O, options=GATOptions(heads=2, norm_adj=False, attn_dst=True)).double()
    theirs = pyg.GATConv(D, O // 2, heads=2, add_self_loops=False, residual=True, bias=False).double()
    theirs.lin.weight.data, theirs.res.weight.data = ours.lin.weight.data.clone(), ours.lin_root.weight.data.clone()
    theirs.att_src.data, theirs.att_dst.data = ours.attn_src.data.clone(), ours.attn_dst.data.clone()
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    compare(
        ours(xa, edge_index),
        theirs(xb, edge_index),
        [xa, ours.lin.weight, ours.lin_root.weight, ours.attn_src, ours.attn_dst],
        [xb, theirs.lin.weight, theirs.res.weight, theirs.att_src, theirs.att_dst],
    )


def test_normalised_adjacency_and_edge_drop_of_gat(x: Tensor) -> None:
    """Scaling and drop by hand on a star: node 0 receives from 1..4, each of which sends one edge more."""
    edge_index = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4], [0, 0, 0, 0, 5, 5, 6, 6]])
    conv = GATConv(D, O, options=GATOptions(heads=2, edge_drop=0.5)).double()
    graph = Graph.from_edge_index(edge_index, N)
    h = conv.lin(x) / torch.where(graph.out_degree > 1, 2.0, 1.0).double().sqrt().unsqueeze(1)
    conv.train()
    keep = conv._kept_edges(graph, 3)
    assert keep is not None and 0 < int(keep.sum()) < 8
    y = conv(x, graph, seed=3)
    values = h.view(N, 2, O // 2)
    for node in (0, 5, 6):
        edges = (graph.destinations == node) & keep
        sources = graph.indices[edges].long()
        scores = nn.functional.leaky_relu((values[sources] * conv.attn_src).sum(-1), 0.2)
        expected = (scores.softmax(0).unsqueeze(-1) * values[sources]).sum(0).flatten()
        expected = expected * graph.in_degree[node].double().sqrt() + conv.lin_root(x[node])
        torch.testing.assert_close(y[node], expected)
    conv.eval()
    assert conv._kept_edges(graph, 3) is None


def make(conv: str, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    arguments = {"gat": {"options": GATOptions(heads=2)}, "gen": {"options": GENOptions(**options)}}.get(conv, {})
    return CONVS[conv](D, D, **arguments).double()


@pytest.mark.parametrize("conv", CONVS)
def test_permutation_equivariance(conv: str, x: Tensor, edge_index: Tensor) -> None:
    module, order = make(conv), torch.randperm(N)
    position = torch.empty_like(order)
    position[order] = torch.arange(N)
    shuffled = position[edge_index][:, torch.randperm(edge_index.size(1))]
    torch.testing.assert_close(module(x[order], shuffled), module(x, edge_index)[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("num_nodes", [0, 1, 5])
def test_graphs_without_edges(conv: str, num_nodes: int) -> None:
    module = make(conv)
    x = torch.randn(num_nodes, D, dtype=torch.double, requires_grad=True)
    y = module(x, torch.empty(2, 0, dtype=torch.int64))
    assert y.shape == (num_nodes, D)
    assert bool(torch.autograd.grad(y.sum(), x)[0].isfinite().all())


@pytest.mark.parametrize("aggr", ["sum", "mean", "max", "softmax", "softmax_sg", "power"])
def test_isolated_nodes_aggregate_to_zero(aggr: Any, x: Tensor, edge_index: Tensor) -> None:
    module = make("gen", aggr=aggr, mlp_layers=1)
    assert_close(module(x, edge_index)[-2:], module.lins[0](x[-2:]))


def test_softmax_sg_takes_its_weights_as_constants(x: Tensor, edge_index: Tensor) -> None:
    graph = Graph.from_edge_index(edge_index, N)
    soft, constant = make("gen", aggr="softmax", t=0.5), make("gen", aggr="softmax_sg", t=0.5)
    constant.load_state_dict(soft.state_dict())
    xa = x.clone().requires_grad_()
    torch.testing.assert_close(soft(xa, graph), constant(xa, graph))
    grads = [torch.autograd.grad(module(xa, graph).sum(), xa)[0] for module in (soft, constant)]
    assert not torch.allclose(*grads)


def test_message_norm_and_degree_scale(x: Tensor, edge_index: Tensor) -> None:
    graph = Graph.from_edge_index(edge_index, N)
    options = GENOptions(aggr="mean", mlp_layers=1, msg_norm=True, learn_msg_scale=True, degree_scale=True)
    module = GENConv(D, D, options=options).double()
    module.msg_scale.data.fill_(0.3)
    plain = GENConv(D, D, options=GENOptions(aggr="mean", mlp_layers=1)).double()
    nn.init.eye_(plain.lins[0].weight), nn.init.zeros_(plain.lins[0].bias)
    aggregated = plain(x, graph) - x
    aggregated = aggregated * graph.in_degree.clamp(min=1).sqrt().unsqueeze(1)
    direction = nn.functional.normalize(aggregated, dim=1)
    expected = module.lins[0](x + 0.3 * x.norm(dim=1, keepdim=True) * direction)
    torch.testing.assert_close(module(x, graph), expected)
    assert {name for name, _ in module.named_parameters()} == {"lins.0.weight", "lins.0.bias", "y", "msg_scale"}


def test_a_shared_edge_encoder_folds_into_the_convs_own_map(x: Tensor, edge_index: Tensor) -> None:
    encoder = nn.Linear(K, 10).double()
    module = GENConv(D, D, edge_channels=10).double()
    edge_attr = torch.rand(edge_index.size(1), K, dtype=torch.double)
    folded = module(x, edge_index, edge_attr, edge_map=EdgeMap(encoder.weight, encoder.bias))
    torch.testing.assert_close(folded, module(x, edge_index, encoder(edge_attr)), rtol=1e-12, atol=1e-12)


def test_edge_features_follow_their_convention(x: Tensor, edge_index: Tensor) -> None:
    module = GENConv(D, D, edge_channels=K).double()
    edge_attr = torch.rand(edge_index.size(1), K, dtype=torch.double)
    graph = Graph.from_edge_index(edge_index, N)
    assert_close(module(x, edge_index, edge_attr), module(x, graph, edge_attr))


@pytest.mark.parametrize("conv", ["gen", "gat"])
def test_weights_that_a_convolution_does_not_read_are_refused(conv: str, x: Tensor, edge_index: Tensor) -> None:
    graph = Graph.from_edge_index(edge_index, len(x)).weighted(torch.rand(edge_index.size(1)))
    with pytest.raises(ValueError, match="reads no edge weights, and the graph has some; use GCNConv or SAGEConv"):
        CONVS[conv](x.size(1), 6)(x, graph)


def test_unexpected_edge_features_are_refused(x: Tensor, edge_index: Tensor) -> None:
    edge_attr = torch.rand(edge_index.size(1), K, dtype=torch.double)
    with pytest.raises(ValueError, match="SAGEConv takes no edge features"):
        make("sage")(x, edge_index, edge_attr)
    with pytest.raises(ValueError, match="edge_channels=None but got edge features"):
        make("gen")(x, edge_index, edge_attr)
    with pytest.raises(ValueError, match="got no edge features"):
        GENConv(D, D, edge_channels=K).double()(x, edge_index)
    with pytest.raises(ValueError, match="takes edge weights"):
        make("gcn")(x, edge_index, edge_attr)
    with pytest.raises(ValueError, match="divisible by heads=3"):
        GATConv(D, 8, options=GATOptions(heads=3))
