"""A model that was kept in a folder is the same model again, and a folder of anyone's runs no code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.export import Dim, export

import revgnn
from revgnn import DatasetConfig, Experiment, GraphInfo, ModelConfig, TrainConfig, TrainedModel, from_pretrained

INFO = GraphInfo(in_channels=5, num_outputs=3)
X, EDGES = torch.randn(9, 5), torch.randint(9, (2, 30))


@pytest.fixture
def model() -> TrainedModel:
    run = Experiment(
        dataset=DatasetConfig(name="digits"),
        model=ModelConfig(conv="sage", num_layers=4, hidden_channels=8, norm="batch"),
        train=TrainConfig(),
    )
    network = run.model.build(INFO)
    network(X, EDGES).sum().backward()  # running statistics differ from new ones
    return TrainedModel(run, INFO, network).eval()


def test_it_comes_back_and_the_card_has_the_scores(model: TrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "kept", scores={"test accuracy": 0.75})
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = from_pretrained(tmp_path / "kept", device="cpu")
    assert torch.equal(again(X, EDGES), model(X, EDGES)) and not again.training
    assert again.run == model.run
    card = (tmp_path / "kept" / "README.md").read_text()
    assert "| test accuracy | 0.7500 |" in card and "conv=sage" in card
    again.save_pretrained(tmp_path / "kept")  # a second time, in place
    assert "No scores were given." in (tmp_path / "kept" / "README.md").read_text()


def test_it_exports_for_other_graphs(model: TrainedModel) -> None:
    shapes = {"x": {0: Dim("nodes")}, "graph": {1: Dim("edges")}}
    program = export(model.module, (X, EDGES), dynamic_shapes=shapes).module()
    other = torch.randn(12, 5), torch.randint(12, (2, 41))
    torch.testing.assert_close(program(*other), model(*other))


@pytest.mark.parametrize("field", ["class", "conv"])
def test_files_that_name_other_code_are_refused(model: TrainedModel, tmp_path: Path, field: str) -> None:
    model.save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    facts["experiment"]["model"][field] = "antigravity:Name"
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="names the class 'antigravity:Name'.*own_code=True"):
        from_pretrained(tmp_path)
    assert "antigravity" not in sys.modules


def test_damaged_files_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    kept = load_file(weights)
    name = next(name for name, value in kept.items() if value.dim())
    save_file({**kept, name: kept[name][:1].clone()}, weights)
    with pytest.raises(ValueError, match=f"{name} must be"):
        from_pretrained(tmp_path)
    weights.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match="does not describe a model"):
        from_pretrained(tmp_path)


def test_an_id_without_the_hubs_package_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'revgnn\[hub\]'"):
        revgnn.from_pretrained("someone/deep-graph")
    with pytest.raises(FileNotFoundError, match="neither a folder nor the id"):
        revgnn.from_pretrained(tmp_path / "nothing")
