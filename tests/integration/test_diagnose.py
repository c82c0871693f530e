"""`revgnn diagnose`: energies and gradients are those of the network, the stack's states those of its forward."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import total_influence

from revgnn import Experiment, TrainConfig, run_experiment
from revgnn.cli import main
from revgnn.data import Dataset, DatasetConfig, GraphInfo, load_dataset, make_batches
from revgnn.diagnose import dirichlet_energy, influence_by_hop, look_into
from revgnn.graph import as_graph
from revgnn.nn.gnn import GNN
from revgnn.nn.model import ModelConfig
from revgnn.paper.baselines import BaselineConfig
from revgnn.paper.recipes import find_recipe
from revgnn.stack import Stack, layer_states
from revgnn.train.losses import cross_entropy
from tolerances import assert_close

SMALL = ["--set", "train.epochs=2", "--set", "model.num_layers=5", "--set", "dataset.minefield.side=8"]


def test_the_energy_is_the_sum_over_edges() -> None:
    draw = torch.Generator().manual_seed(0)
    x, edge_index = torch.randn(7, 3, generator=draw), torch.randint(7, (2, 20), generator=draw)
    wanted = sum(float((x[i] - x[j]).square().sum()) for i, j in edge_index.T.tolist()) / 20
    wanted /= 2 * float((x - x.mean(0)).square().sum(1).mean())
    assert dirichlet_energy(x, as_graph(edge_index, 7)) == pytest.approx(wanted, rel=1e-5)
    assert dirichlet_energy(torch.ones(7, 3), as_graph(edge_index, 7)) == 0.0


@pytest.mark.parametrize("coupling", ["grouped", "residual"])
def test_gradients_layer_by_layer_are_those_of_the_whole(coupling: str) -> None:
    data = load_dataset(DatasetConfig(name="karate"), Path())
    backprop = "reversible" if coupling == "grouped" else "store"
    torch.manual_seed(0)
    config = ModelConfig(num_layers=4, hidden_channels=8, coupling=coupling, backprop=backprop)  # type: ignore[arg-type]
    model = config.build(data.info).eval()
    assert isinstance(model, GNN) and isinstance(model.stack, Stack)
    (batch,) = make_batches(data).evaluate()
    found = look_into(model, batch, cross_entropy)
    assert [facts.layer for facts in found] == list(range(model.stack.num_layers + 1))
    model.zero_grad()
    rows = batch.rows["train"]
    cross_entropy(model(batch.x, batch.graph, seed=0)[rows], batch.y[rows]).backward()
    for facts in found[1:]:
        grads = [p.grad for block in model.stack.layer_at(facts.layer - 1) for p in block.parameters()]
        norm = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
        assert facts.weight_gradient == pytest.approx(float(norm), rel=1e-4)


def test_the_influence_by_hop_is_that_of_pyg() -> None:
    data = load_dataset(DatasetConfig(name="karate"), Path())
    torch.manual_seed(0)
    model = ModelConfig(num_layers=2, hidden_channels=8).build(data.info).eval()
    (batch,) = make_batches(data).evaluate()
    found, reach = influence_by_hop(model, batch, 5, nodes=34)
    # The karate club is 5 hops wide: the subgraphs that PyG cuts out are the whole one.
    theirs, their_reach = total_influence(model, Data(x=data.x, edge_index=data.edge_index), 5, vectorize=False)
    assert_close(torch.tensor(found), theirs[: len(found)])
    assert not theirs[len(found) :].any()
    assert reach == pytest.approx(their_reach, rel=1e-5)


def test_the_influence_of_weighted_edges_is_along_their_direction() -> None:
    """A chain 0 -> 1 -> 2 -> 3, whose middle edge weighs nothing."""
    chain = Dataset(
        info=GraphInfo(num_outputs=2, edge_weight=True),
        x=torch.randn(4, 3),
        edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]),
        edge_attr=torch.tensor([[1.0], [0.0], [1.0]]),
        y=torch.tensor([0, 1, 0, 1]),
        splits={"train": torch.arange(4)},
    )
    torch.manual_seed(0)
    model = ModelConfig(conv="sage", num_layers=3, hidden_channels=8).build(chain.info).eval()
    (batch,) = make_batches(chain).evaluate()
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x, batch.graph, batch.edge_attr), batch.x)
    size = jacobian.abs().sum((1, 3))  # type: ignore[union-attr]
    assert bool((size.triu(1) == 0).all()), "nothing goes against the edges"
    wanted = torch.stack([size.diagonal(-hop).sum() for hop in range(4)]) / size.diagonal().sum()
    found, _ = influence_by_hop(model, batch, 9, nodes=4)
    assert len(found) == 2, "past the edge without weight nothing goes"
    assert_close(torch.tensor(found), wanted[:2])
    assert not wanted[2:].any()


@pytest.mark.parametrize("kind", ["equilibrium", "gcn2", "sgc", "sign", "dagnn"])
def test_a_network_without_a_stack_has_a_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    cora = find_recipe("cora/deq")()
    assert isinstance(cora.model, ModelConfig)
    baseline = BaselineConfig(kind="gcn2", num_layers=2, hidden_channels=8, hops=3, initial=0.1)
    deq = replace(cora.model, hidden_channels=8)
    model = deq if kind == "equilibrium" else replace(baseline, kind=kind)
    data = DatasetConfig(name="karate", undirected=True)
    run = Experiment(dataset=data, model=model, train=TrainConfig(epochs=1))
    out = tmp_path / "run"
    run_experiment(run, out, name="run", data_root=tmp_path, device="cpu")
    capsys.readouterr()
    assert main(["diagnose", str(out), "--nodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == (2 if kind == "equilibrium" else 0)
    assert len(found["influence"]) == {"equilibrium": 5, "gcn2": 3}.get(kind, 4) and found["reach"] > 0.0
    assert (out / "diagnosis.svg").stat().st_size > 1000
    assert main(["diagnose", str(out), "--nodes", "0"]) == (0 if kind == "equilibrium" else 2)


def test_the_last_state_is_what_the_stack_gives() -> None:
    stack = Stack(torch.nn.Linear, channels=4, num_layers=0)  # type: ignore[arg-type]
    x = torch.ones(2, 4)
    (only,) = layer_states(stack, x)
    assert torch.equal(only, x)


def test_a_run_is_diagnosed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "minefield/revsage", *SMALL, "--out", str(out), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["diagnose", str(out), "--nodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "Dirichlet energy" in text and "Mean reach" in text
    assert (out / "diagnosis.svg").stat().st_size > 1000
    assert main(["diagnose", str(out), "--nodes", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["layers"]) == 6 and facts["influence"] == []
    assert all(each["stream_gradient"] > 0 for each in facts["layers"])
