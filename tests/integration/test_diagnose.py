"""`revgnn diagnose`: energies and gradients are those of the network, the stack's states those of its forward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from revgnn.cli import main
from revgnn.data import DatasetConfig, load_dataset, make_batches
from revgnn.diagnose import dirichlet_energy, look_into
from revgnn.graph import as_graph
from revgnn.nn.gnn import GNN
from revgnn.nn.model import ModelConfig
from revgnn.stack import Stack, layer_states
from revgnn.train.losses import cross_entropy

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
    found = look_into(model, model.stack, batch, cross_entropy)
    assert [facts.layer for facts in found] == list(range(model.stack.num_layers + 1))
    model.zero_grad()
    rows = batch.rows["train"]
    cross_entropy(model(batch.x, batch.graph, seed=0)[rows], batch.y[rows]).backward()
    for facts in found[1:]:
        grads = [p.grad for block in model.stack.layer_at(facts.layer - 1) for p in block.parameters()]
        norm = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
        assert facts.weight_gradient == pytest.approx(float(norm), rel=1e-4)


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
