"""Networks from configurations: the paper's parameter counts to the unit, PyG's conventions, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from revgnn.data import TASKS, GraphInfo
from revgnn.graph import Graph
from revgnn.implicit.equilibrium import Equilibrium
from revgnn.nn.convs import GATOptions, GENOptions, SAGEConv, SAGEOptions
from revgnn.nn.heads import HEADS
from revgnn.nn.model import EquilibriumOptions, ModelConfig, build_model
from tolerances import assert_close

RES: dict[str, Any] = {"coupling": "residual", "backprop": "store"}
REV: dict[str, Any] = {"coupling": "grouped", "backprop": "reversible"}
TIED: dict[str, Any] = {"weight_tied": True, "num_distinct": 2}
DEQ: dict[str, Any] = {"coupling": "residual", "backprop": "implicit", "weight_tied": True}
ONE = GENOptions(mlp_layers=1)
ARXIV: dict[str, Any] = {"in_channels": 128, "num_outputs": 40}
LABELS: dict[str, Any] = {"in_channels": 168, "num_outputs": 40}
PROTEINS: dict[str, Any] = {"in_channels": 16, "num_outputs": 112, "edge_channels": 8}


def arxiv(conv: Any, depth: int, width: int, coupling: dict[str, Any], count: int) -> Any:
    config = ModelConfig(conv=conv, num_layers=depth, hidden_channels=width, gen=ONE, norm="batch", **coupling)
    return pytest.param(config, ARXIV, count, id=f"{conv}-{depth}x{width}-{coupling['coupling']}")


def proteins(depth: int, width: int, choices: dict[str, Any], count: int, learn_t: bool = False) -> Any:
    gen = GENOptions(aggr="max", learn_t=learn_t)
    config = ModelConfig(conv="gen", num_layers=depth, hidden_channels=width, species=8, gen=gen, **choices)
    return pytest.param(config, PROTEINS, count, id=f"proteins-{depth}x{width}-{count}")


def gat(width: int, coupling: dict[str, Any], count: int) -> Any:
    config = ModelConfig(
        conv="gat", num_layers=5, hidden_channels=width, norm="batch", gat=GATOptions(heads=3), **coupling
    )
    return pytest.param(config, LABELS, count, id=f"gat-5x{width}-{coupling['coupling']}")


MOLHIV = ModelConfig(
    conv="gen",
    num_layers=7,
    hidden_channels=256,
    norm="batch",
    edge_encoder=False,
    gen=GENOptions(mlp_layers=1, learn_t=True, edge_bias=False),
    **RES,
)


@pytest.mark.parametrize(
    ("config", "data", "count"),
    [
        arxiv("gcn", 28, 128, RES, 491_176),
        arxiv("gcn", 28, 128, REV, 262_056),
        arxiv("gcn", 28, 180, REV, 499_540),
        arxiv("sage", 28, 128, RES, 949_928),
        arxiv("sage", 28, 128, REV, 491_432),
        arxiv("sage", 28, 180, REV, 953_140),
        arxiv("gen", 28, 128, RES, 491_176),
        arxiv("gen", 28, 128, REV, 262_056),
        arxiv("gen", 28, 180, REV, 499_540),
        gat(768, RES, 3_867_728),
        gat(768, REV, 2_098_256),
        gat(1068, REV, 3_879_056),
        proteins(1001, 80, REV, 20_031_384),
        proteins(448, 224, REV, 68_471_608),
        proteins(112, 64, RES, 2_374_568, learn_t=True),
        proteins(112, 64, RES, 2_374_456),
        proteins(112, 224, RES, 28_380_536),
        proteins(112, 64, REV, 1_457_080),
        proteins(112, 80, REV, 2_251_384),
        proteins(112, 224, REV, 17_141_560),
        proteins(112, 64, RES | TIED, 51_256),
        proteins(112, 64, REV | TIED, 35_000),
        proteins(112, 80, REV | TIED, 51_384),
        proteins(112, 224, REV | TIED, 337_080),
        proteins(112, 64, DEQ, 51_256),
        proteins(112, 224, DEQ, 537_336),
        pytest.param(
            ModelConfig(conv="sage", num_layers=112, hidden_channels=160),
            {"in_channels": 100, "num_outputs": 47},
            2_945_007,
            id="products-112x160",
        ),
        pytest.param(
            MOLHIV,
            # 173 atom categories, as the published count was made with; the data has 174 today.
            {
                "in_channels": 9,
                "num_outputs": 1,
                "edge_channels": 13,
                "categories": (119, 5, 12, 12, 10, 6, 6, 2, 1),
                "level": "graph",
            },
            531_976,
            id="molhiv-7x256",
        ),
    ],
)
def test_parameter_counts_of_the_paper(config: ModelConfig, data: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = build_model(config, GraphInfo(**data))
    assert sum(p.numel() for p in model.parameters()) == count


def small(conv: Any = "sage", **choices: Any) -> ModelConfig:
    choices = {"num_layers": 4, "hidden_channels": 12, "gat": GATOptions(heads=2), **choices}
    return ModelConfig(conv=conv, **choices)


@pytest.mark.parametrize("conv", ["gcn", "sage", "gen", "gat"])
@pytest.mark.parametrize("choices", [RES, REV], ids=["res", "rev"])
def test_a_model_takes_a_graph_or_an_edge_index(conv: str, choices: dict[str, Any]) -> None:
    model = build_model(small(conv, **choices), GraphInfo(in_channels=5, num_outputs=3, edge_channels=2)).eval()
    edge_index, x, edge_attr = torch.randint(9, (2, 30)), torch.randn(11, 5), torch.rand(30, 2)
    graph = Graph.from_edge_index(edge_index, 11)
    ours = model(x, graph, edge_attr)
    assert_close(model(x, edge_index, edge_attr), ours)
    assert ours.shape == (11, 3)


def test_plain_widths_stand_for_the_facts_of_a_data_set() -> None:
    torch.manual_seed(3)
    plain = build_model(small(), in_channels=5, out_channels=3)
    torch.manual_seed(3)
    told = build_model(small(), GraphInfo(in_channels=5, num_outputs=3))
    for one, other in zip(plain.parameters(), told.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="either info.* or in_channels and out_channels; got info=None, in_channels=5"):
        build_model(small(), in_channels=5)
    with pytest.raises(ValueError, match="either info"):
        build_model(small(), GraphInfo(in_channels=5, num_outputs=3), out_channels=3)


def test_evaluation_ignores_every_random_choice() -> None:
    model = build_model(small("gat", input_dropout=0.3), GraphInfo(in_channels=5, num_outputs=3)).eval()
    x, edge_index = torch.randn(11, 5), torch.randint(11, (2, 30))
    assert torch.equal(model(x, edge_index, seed=1), model(x, edge_index, seed=2))
    model.train()
    assert torch.equal(model(x, edge_index, seed=1), model(x, edge_index, seed=1))
    assert not torch.equal(model(x, edge_index, seed=1), model(x, edge_index, seed=2))


def test_a_shared_mask_drops_the_same_channels_in_every_layer() -> None:
    model = build_model(small(), GraphInfo(in_channels=5, num_outputs=3))
    seen = []
    for layer in model.stack.layers:
        for block in layer:
            block.register_forward_pre_hook(lambda _, args: seen.append(args[3].clone()))
    with torch.no_grad():
        model(torch.randn(11, 5), torch.randint(11, (2, 30)), seed=1)
    assert len(seen) == 8
    assert all(torch.equal(seen[0], mask) for mask in seen[::2])
    assert all(torch.equal(seen[1], mask) for mask in seen[1::2])
    assert not torch.equal(seen[0], seen[1])


def test_graph_level_answers_per_graph_and_is_batch_independent() -> None:
    config = replace(MOLHIV, num_layers=3, hidden_channels=8, norm="graph", dropout=0.0)
    model = build_model(
        config, GraphInfo(in_channels=2, num_outputs=1, edge_channels=3, categories=(4, 5), level="graph")
    ).eval()
    x = torch.stack([torch.randint(4, (9,)), torch.randint(5, (9,))], 1)
    edges, edge_attr = torch.tensor([[0, 1, 2, 5, 6, 7], [1, 2, 0, 6, 7, 8]]), torch.rand(6, 3)
    both = Graph.from_edge_index(edges, 9, batch=torch.tensor([0] * 4 + [1] * 5))
    together = model(x, both, edge_attr)
    apart = [model(x[:4], edges[:, :3], edge_attr[:3]), model(x[4:], edges[:, 3:] - 4, edge_attr[3:])]
    torch.testing.assert_close(together, torch.cat(apart))


def test_an_equilibrium_trains_is_unrolled_first_and_shows_its_residuals() -> None:
    options = EquilibriumOptions(pretrain_epochs=1, pretrain_steps=3, max_iter=60, tol=1e-5, jacobian_weight=0.5)
    model = build_model(small("gen", **DEQ, equilibrium=options), GraphInfo(in_channels=5, num_outputs=3))
    assert isinstance(model.stack, Equilibrium)
    x, edge_index = torch.randn(11, 5), torch.randint(11, (2, 30))
    model.begin_epoch(1)
    model(x, edge_index, seed=1).sum().backward()
    assert "forward residual" not in model.observe()
    model.begin_epoch(2)
    out = model(x, edge_index, seed=1)
    penalty = model.auxiliary_loss(torch.sum)
    assert penalty is not None and float(penalty.detach()) > 0
    assert model.auxiliary_loss(torch.sum) is None
    model.zero_grad()
    (out.sum() + penalty).backward()
    assert all(p.grad is not None for p in model.parameters())
    observed = model.observe()
    assert observed["forward residual"] <= 1e-5
    assert {"backward residual", "forward iterations", "backward failures"} <= set(observed)
    assert model.eval()(x, edge_index).shape == (11, 3)


def test_an_unrolled_network_of_the_same_block_gives_the_implicit_gradient() -> None:
    options = EquilibriumOptions(max_iter=200, tol=1e-12, backward_max_iter=200, pretrain_epochs=1, pretrain_steps=400)
    model = build_model(
        small("sage", **DEQ, dropout=0.2, equilibrium=options), GraphInfo(in_channels=5, num_outputs=3)
    ).double()
    model.stack.block.last.weight.data.mul_(0.1)  # a contraction: what is fed back is small beside the input
    x, edge_index = torch.randn(11, 5, dtype=torch.double), torch.randint(11, (2, 30))
    grads = []
    for epoch in (1, 2):
        model.begin_epoch(epoch)
        model.zero_grad()
        model(x, edge_index, seed=3).pow(2).sum().backward()
        grads.append(nn.utils.parameters_to_vector([p.grad for p in model.parameters()]))
    assert (grads[0] - grads[1]).norm() < 1e-8 * grads[0].norm()


def test_options_of_sage_reach_every_layer() -> None:
    options = SAGEOptions(aggr="max", init="glorot", bias=False, root_weight=False)
    model = build_model(small(sage=options), GraphInfo(in_channels=5, num_outputs=3))
    convs = [module for module in model.modules() if isinstance(module, SAGEConv)]
    assert len(convs) == 4 * 2 and all(conv.options == options and conv.lin_l.bias is None for conv in convs)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"hidden_channels": 129}, r"hidden_channels=129 must be divisible by num_groups=2; choose 128 or 130"),
        ({"coupling": "residual"}, "needs coupling='grouped'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"num_layers": 0}, "num_layers must be 1 or more"),
        ({"conv": "gat", "num_layers": 1}, "num_layers must be 2 or more for conv='gat'"),
        ({"conv": "gat", "hidden_channels": 16, "gat": GATOptions(heads=3)}, "divisible by gat.heads=3"),
        ({"backprop": "implicit"}, "set coupling='residual' and weight_tied=True"),
        ({"conv": "gat", "gat": GATOptions(heads=2), **DEQ}, "choose another conv"),
    ],
)
def test_configurations_that_cannot_be(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**({"conv": "gcn", "num_layers": 4} | choices))


OWN = """
import torch
from revgnn import ops
from revgnn.nn import Conv

class Mean(Conv):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.lin = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x, graph, edge_attr=None, *, edge_map=None, seed=None):
        return self.lin(ops.spmm(x, graph, reduce="mean"))

class Weighted(Mean):
    takes_edge_attr = True

    def __init__(self, in_channels, out_channels, *, edge_channels=None):
        super().__init__(in_channels, out_channels)
        self.lin_edge = torch.nn.Linear(edge_channels, in_channels)

    def forward(self, x, graph, edge_attr=None, **_):
        return super().forward(x, graph) + self.lin(self.lin_edge(edge_attr).mean(0))

class Bare(Conv):
    pass

class Short(Conv):
    def forward(self, x, graph):
        return x

class Other(torch.nn.Module):
    def forward(self, x, graph, edge_attr=None, *, edge_map=None, seed=None):
        return x
"""


@pytest.fixture
def own_convs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_convs.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_convs", None)


@pytest.mark.usefixtures("own_convs")
@pytest.mark.parametrize("choices", [RES, REV], ids=["res", "rev"])
def test_a_convolution_of_ones_own_is_named_by_its_place(choices: dict[str, Any]) -> None:
    x, edge_index, edge_attr = torch.randn(11, 5), torch.randint(11, (2, 30)), torch.rand(30, 2)
    config = small("own_convs:Mean", dropout=0.0, **choices)
    model = build_model(config, GraphInfo(in_channels=5, num_outputs=3)).double()
    assert type(model.stack.layers[0][0].conv).__name__ == "Mean"
    loss = model(x.double(), edge_index).square().sum()
    found = torch.autograd.grad(loss, list(model.parameters()))
    assert config.build(GraphInfo(in_channels=5, num_outputs=3))(x, edge_index).shape == (11, 3)
    if choices is REV:
        plain = build_model(replace(config, backprop="store"), GraphInfo(in_channels=5, num_outputs=3)).double()
        plain.load_state_dict(model.state_dict())
        loss = plain(x.double(), edge_index).square().sum()
        for mine, theirs in zip(found, torch.autograd.grad(loss, list(plain.parameters())), strict=True):
            assert_close(mine, theirs)
    weighted = small("own_convs:Weighted", edge_encoder=False, **choices)
    with_edges = build_model(weighted, GraphInfo(in_channels=5, num_outputs=3, edge_channels=2)).eval()
    assert not torch.equal(with_edges(x, edge_index, edge_attr), with_edges(x, edge_index, 2 * edge_attr))


@pytest.mark.usefixtures("own_convs")
@pytest.mark.parametrize(
    ("conv", "message"),
    [
        ("mean", "conv='mean' is unknown; choose one of gcn, sage, gen, gat, or name a class as 'package.module:Name'"),
        ("own_conv:Mean", "cannot be imported: there is no module 'own_conv' in .*; check own_conv:Mean"),
        ("own_convs:Median", "cannot be imported: own_convs has no attribute 'Median'; it defines Mean, "),
        ("own_convs:torch", "must be a subclass of revgnn.nn.Conv, got <module 'torch'"),
        ("own_convs:Other", "must be a subclass of revgnn.nn.Conv"),
        (
            "own_convs:Short",
            r"must have forward\(self, x, graph, edge_attr=None, .*\): too many",
        ),
        ("own_convs:Bare", r"must have a forward\(x, graph, edge_attr\) of its own"),
    ],
)
def test_what_is_no_convolution_is_refused(conv: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(conv=conv, num_layers=4, hidden_channels=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GATOptions(edge_drop=1.0), r"edge_drop must lie in \[0, 1\), got 1.0"),
        (lambda: GATOptions(edge_drop=-1.0), r"edge_drop must lie in \[0, 1\), got -1.0"),
        (lambda: GENOptions(p=0.0), "p must be finite and other than 0, and t finite, got p=0.0"),
        (lambda: GENOptions(t=math.inf), "p must be finite and other than 0, and t finite, got p=1.0, t=inf"),
        (
            lambda: ModelConfig(conv="sage", num_layers=4, hidden_channels=8, num_distinct=3),
            "num_distinct=3 says how many layers are shared; set weight_tied=True",
        ),
    ],
)
def test_a_number_that_means_nothing_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_binary_task_has_one_logit() -> None:
    info = GraphInfo(in_channels=5, task="binary", num_outputs=1, class_names=("no", "yes"))
    assert (info.metric, info.task_spec.loss) == ("rocauc", "bce")
    assert {task.head for task in TASKS.values()} == set(HEADS)
    assert build_model(small(), info)(torch.randn(11, 5), torch.randint(11, (2, 30))).shape == (11, 1)


def test_data_that_does_not_go_with_the_configuration() -> None:
    with pytest.raises(ValueError, match="edge_linear=True"):
        build_model(
            small("gen", gen=GENOptions(edge_linear=False)), GraphInfo(in_channels=5, num_outputs=3, edge_channels=2)
        )
    with pytest.raises(ValueError, match="logits per node"):
        build_model(small("gat"), GraphInfo(in_channels=5, num_outputs=3, level="graph"))
    model = build_model(small(), GraphInfo(in_channels=1, num_outputs=3, categories=(4,)))
    with pytest.raises(ValueError, match=r"category 7 in row 1, column 0 is not in 0\.\.3"):
        model(torch.tensor([[0], [7]]), torch.empty(2, 0, dtype=torch.int64))
