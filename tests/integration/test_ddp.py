"""Two ranks have the gradients of one process: reversible layers under DistributedDataParallel, tied and untied; with
segments, gradients are exchanged while the backward goes on; and BatchNorm normalises by the rows of both.

The file is its own worker: each rank is this file, started with its number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.interop import GroupAddRev
from revgnn.nn import Block, NormActDrop, SAGEConv
from revgnn.nn.model import ModelConfig, build_model
from revgnn.stack.layer_run import LayerRun

RANKS = 2
SEGMENTS = (1, 3)
N, E, F, D, T = 30, 90, 5, 8, 3


class Chain(nn.Module):
    """Layers in a list, called one after another: as many as there are, or one again and again."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.times = 4 if tied else 1
        self.encoder, self.head = nn.Linear(F, D), nn.Linear(D, T)
        self.layers = nn.ModuleList(GroupAddRev(SAGEConv(D // 2, D // 2), num_groups=2) for _ in range(4 // self.times))

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        x = self.encoder(x)
        for layer in [*self.layers] * self.times:
            x = layer(x, graph)
        return self.head(x)


def stack(tied: bool) -> nn.Module:
    config = ModelConfig(conv="sage", num_layers=6, hidden_channels=D, dropout=0.0, weight_tied=tied, segments=2)
    return build_model(config, GraphInfo(in_channels=F, num_outputs=T))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers, untied": lambda: Chain(tied=False),
    "layers, tied": lambda: Chain(tied=True),
    "stack, untied": lambda: stack(tied=False),
    "stack, tied": lambda: stack(tied=True),
}


def normed(**choices: Any) -> nn.Module:
    config = ModelConfig(conv="sage", num_layers=6, hidden_channels=D, dropout=0.0, norm="batch", **choices)
    return build_model(config, GraphInfo(in_channels=F, num_outputs=T))


def watched(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.register_forward_hook(lambda *_: None)
    return model


class NormedChain(Chain):
    """The same with a BatchNorm in every block."""

    def __init__(self) -> None:
        super().__init__(tied=False)
        self.layers = nn.ModuleList(
            GroupAddRev(Block(NormActDrop(D // 2, "batch"), SAGEConv(D // 2, D // 2)), num_groups=2) for _ in range(3)
        )

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, 0, graph)
        return self.head(x)


NORMED: dict[str, Callable[[], nn.Module]] = {
    "reversible": lambda: normed(segments=2),
    "stored": lambda: normed(coupling="residual", backprop="store"),
    "checkpoint": lambda: normed(coupling="residual", backprop="checkpoint"),
    "layers": NormedChain,
    "watched": lambda: watched(normed(segments=2)),
}
SIZES = (N, 11, 17, 0)
"""Nodes of the graphs that normalise together, two by two."""


def make(name: str, models: dict[str, Callable[[], nn.Module]] = MODELS) -> nn.Module:
    torch.manual_seed(1)
    return models[name]().double()


def drawn(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """A graph's features, edges and cotangent."""
    generator, size = torch.Generator().manual_seed(number), SIZES[number]
    x = torch.randn(size, F, dtype=torch.double, generator=generator) + number
    edges = torch.randint(max(size, 1), (2, 3 * size), generator=generator)
    return x, edges, torch.randn(size, T, dtype=torch.double, generator=generator)


def together(*numbers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Several of them as one graph."""
    firsts = torch.tensor([0, *(SIZES[number] for number in numbers)]).cumsum(0)
    xs, edges, cotangents = zip(*map(drawn, numbers), strict=True)
    shifted = [edge_index + first for edge_index, first in zip(edges, firsts, strict=False)]
    return torch.cat(xs), torch.cat(shifted, 1), torch.cat(cotangents)


def normed_loss(model: nn.Module, x: Tensor, edge_index: Tensor, cotangent: Tensor) -> Tensor:
    return (model(x, Graph.from_edge_index(edge_index, x.size(0))) * cotangent).sum()


def normed_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: parameter.grad for key, parameter in model.named_parameters()} | dict(model.named_buffers())


def loss_of(model: nn.Module, rank: int) -> Tensor:
    """A rank's own graph, features and cotangent."""
    generator = torch.Generator().manual_seed(rank)
    graph = Graph.from_edge_index(torch.randint(N, (2, E), generator=generator), N)
    x = torch.randn(N, F, dtype=torch.double, generator=generator)
    logits = model(x, graph)
    return (logits * torch.randn(logits.shape, dtype=torch.double, generator=generator)).sum()


def order_of_events(segments: int) -> list[str]:
    """What happens in a backward, in order: each segment begun and done, each bucket of gradients exchanged."""
    torch.manual_seed(1)
    config = ModelConfig(conv="sage", num_layers=6, hidden_channels=D, dropout=0.0, segments=segments)
    # Buckets of one layer or less.
    model = DistributedDataParallel(
        build_model(config, GraphInfo(in_channels=F, num_outputs=T)).double(), bucket_cap_mb=0.001
    )
    events: list[str] = []

    def exchange(state, bucket):  # type: ignore[no-untyped-def] - DDP refuses annotations that are strings
        events.append("bucket")
        dist.all_reduce(bucket.buffer())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model.register_comm_hook(None, exchange)
    reverse = LayerRun.reverse

    def watched(run: LayerRun, *arguments: Any) -> None:
        events.append("begun")
        reverse(run, *arguments)
        events.append("done")

    with patch.object(LayerRun, "reverse", watched):
        # DDP puts its buckets in the order in which gradients came in the first step.
        for _ in range(2):
            events.clear()
            loss_of(model, 0).backward()
    return events


def work(rank: int, folder: Path) -> None:
    """One rank: the gradients of every model, after two backward passes of which the first was not averaged."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    found = {}
    for name in MODELS:
        model = DistributedDataParallel(make(name))
        with model.no_sync():
            loss_of(model, rank).backward()
        loss_of(model, rank + RANKS).backward()
        found[name] = {key: parameter.grad for key, parameter in model.module.named_parameters()}
    for name in NORMED:
        model = DistributedDataParallel(make(name, NORMED))
        with model.no_sync():
            normed_loss(model, *drawn(rank)).backward()
        normed_loss(model, *drawn(rank + RANKS)).backward()
        found[name] = {key: value.clone() for key, value in normed_state(model.module).items()}
        if rank == 0:
            # Without its wrapper a model is one rank's own: nobody waits for the other.
            normed_loss(model.module, *drawn(0)).backward()
    torch.save(found, folder / f"{rank}.pt")
    events = {segments: order_of_events(segments) for segments in SEGMENTS}
    (folder / f"events-{rank}.json").write_text(json.dumps(events))
    dist.barrier()
    # Destroying the group at once was seen to hang, one time in three: it waits for gloo's threads, they for it.
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def gradients(folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    """What each rank found: model -> parameter -> gradient."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(RANKS)
    ]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=120)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_have_the_gradients_of_one_process(name: str, gradients: list[dict[str, dict[str, Tensor]]]) -> None:
    model = make(name)
    (sum(loss_of(model, rank) for rank in range(2 * RANKS)) / RANKS).backward()
    for rank in range(RANKS):
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[rank][name][key], parameter.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NORMED)
def test_batch_norm_over_two_ranks_is_that_of_one_process_with_both_batches(
    name: str, gradients: list[dict[str, dict[str, Tensor]]]
) -> None:
    model = make(name, NORMED)
    for first in (0, RANKS):
        (normed_loss(model, *together(first, first + 1)) / RANKS).backward()
    for key, expected in normed_state(model).items():
        for rank in range(RANKS):
            torch.testing.assert_close(gradients[rank][name][key], expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_exchanged_while_earlier_segments_are_still_to_come(
    gradients: list[dict[str, dict[str, Tensor]]], folder: Path
) -> None:
    for rank in range(RANKS):
        whole, cut = json.loads((folder / f"events-{rank}.json").read_text()).values()
        assert whole[:2] == ["begun", "done"] and "bucket" in whole, "with one segment, all layers come first"
        assert cut.count("begun") == cut.count("done") == 3
        last_begun = len(cut) - 1 - cut[::-1].index("begun")
        assert "bucket" in cut[:last_begun], "the first layers were still to come"


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
