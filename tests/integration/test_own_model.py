"""A model of the user's own: any class with ``build(info)`` trains, resumes, reports and predicts as ours do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import revgnn
from revgnn.cli import main
from revgnn.data import DatasetConfig, GraphInfo
from revgnn.experiment import Experiment, as_json, experiment_of, read_experiment
from revgnn.graph import Graph
from revgnn.train import TrainConfig

SOURCE = """
from dataclasses import dataclass

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, inputs, width, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(2 * inputs, width), nn.Linear(width, outputs)

    def forward(self, x, graph, edge_attr=None, *, seed=None):
        src, dst = graph.edge_index
        around = torch.zeros_like(x).index_add(0, dst, x[src])
        return self.last(self.first(torch.cat([x, around], 1)).relu())


@dataclass(frozen=True, kw_only=True)
class Mine:
    width: int = 8

    def build(self, info):
        return Net(info.in_channels, self.width, info.num_outputs)


class Plain:
    def build(self, info):
        return Net(info.in_channels, 4, info.num_outputs)


class Unfinished:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A graph of two tables in a folder, and the module `own_models` beside it, where the command is called."""
    rng = torch.Generator().manual_seed(0)
    n, e = 60, 200
    (tmp_path / "graph").mkdir()
    kinds = torch.randint(0, 2, (n,), generator=rng)
    pq.write_table(
        pa.table(
            {
                "id": list(range(n)),
                "a": (kinds + 0.3 * torch.randn(n, generator=rng)).tolist(),
                "b": torch.randn(n, generator=rng).tolist(),
                "label": [f"k{kind}" for kind in kinds.tolist()],
                "split": [("train", "train", "valid", "test")[number % 4] for number in range(n)],
            }
        ),
        tmp_path / "graph" / "nodes.parquet",
    )
    src, dst = torch.randint(0, n, (2, e), generator=rng).tolist()
    pq.write_table(pa.table({"src": src, "dst": dst}), tmp_path / "graph" / "edges.parquet")
    (tmp_path / "own_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("own_models", None)


def _train(*words: str, model: str = "own_models:Mine", epochs: int = 3) -> list[str]:
    return ["train", "graph", "--model", model, "--out", "run", "--device", "cpu", "--json", "--set",
            f"train.epochs={epochs}", *words]  # fmt: skip


def test_it_trains_resumes_and_predicts_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_train("--set", "model.width=5")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "tables/graph-Mine with train.epochs=3, model.width=5"
    assert report["config"]["model"] == {"class": "own_models:Mine", "width": 5}
    assert report["parameters"] == 4 * 5 + 5 + 5 * 2 + 2
    assert main(_train("--set", "model.width=5", "--resume", epochs=5)) == 0
    assert json.loads(capsys.readouterr().out)["result"]["epochs"] == 5
    assert main(["predict", "run", "--out", "p.parquet", "--device", "cpu"]) == 0
    assert set(pq.read_table("p.parquet")["prediction"].to_pylist()) <= {"k0", "k1"}
    assert read_experiment(folder / "run").model.width == 5  # type: ignore[attr-defined]


def test_a_class_without_fields_trains_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_train(model="own_models:Plain")) == 0
    assert json.loads(capsys.readouterr().out)["config"]["model"] == {"class": "own_models:Plain"}


@pytest.mark.parametrize(("model", "message"), [
    ("own_models:Nothing", "own_models has no attribute 'Nothing'; it defines Net, Mine, Plain, Unfinished"),
    ("own_models:Unfinished", "must be a class with a method build(info)"),
    ("no_such_module:Mine", "there is no module 'no_such_module' in "),
    ("own_models.Mine", "is unknown; choose one of revsage, revgcn, revgen, revgat, or one of your own"),
])  # fmt: skip
def test_a_model_that_is_not_there_is_a_mistake_in_words(
    model: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_train(model=model)) == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_model_is_gone_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_train(epochs=1)) == 0
    (folder / "own_models.py").unlink()
    sys.modules.pop("own_models")
    capsys.readouterr()
    assert main(["predict", "run", "--out", "p.parquet"]) == 2
    assert "own_models" in capsys.readouterr().err


# ------------------------------------------------------------------ from Python
@dataclass(frozen=True, kw_only=True)
class Linear:
    """Logits of the features alone."""

    bias: bool = True

    def build(self, info: GraphInfo) -> nn.Module:
        """Make the network."""
        return _Linear(info.in_channels, info.num_outputs, self.bias)


class _Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs, bias)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        out: Tensor = self.map(x)
        return out


def test_it_is_the_model_of_an_experiment(tmp_path: Path) -> None:
    run = Experiment(dataset=DatasetConfig(name="digits"), model=Linear(bias=False), train=TrainConfig(epochs=2))
    assert experiment_of(json.loads(json.dumps(as_json(run)))) == run
    report = revgnn.run_experiment(run, tmp_path / "run", name="linear", data_root=tmp_path, device="cpu")
    assert report["parameters"] == 64 * 10
    assert read_experiment(tmp_path / "run") == replace(run, train=replace(run.train, loss="cross_entropy"))


def test_a_run_folder_of_another_format_names_the_version_that_wrote_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_train(epochs=1)) == 0
    path = folder / "run" / "run.json"
    facts = json.loads(path.read_text())
    facts["format"], facts["where"]["versions"]["revgnn"] = 1, "0.0.7"
    path.write_text(json.dumps(facts))
    for words in (["predict", "run", "--out", "p.parquet"], ["report", "run"]):
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "must have format 2, got 1, which revgnn 0.0.7 wrote; use that version, or train again" in said
    path.write_text(json.dumps({"format": 1, "where": ["nowhere"]}))
    assert main(["report", "run"]) == 2
    assert "which another revgnn wrote" in capsys.readouterr().err
