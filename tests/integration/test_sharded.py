"""Two ranks that hold a model in shards: the same weights as two that hold all of it, stopped and resumed, and smaller;
and with BatchNorm over the rows of both, the same as one process with both batches.

The file is its own worker: torchrun starts it with a folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from rank_jobs import assert_close, assert_same_bits, last, launch, node_dataset
from revgnn.data import Batch, Batches, GraphInfo, LoaderConfig, make_batches
from revgnn.graph import Graph
from revgnn.nn.model import EquilibriumOptions, ModelConfig, build_model
from revgnn.stack.layer_run import LayerRun
from revgnn.train import Goal, Interrupted, LabelOptions, TrainConfig, fit, read_curve
from tolerances import relative_error

pytestmark = pytest.mark.slow

TRAIN = TrainConfig(epochs=2, lr=0.01, checkpoint_every=1, clip_norm=1.0, optimizer="adamw")
MODEL = ModelConfig(conv="sage", num_layers=4, hidden_channels=16, dropout=0.2, norm="layer", segments=4)
NORMED = replace(MODEL, norm="batch", dropout=0.0)
CASES: dict[str, tuple[ModelConfig, TrainConfig]] = {
    "segments": (MODEL, TRAIN),
    "exact state": (replace(MODEL, state="exact"), TRAIN),
    "labels as an input": (MODEL, replace(TRAIN, labels=LabelOptions(reuse=True))),
    "two batches each": (MODEL, replace(TRAIN, accumulate=2)),
    "tied": (replace(MODEL, weight_tied=True), TRAIN),
    "batch norm": (replace(MODEL, norm="batch"), TRAIN),
    "batch norm, no dropout": (NORMED, TRAIN),
    "batch norm, stored": (replace(NORMED, coupling="residual", backprop="store", segments=None), TRAIN),
    "batch norm apart": (NORMED, replace(TRAIN, sync_batchnorm=False)),
    "checkpointing": (replace(MODEL, coupling="residual", backprop="checkpoint", segments=2), TRAIN),
    "equilibrium": (
        replace(
            MODEL,
            coupling="residual",
            backprop="implicit",
            weight_tied=True,
            segments=None,
            equilibrium=EquilibriumOptions(tol=1e-6, max_iter=200, backward_max_iter=200),
        ),
        TRAIN,
    ),
    "mean of the weights": (MODEL, replace(TRAIN, ema_decay=0.7)),
    "bfloat16": (MODEL, replace(TRAIN, precision="bf16", optimizer="rmsprop", clip_norm=None)),
}
"""Name -> network and training, each under "ddp" and "fsdp"."""
GO_ON = ("segments", "tied", "mean of the weights")
"""Those that are stopped and resumed as well."""


BATCH_NORM = ("batch norm, no dropout", "batch norm, stored", "batch norm apart")
"""Those that are compared with one process, which the last is not to equal."""


class Joined:
    """Two batches at a time as one."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return -(-len(self.batches) // 2)

    def train(self, epoch: int) -> Iterator[Batch]:
        waiting = list(self.batches.train(epoch))
        yield from (joined(waiting[k : k + 2]) for k in range(0, len(waiting), 2))

    def evaluate(self) -> Iterable[Batch]:
        return self.batches.evaluate()


def joined(batches: list[Batch]) -> Batch:
    nodes = torch.tensor([0, *(batch.graph.num_nodes for batch in batches)]).cumsum(0)
    edges = torch.tensor([0, *(batch.graph.num_edges for batch in batches)]).cumsum(0)
    ends = [batch.graph.indptr[1:] + edges[k] for k, batch in enumerate(batches)]
    graph = Graph(
        num_nodes=int(nodes[-1]),
        indptr=torch.cat([batches[0].graph.indptr[:1], *ends]).to(batches[0].graph.indptr.dtype),
        indices=torch.cat([batch.graph.indices + int(nodes[k]) for k, batch in enumerate(batches)]),
    )
    rows = torch.cat([batch.rows["train"] + nodes[k] for k, batch in enumerate(batches)])
    x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    return Batch(x=x, graph=graph, y=y, rows={"train": rows})


class Stopped(nn.Module):
    """A network that is asked to stop at one of its training forwards."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, *arguments: object, **named: object) -> Tensor:
        self.calls += self.training
        if self.calls == 5 and self.training:
            signal.raise_signal(signal.SIGTERM)
        logits: Tensor = self.inner(*arguments, **named)
        return logits


def train(
    out: Path, name: str, parallel: Any, *, stop: bool = False, resume: bool = False, together: bool = False
) -> None:
    model_config, config = CASES[name]
    torch.manual_seed(1)
    width = 5 + 3 * config.labels.reuse
    inner = build_model(model_config, GraphInfo(in_channels=width, num_outputs=3))
    model = Stopped(inner)
    model.calls = 0 if stop else 10
    loader = LoaderConfig(kind="random", num_parts=5, eval_parts=3)
    batches: Batches = make_batches(node_dataset(), seed=0, loader=loader)
    fit(
        model,
        Joined(batches) if together else batches,
        replace(config, parallel=parallel),
        metric=Goal(metric="accuracy", num_outputs=3),
        out=out,
        resume=resume,
        device="cpu",
    )


def most_layers_gathered(out: Path) -> int:
    """How many of the four layers are whole, at most, when one is about to be taken back."""
    found: list[int] = []
    forward, reverse, models = Stopped.forward, LayerRun.reverse, []

    def noted(model: Stopped, *arguments: object, **named: object) -> Tensor:
        models[:] = [model]
        return forward(model, *arguments, **named)

    def watched(run: LayerRun, *arguments: Any) -> None:
        layers = [list(layer.parameters()) for layer in models[0].inner.stack.layers]
        found.append(sum(not hasattr(parameters[0], "to_local") for parameters in layers))
        reverse(run, *arguments)

    with patch.object(Stopped, "forward", noted), patch.object(LayerRun, "reverse", watched):
        train(out, "segments", "fsdp")
    return max(found)


def held(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer state that this rank holds after a step."""

    def own(tensor: Tensor) -> int:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return local.nbytes

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "weights": sum(map(own, parameters)),
        "gradients": sum(own(parameter.grad) for parameter in parameters if parameter.grad is not None),
        "optimizer": sum(own(value) for state in optimizer.state.values() for value in state.values() if value.dim()),
    }


def work(folder: Path) -> None:
    """One rank: every case in both ways; and stopped in the middle of an epoch, and resumed."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, int]] = {}
    for name in CASES:
        for parallel in ("ddp", "fsdp"):
            key = f"{name}/{parallel}"
            hook = register_optimizer_step_post_hook(
                lambda optimizer, *_, key=key: found.update({key: held(optimizer)})
            )
            train(folder / key, name, parallel)
            hook.remove()
    for name in GO_ON:
        try:
            train(folder / name / "stopped", name, "fsdp", stop=True)
        except Interrupted as stop:
            sys.stderr.write(f"{stop}\n")
        train(folder / name / "stopped", name, "fsdp", resume=True)
    try:
        train(folder / "segments" / "taken up", "segments", "fsdp", stop=True)
    except Interrupted:
        train(folder / "segments" / "taken up", "segments", "ddp", resume=True)
    found["layers"] = {"gathered": most_layers_gathered(folder / "watched")}
    (folder / f"held-{os.environ['RANK']}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left behind."""
    out = tmp_path_factory.mktemp("sharded")
    status, said = launch(__file__, out)
    assert status == 0, said
    assert said.count("stopped after epoch 1 and 2 steps") == 2 * len(GO_ON), "so many runs on two ranks"
    return out


@pytest.mark.parametrize("name", CASES)
def test_shards_train_to_the_same_weights(name: str, folder: Path) -> None:
    # Adam takes the sign of a bias's rounding error before a BatchNorm, and a solver what is within its tolerance.
    if name != "equilibrium" and not name.startswith("batch norm"):
        assert_close(folder / name / "fsdp", folder / name / "ddp")
    curves = [read_curve(folder / name / parallel / "curve.jsonl") for parallel in ("fsdp", "ddp")]
    for ours, other in zip(*curves, strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize("name", BATCH_NORM)
def test_batch_norm_over_ranks_is_that_of_one_process_with_both_batches(
    name: str, folder: Path, tmp_path: Path
) -> None:
    train(tmp_path, name, "ddp", together=True)
    expected, weights = read_curve(tmp_path / "curve.jsonl"), last(tmp_path)
    for parallel in ("ddp", "fsdp"):
        losses = [row["loss"] for row in read_curve(folder / name / parallel / "curve.jsonl")]
        if name == "batch norm apart":
            assert losses != pytest.approx([row["loss"] for row in expected], rel=1e-3)
            continue
        assert losses == pytest.approx([row["loss"] for row in expected], rel=1e-5)
        for key, value in last(folder / name / parallel).items():
            if value.dim() == 2:
                assert relative_error(value, weights[key]) < 1e-3, "biases before a norm follow rounding errors"


@pytest.mark.parametrize("name", GO_ON)
def test_a_stopped_run_goes_on_bit_for_bit(name: str, folder: Path) -> None:
    assert_same_bits(folder / name / "fsdp", folder / name / "stopped")


def test_a_checkpoint_holds_the_whole_state_and_ranks_that_hold_all_go_on_from_it(folder: Path) -> None:
    for name in ("model", "optimizer", "best"):
        mine, theirs = last(folder / "segments" / "fsdp", name), last(folder / "segments" / "ddp", name)
        assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in theirs.items()}
    assert_close(folder / "segments" / "taken up", folder / "segments" / "ddp")


def test_each_rank_holds_half(folder: Path) -> None:
    for rank in range(2):
        found = json.loads((folder / f"held-{rank}.json").read_text())
        for what, whole in found["segments/ddp"].items():
            assert 0.4 < found["segments/fsdp"][what] / whole < 0.6, (rank, what)


def test_a_segment_is_gathered_when_its_turn_comes(folder: Path) -> None:
    for rank in range(2):
        found = json.loads((folder / f"held-{rank}.json").read_text())
        assert found["layers"]["gathered"] == 1, "the one that is taken back; the one before it is on its way"


if __name__ == "__main__":
    work(Path(sys.argv[1]))
