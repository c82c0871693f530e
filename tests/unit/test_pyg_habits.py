"""What users of PyG expect, one test for each row of the table in docs/pyg.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData

import revgnn
from revgnn import Graph, GraphInfo, ModelConfig, build_model
from revgnn.interop import ReversibleLayers
from revgnn.nn.convs import GATOptions, GENOptions, SAGEOptions

N, F, K, CLASSES = 11, 5, 3, 2
PAGE = Path(__file__).resolve().parents[2] / "docs" / "pyg.md"


@pytest.fixture
def data() -> Data:
    make = torch.Generator().manual_seed(0)
    edge_index = torch.randint(N, (2, 40), generator=make)
    return Data(
        x=torch.randn(N, F, generator=make),
        edge_index=edge_index,
        edge_attr=torch.rand(40, K, generator=make),
    )


def network(conv: str, level: str = "node", edge_channels: int | None = None, **choices: Any) -> nn.Module:
    config = ModelConfig(conv=conv, num_layers=4, hidden_channels=16, **choices)
    info = GraphInfo(in_channels=F, num_outputs=CLASSES, level=level, edge_channels=edge_channels)  # type: ignore[arg-type]
    return build_model(config, info).eval()


def test_every_row_of_the_table_names_its_test() -> None:
    rows = re.findall(r"^\|.*\| `(test_\w+)` \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    here = {name for name in globals() if name.startswith("test_")} - {"test_every_row_of_the_table_names_its_test"}
    assert set(rows) == here and len(rows) == len(here)


def test_graph_level_models_take_batch(data: Data) -> None:
    model = network("gcn", "graph", norm="graph")
    both = Batch.from_data_list([data, data.clone()])
    one = model(data.x, data.edge_index, batch=torch.zeros(N, dtype=torch.int64))
    out = model(both.x, both.edge_index, batch=both.batch, batch_size=3)
    torch.testing.assert_close(out[:2], one.expand(2, -1))
    assert out.shape == (3, CLASSES)
    # The same tensor with other contents is another batch.
    both.batch.zero_()
    assert model(both.x, both.edge_index, batch=both.batch).shape == (1, CLASSES)
    with pytest.raises(ValueError, match="ascending"):
        model(both.x, both.edge_index, batch=both.batch + torch.tensor([1, 0] * N))


def test_edge_attr_is_in_the_order_of_edge_index(data: Data) -> None:
    graph = Graph.from_edge_index(data.edge_index, N)
    assert graph.edge_ids is not None
    for model in (network("gen", edge_channels=K), revgnn.GENConv(F, F, edge_channels=K)):
        torch.testing.assert_close(
            model(data.x, graph, data.edge_attr), model(data.x, data.edge_index, data.edge_attr)
        )  # fmt: skip


@pytest.mark.parametrize("backprop", ["store", "reversible"])
def test_gradients_do_not_depend_on_the_form_of_the_graph(data: Data, backprop: str) -> None:
    model = network("gen", edge_channels=K, backprop=backprop).train()
    found = []
    for graph in (data.edge_index, Graph.from_edge_index(data.edge_index, N)):
        model.zero_grad()
        model(data.x, graph, data.edge_attr, seed=1).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*found)


def test_model_of_data_and_batch(data: Data) -> None:
    model = network("gen", edge_channels=K)
    torch.testing.assert_close(model(data), model(data.x, data.edge_index, data.edge_attr))
    answers = network("gen", "graph", edge_channels=K)
    both = Batch.from_data_list([data, data])
    torch.testing.assert_close(answers(both), answers(both.x, both.edge_index, both.edge_attr, batch=both.batch))
    with pytest.raises(TypeError, match="alone"):
        model(data, data.edge_index)
    with pytest.raises(TypeError, match="with x=NoneType"):
        model(Data(edge_index=data.edge_index))
    with pytest.raises(TypeError, match="edge_index is missing"):
        model(data.x)


def test_data_with_masks_is_a_data_set(data: Data) -> None:
    masks = torch.zeros(N, 2, dtype=torch.bool)
    masks[:4, 0] = masks[4:9, 1] = True
    data.y, data.train_mask, data.val_mask = torch.arange(N) % 3, masks, masks.flip(1)
    made = revgnn.dataset_from_pyg(data, split=1)
    assert made.info.task == "multiclass" and made.info.num_outputs == 3 and made.info.edge_channels == K
    assert made.splits["train"].tolist() == [4, 5, 6, 7, 8] and made.splits["valid"].tolist() == [0, 1, 2, 3]
    model = build_model(ModelConfig(num_layers=2, hidden_channels=8), made.info)
    revgnn.fit(model, revgnn.make_batches(made), revgnn.TrainConfig(epochs=1), metric=made.info.metric, device="cpu")
    for changes, match in (
        ({}, "has 2 columns, a split each; choose one, such as split=0"),
        ({"split": 2}, "data.train_mask has the columns 0 to 1, got split=2"),
        ({"split": 1, "task": "binary"}, "must hold 0 and 1, got 2"),
    ):
        with pytest.raises(ValueError, match=match):
            revgnn.dataset_from_pyg(data, **changes)  # type: ignore[arg-type]
    for other, match in (([data], "Batch.from_data_list"), (HeteroData(), "to_homogeneous")):
        with pytest.raises(TypeError, match=match):
            revgnn.dataset_from_pyg(other)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="revgnn.dataset_from_pyg makes a data set"):
        revgnn.make_batches(data)  # type: ignore[arg-type]
    del data.train_mask, data.val_mask
    with pytest.raises(ValueError, match="RandomNodeSplit"):
        revgnn.dataset_from_pyg(data)
    for changes, error, match in (
        ({"splits": {"train": torch.tensor([0.5])}}, TypeError, r"must hold whole numbers, got torch.float32"),
        ({"splits": {"train": torch.ones(3, dtype=torch.bool)}}, ValueError, r"is a mask and must be \[11\]"),
    ):
        with pytest.raises(error, match=match):
            revgnn.dataset_from_pyg(data, **changes)  # type: ignore[arg-type]
    rows = {"train": [0, 1, 2, 3], "test": torch.arange(N) > 7}
    for y, task, outputs in (
        (torch.rand(N), "regression", 1),
        (torch.rand(N, 4), "regression", 4),
        (torch.randint(2, (N, 4)), "multilabel", 4),
        ((torch.arange(N) % 2)[:, None], "multiclass", 2),
    ):
        data.y = y
        info = revgnn.dataset_from_pyg(data, splits=rows).info
        assert (info.task, info.num_outputs, info.split_sizes) == (task, outputs, {"train": 4, "test": 3})
    flags = revgnn.dataset_from_pyg(data, splits=rows, task="binary", metric="f1")
    assert flags.y.tolist() == [[float(node % 2)] for node in range(N)] and flags.info.metric == "f1"
    graphs = Batch.from_data_list(
        [Data(x=data.x, edge_index=data.edge_index, y=torch.tensor([k % 2])) for k in range(5)]
    )
    many = revgnn.dataset_from_pyg(graphs, splits={"train": torch.arange(3), "valid": torch.arange(3, 5)})
    assert many.info.level == "graph" and many.info.counts.graphs == 5 and many.y.tolist() == [0, 1, 0, 1, 0]
    data.edge_attr, data.edge_weight = None, torch.rand(40)
    weighted = revgnn.dataset_from_pyg(data, splits=rows)
    assert weighted.info.edge_weight and torch.equal(weighted.edge_attr[:, 0], data.edge_weight)  # type: ignore[index]


def test_hetero_data_is_refused_in_words(data: Data) -> None:
    typed = HeteroData()
    typed["paper"].x = data.x
    typed["paper", "cites", "paper"].edge_index = data.edge_index
    with pytest.raises(TypeError, match=r"node types \['paper'\]: typed graphs are not here yet"):
        network("gcn")(typed)


def test_edge_weight_is_an_argument(data: Data) -> None:
    weight = torch.rand(40, requires_grad=True)
    ours, theirs = revgnn.GCNConv(F, 4), pyg.GCNConv(F, 4)
    theirs.load_state_dict({"lin.weight": ours.lin.weight, "bias": ours.lin.bias})
    graph = Graph.from_edge_index(data.edge_index, N)
    expected = theirs(data.x, data.edge_index, weight)
    (slope,) = torch.autograd.grad(expected.square().sum(), weight)
    for call in (
        lambda: ours(data.x, data.edge_index, weight),
        lambda: ours(data.x, data.edge_index, edge_weight=weight[:, None]),
        lambda: ours(data.x, graph, edge_weight=weight),
    ):
        torch.testing.assert_close(call(), expected)
        torch.testing.assert_close(*torch.autograd.grad(call().square().sum(), weight), slope)
    model = network("gcn")
    plain, weighed = model(data.x, data.edge_index), model(data.x, data.edge_index, edge_weight=weight.detach())
    assert not torch.allclose(plain, weighed)
    torch.testing.assert_close(model(data.x, data.edge_index, edge_weight=torch.ones(40)), plain)
    torch.testing.assert_close(model(data.x, graph, edge_weight=weight.detach()), weighed)
    with pytest.raises(ValueError, match="needs a gradient"):
        model(data.x, data.edge_index, edge_weight=weight)
    with pytest.raises(ValueError, match="reads no edge weights"):
        network("gat")(data.x, data.edge_index, edge_weight=weight.detach())
    with pytest.raises(ValueError, match=r"shape \[40\]"):
        model(data.x, data.edge_index, edge_weight=torch.ones(39))


@pytest.mark.parametrize("conv", ["gcn", "sage", "gen", "gat"])
def test_every_conv_works_with_its_defaults(conv: str, data: Data) -> None:
    model = build_model(ModelConfig(conv=conv), in_channels=F, out_channels=CLASSES)
    model(data.x, data.edge_index).sum().backward()


def test_gat_says_which_width_fits() -> None:
    with pytest.raises(ValueError, match=r"gat.heads=3 times num_groups=2; choose 126"):
        ModelConfig(conv="gat", gat=GATOptions(heads=3))


def test_an_unknown_conv_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gin' is unknown; choose one of gcn, sage, gen, gat"):
        ModelConfig(conv="gin")
    for make, what in (
        (lambda: SAGEOptions(aggr="lstm"), "aggr='lstm' is not known; choose one of sum, mean, max"),
        (lambda: GENOptions(aggr="median"), "aggr='median' is not known; choose one of sum, mean, max, softmax"),
        (lambda: GATOptions(heads=0), "heads must be 1 or more"),
        (lambda: ModelConfig(norm="batchnorm"), "norm='batchnorm' is not known; choose one of layer, batch, graph"),
    ):
        with pytest.raises(ValueError, match=what):
            make()


def test_group_add_rev_by_one_import(data: Data) -> None:
    torch.manual_seed(0)
    ours = revgnn.GroupAddRev(pyg.SAGEConv(8, 8), num_groups=2)
    theirs = pyg.GroupAddRev(ours.convs)
    x = torch.randn(N, 16)
    torch.testing.assert_close(ours(x, data.edge_index), theirs(x.clone(), data.edge_index))


PYG_CONVS: dict[str, Any] = {
    "gcn": lambda: pyg.GCNConv(F, 4),
    "gcn without loops and bias": lambda: pyg.GCNConv(F, 4, add_self_loops=False, bias=False),
    "sage": lambda: pyg.SAGEConv(F, 4),
    "sage max": lambda: pyg.SAGEConv(F, 4, aggr="max", root_weight=False),
    "gat": lambda: pyg.GATConv(F, 2, heads=3),
    "gat residual": lambda: pyg.GATConv(F, 2, heads=2, residual=True, bias=False, add_self_loops=False),
    "gen": lambda: pyg.GENConv(F, F),
    "gen edges": lambda: pyg.GENConv(F, F, edge_dim=K, bias=True, learn_t=True, msg_norm=True, learn_msg_scale=True),
    "gen layer": lambda: pyg.GENConv(F, F, norm="layer"),
    "gen max": lambda: pyg.GENConv(F, F, aggr="max", norm=None, num_layers=3),
}


@pytest.mark.parametrize("kind", PYG_CONVS)
def test_weights_load_from_pyg_and_back(kind: str, data: Data) -> None:
    theirs = PYG_CONVS[kind]()
    for tensor in (*theirs.parameters(), *theirs.buffers()):  # no weight stays at a value that hides it
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.1
    with_edges = (data.edge_attr,) if "edges" in kind else ()
    ours = revgnn.from_pyg(theirs)
    for mode in (True, False):
        x, y = data.x.clone().requires_grad_(), data.x.clone().requires_grad_()
        one = theirs.train(mode)(x, data.edge_index, *with_edges)
        two = ours.train(mode)(y, data.edge_index, *with_edges)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
        one.square().sum().backward(), two.square().sum().backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-3, atol=1e-4)
    back = revgnn.to_pyg(ours)
    assert type(back) is type(theirs)
    assert back.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(
        back.eval()(data.x, data.edge_index, *with_edges), theirs.eval()(data.x, data.edge_index, *with_edges)
    )


def test_what_cannot_be_converted_is_said() -> None:
    for conv, what in (
        (pyg.GCNConv(F, 4, improved=True), "improved"),
        (pyg.SAGEConv(F, 4, aggr="lstm"), "lstm"),
        (pyg.SAGEConv((F, F), 4), "bipartite"),
        (pyg.SAGEConv(-1, 4), "call the convolution once"),
        (pyg.SAGEConv(F, 4, aggr=["max", "mean"]), "several aggregations"),
        (pyg.GATConv(F, 4, heads=2, concat=False), "concat"),
        (pyg.GATConv(F, 4, dropout=0.5), "edge_drop"),
        (pyg.GENConv(F, 4), "in_channels"),
        (pyg.GENConv(F, F, aggr="power"), "powermean"),
        (pyg.GENConv(F, F, norm="instance"), "norm"),
    ):
        with pytest.raises(ValueError, match=f"no equal on the other side.*{what}"):
            revgnn.from_pyg(conv)
    with pytest.raises(TypeError, match="GCNConv, SAGEConv, GATConv, GENConv, got .*GINConv"):
        revgnn.from_pyg(pyg.GINConv(nn.Linear(F, F)))
    with pytest.raises(ValueError, match="norm_adj"):
        revgnn.to_pyg(revgnn.GATConv(F, 4))
    with pytest.raises(TypeError, match="to_pyg converts"):
        revgnn.to_pyg(nn.Linear(2, 2))  # type: ignore[arg-type]


class Deep(nn.Module):
    """The network of PyG's own example of DeeperGCN."""

    def __init__(self, num_layers: int, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Linear(F, width)
        self.layers = nn.ModuleList(
            pyg.DeepGCNLayer(pyg.SAGEConv(width, width), nn.LayerNorm(width), nn.ReLU(), dropout=0.2)
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.layers[0].conv(self.encoder(x), edge_index)
        for layer in self.layers[1:]:
            x = layer(x, edge_index)
        return self.layers[0].act(self.layers[0].norm(x))


MODELS: dict[str, Any] = {
    "ModuleList": lambda L: nn.ModuleList(pyg.SAGEConv(F, F) for _ in range(L)),
    "GCN": lambda L: pyg.GCN(F, 8, L, CLASSES, dropout=0.3, norm="batch"),
    "GraphSAGE": lambda L: pyg.GraphSAGE(F, 8, L),
    "DeepGCNLayer": lambda L: Deep(L),
}


@pytest.mark.parametrize("kind", MODELS)
def test_repeated_layers_become_reversible(kind: str, data: Data) -> None:
    plain = MODELS[kind](9)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    model = revgnn.reversible(plain)
    assert {id(p) for p in model.parameters()} == {id(p) for p in plain.parameters()}
    layers = [each for each in model.modules() if isinstance(each, revgnn.GroupAddRev)]
    assert len(layers) >= 3
    found: list[list[Tensor]] = []
    for disable in (False, True):  # reversible = stored
        for layer in layers:
            layer.disable = disable
        plain.load_state_dict(before)
        model.train().zero_grad()
        torch.manual_seed(3)
        out = model(data.x, data.edge_index)
        out.square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        found.append([out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_a_reversible_model_keeps_its_memory_over_depth(data: Data) -> None:
    def kept(num_layers: int) -> int:
        model = revgnn.reversible(pyg.GraphSAGE(F, 8, num_layers, CLASSES))
        return revgnn.saved_bytes(lambda: model(data.x, data.edge_index))

    assert kept(22) - kept(12) < N * 8 * 4


@pytest.mark.parametrize("kind", MODELS)
def test_a_reversible_model_is_initialised_as_a_plain_one(kind: str) -> None:
    model = revgnn.reversible(MODELS[kind](9))
    layers = next(each for each in model.modules() if isinstance(each, ReversibleLayers))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(3.0)
    layers.reset_parameters()
    assert not any((parameter == 3.0).any() for parameter in layers.parameters())


def test_hooks_of_a_reversible_model_are_its_own(data: Data) -> None:
    plain, calls = pyg.GCN(F, 8, 6, CLASSES), []
    model = revgnn.reversible(plain)
    model.register_forward_hook(lambda *_: calls.append("reversible"))
    plain.register_forward_hook(lambda *_: calls.append("plain"))
    plain(data.x, data.edge_index)
    model(data.x, data.edge_index)
    assert calls == ["plain", "reversible"]
    model.reset_parameters()


def test_reversible_says_why_not() -> None:
    linear = nn.ModuleList([pyg.GCNConv(4, 8), pyg.GCNConv(8, 8)])
    for model, what in (
        (linear, "layer 0 maps 4 to 8 channels"),
        (nn.ModuleList([pyg.GCNConv(4, 4), pyg.GCNConv(8, 8)]), "layer 1 has 8 channels and the one before 4"),
        (pyg.GCN(F, 8, 3), "there are 1 layers"),
        (pyg.GCN(F, 8, 6, jk="cat"), "reads every layer's output"),
        (pyg.GCN(F, 8, 6, norm="graph_norm"), "gives batch to its norm"),
        (nn.Linear(2, 2), "Linear has no repeated layers.* it has no ModuleList"),
        (nn.ModuleDict({"convs": linear}), "convs is a list of GCNConv, not of DeepGCNLayer"),
    ):
        with pytest.raises(ValueError, match=what):
            revgnn.reversible(model)
