"""Norms as torch's own: what looks for an `nn.BatchNorm1d` or `nn.LayerNorm` finds it, and what it does there holds.

And BatchNorm over ranks, which are threads here: two of them equal one process with the rows of both.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import update_bn

from revgnn import ops
from revgnn.data import GraphInfo
from revgnn.nn import NormActDrop
from revgnn.nn.convs import GATOptions, GENOptions
from revgnn.nn.model import EquilibriumOptions, ModelConfig, build_model
from revgnn.nn.norms import ActDrop, GraphNorm
from revgnn.ops.cpu import NO_DROP
from revgnn.stack import WorkSpace
from revgnn.stack.batch_norm import SharedBatchNorm1d, left_out, synchronise, synchronised
from revgnn.train import own_statistics
from tolerances import assert_close, relative_error

F, D, T = 5, 16, 3
CHOICES: dict[str, dict[str, Any]] = {
    "reversible": {},
    "segments": {"segments": 2},
    "exact": {"state": "exact64"},
    "budget": {"memory_budget": "1GB"},
    "grouped, stored": {"backprop": "store"},
    "stored": {"coupling": "residual", "backprop": "store"},
    "checkpoint": {"coupling": "residual", "backprop": "checkpoint"},
    "tied": {"weight_tied": True},
    "gen": {"conv": "gen"},
    "gat": {"conv": "gat", "gat": GATOptions(heads=2)},
}


def make_model(name: str, norm: Any = "batch", **choices: Any) -> nn.Module:
    torch.manual_seed(1)
    config = ModelConfig(
        **{"conv": "sage", "num_layers": 4, "hidden_channels": D, "norm": norm, "dropout": 0.0}
        | CHOICES[name]
        | choices
    )
    model = build_model(config, GraphInfo(in_channels=F, num_outputs=T)).double()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
    return model


def draw(nodes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features and edges; every second graph is far from the others, so that statistics differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, F, dtype=torch.double, generator=generator) + seed % 2
    return x, torch.randint(max(nodes, 1), (2, 3 * nodes), generator=generator)


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm1d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


class Called(nn.Module):
    """A model as `update_bn` calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.model(*draw(int(numbers[0]), int(numbers[1])), seed=3)
        return out


def train(model: nn.Module, nodes: int = 20, seed: int = 0) -> dict[str, Tensor]:
    """The logits and gradients of a step, and the buffers after it."""
    model.zero_grad()
    logits = model(*draw(nodes, seed), seed=7)
    logits.square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **found, **{name: buffer.clone() for name, buffer in model.named_buffers()}}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float = 1e-10) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(float(value.double().norm()) for value in theirs.values())
    for name, value in theirs.items():
        error = float((ours[name].double() - value.double()).norm())
        assert error <= bound * max(float(value.double().norm()), 1e-3 * scale), (name, error)


def watch(model: nn.Module) -> nn.Module:
    """A copy whose norms are called as modules, because something waits to see them."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | GraphNorm):
            module.register_forward_hook(lambda *_: None)
    return copied


# ---------------------------------------------------------------------- torch's modules and what is done to them
@pytest.mark.parametrize("name", CHOICES)
def test_update_bn_gives_every_norm_the_mean_of_its_batches(name: str) -> None:
    model = make_model(name)
    norms = batch_norms(model)
    assert len(norms) >= 3
    for norm in norms.values():
        norm.running_mean.fill_(torch.nan)
    oracle, batches = watch(model), [torch.tensor([20, 0]), torch.tensor([9, 1]), torch.tensor([31, 2])]
    update_bn(batches, Called(model))
    update_bn(batches, Called(oracle))
    for key, norm in batch_norms(oracle).items():
        assert norms[key].momentum == 0.1
        assert_close(norms[key].running_mean, norm.running_mean)
        assert_close(norms[key].running_var, norm.running_var)
        assert norms[key].num_batches_tracked == norm.num_batches_tracked >= 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "choice", [{"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}, {"affine": False}]
)
def test_the_choices_of_batch_norm_are_torchs(choice: dict[str, Any], training: bool) -> None:
    ours, fused, theirs = (nn.BatchNorm1d(D, **choice).double() for _ in range(3))
    for norm in (ours, fused, theirs):
        norm.train()(torch.randn(30, D, dtype=torch.double, generator=torch.Generator().manual_seed(5)))
        norm.train(training)
    for seed in range(3):
        x = torch.randn(20, D, dtype=torch.double) * (1 + seed)
        out = torch.empty_like(x)
        ActDrop(act=False).write(fused, out, x, WorkSpace(), NO_DROP)
        expected = theirs(x)
        assert_close(ActDrop(act=False)(ours, x), expected)
        assert_close(out, expected)
        for norm in (ours, fused):
            for key, value in theirs.state_dict().items():
                assert_close(norm.state_dict()[key].double(), value.double())


@pytest.mark.parametrize("norm", ["layer", "batch", "graph"])
def test_norms_are_found_by_type_under_the_names_of_the_blocks(norm: str) -> None:
    model = make_model("gen", norm, gen=GENOptions(mlp_norm=norm))
    kind = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "graph": GraphNorm}[norm]
    found = {name for name, module in model.named_modules() if isinstance(module, kind)}
    assert {"head.norm", "stack.layers.0.0.norm", "stack.layers.3.1.conv.norms.0"} <= found
    own = {"layer": (), "batch": ("running_mean", "running_var", "num_batches_tracked"), "graph": ("mean_scale",)}[norm]
    keys = {f"{name}.{key}" for name in found for key in ("weight", "bias", *own)}
    assert {key for key in model.state_dict() if "norm" in key} == keys
    assert {name for name, _ in model.named_parameters()} == set(model.state_dict()) - {
        name for name, _ in model.named_buffers()
    }


@pytest.mark.parametrize("name", CHOICES)
def test_frozen_statistics_stay_while_the_rest_trains(name: str) -> None:
    model, stored = make_model(name, dropout=0.4), make_model(name, dropout=0.4)
    if name in ("reversible", "segments", "exact", "budget", "gen", "gat"):
        stored.stack.backprop, stored.stack.exact = "store", None
        stored.stack.num_stored = stored.stack.num_layers
    for each in (model, stored):
        each.train()
        for norm in batch_norms(each).values():
            norm.running_mean.uniform_(generator=torch.Generator().manual_seed(3))
            norm.eval()
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    ours = train(model)
    assert all(torch.equal(ours[key], value) for key, value in before.items())
    assert_same(ours, train(stored), 1e-8)
    x, edge_index = draw(20, 0)
    assert not torch.equal(model(x, edge_index, seed=1), model(x, edge_index, seed=2)), "dropout is the block's"


# ---------------------------------------------------------------------- norms that are watched, replaced, converted
def hooked(norm: nn.Module) -> nn.Module:
    norm.register_forward_hook(lambda module, _, out: 2.0 * out)
    return norm


def patched(norm: nn.Module) -> nn.Module:
    forward = norm.forward
    norm.forward = lambda x: 2.0 * forward(x)
    return norm


class Doubled(nn.Module):
    """What somebody put in the place of a norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.inner = norm

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2.0 * self.inner(x)
        return out


class Twice(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * x


def parametrized(norm: nn.Module) -> nn.Module:
    for name in ("weight", "bias"):
        parametrize.register_parametrization(norm, name, Twice())
    return norm


@pytest.mark.parametrize("change", [hooked, patched, Doubled, parametrized])
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("name", ["reversible", "checkpoint", "gen"])
def test_a_changed_norm_takes_part_as_it_is(name: str, norm: str, change: Callable[..., nn.Module]) -> None:
    changed, doubled = (make_model(name, norm, gen=GENOptions(mlp_norm=norm)) for _ in range(2))
    for owner in [m for m in changed.modules() if isinstance(getattr(m, "norm", None), nn.Module)]:
        owner.norm = change(owner.norm)
    for owner in [m for m in doubled.modules() if isinstance(getattr(m, "norm", None), nn.Module)]:
        owner.norm.weight.data.mul_(2.0)
        owner.norm.bias.data.mul_(2.0)
    ours, theirs = train(changed), train(doubled)
    assert_close(ours["logits"], theirs["logits"])
    places = [(changed.get_parameter(key), doubled.get_parameter(key)) for key in ("encoder.weight", "head.lin.weight")]
    for mine, other in places:
        assert relative_error(mine.grad, other.grad) < 1e-10
    ours_kept = {key.replace(".inner", ""): v for key, v in ours.items() if "running" in key or "tracked" in key}
    for key, value in ours_kept.items():
        assert relative_error(value, theirs[key]) < 1e-10


@pytest.mark.parametrize("name", CHOICES)
def test_converted_norms_are_all_found_and_change_nothing(name: str) -> None:
    model, plain = make_model(name, dropout=0.3), make_model(name, dropout=0.3)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    converted = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(converted) == len(batch_norms(plain)) == sum(hasattr(m, "running_mean") for m in model.modules())
    assert_same(train(model), train(plain), 1e-8)
    assert_same(train(model.eval()), train(plain.eval()), 1e-8)


def test_what_stands_alone_is_converted_with_all_that_follows_the_norm() -> None:
    x = torch.randn(20, D)
    module = NormActDrop(D, "batch", dropout=0.5)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(module)))[0]
    assert isinstance(converted, NormActDrop) and isinstance(converted.norm, nn.SyncBatchNorm)
    assert_close(converted(x, seed=3), module(x, seed=3))
    assert_close(converted.running_mean, module.running_mean)


# ---------------------------------------------------------------------- over ranks
class Meeting:
    """A process group whose ranks are threads."""

    def __init__(self, size: int) -> None:
        self.ranks, self.barrier, self.sent = size, Barrier(size, timeout=60), [torch.empty(0)] * size

    def seen_by(self, rank: int) -> Any:
        return SimpleNamespace(
            size=lambda: self.ranks, allgather=lambda received, sent: self._meet(rank, received, sent)
        )

    def _meet(self, rank: int, received: list[list[Tensor]], sent: list[Tensor]) -> Any:
        self.sent[rank] = sent[0]
        self.barrier.wait()
        for to, value in zip(received[0], self.sent, strict=True):
            to.copy_(value)
        self.barrier.wait()
        return SimpleNamespace(wait=lambda: None)


def on_ranks(work: Callable[[int, Any], Any], size: int = 2) -> list[Any]:
    """What each rank's work came to."""
    meeting = Meeting(size)

    def run(rank: int) -> Any:
        try:
            return work(rank, meeting.seen_by(rank))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        ranks = [pool.submit(run, rank) for rank in range(size)]
    # A rank that was left alone says less than the one that left.
    errors = [error for rank in ranks if (error := rank.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [rank.result() for rank in ranks]


@pytest.mark.parametrize("choice", ["auto", "reference"])
@pytest.mark.parametrize("rows", [(20, 7), (13, 0), (1, 2), (0, 0)])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}])
def test_a_norm_takes_the_rows_of_all_ranks(rows: tuple[int, int], options: dict[str, Any], choice: Any) -> None:
    norms = [nn.BatchNorm1d(D, **options).double() for _ in range(3)]
    for norm in norms if norms[0].affine else ():
        norm.weight.data.normal_(generator=torch.Generator().manual_seed(1))
        norm.bias.data.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(sum(rows), D, dtype=torch.double) * 3.0 + 100.0
    cotangent = torch.randn(sum(rows), D, dtype=torch.double)
    head = ActDrop()

    def step(norm: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        for _ in range(2):
            y = head(norm, x)
        dx, *rest = torch.autograd.grad(y, [x, *norm.parameters()], cotangent)
        return [y.detach(), dx, *rest, *norm.buffers()]

    def work(rank: int, exchange: Any) -> list[Tensor]:
        synchronise(norms[rank], exchange)
        return step(norms[rank], x.split(rows)[rank], cotangent.split(rows)[rank])

    with ops.using(choice):
        ours = on_ranks(work)
        if not sum(rows):
            assert all(bool(value.isfinite().all()) for value in ours[0])
            return
        y, dx, *rest = step(norms[2], x, cotangent)
    num_affine = len(list(norms[2].parameters()))
    assert relative_error(torch.cat([one[0] for one in ours]), y) < 1e-11
    assert relative_error(torch.cat([one[1] for one in ours]), dx) < 1e-9
    for k, expected in enumerate(rest):
        for one in ours:
            value = sum(each[2 + k] for each in ours) if k < num_affine else one[2 + k]
            assert relative_error(value, expected) < 1e-10


def union(graphs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several graphs as one."""
    firsts = torch.tensor([0, *(x.size(0) for x, _ in graphs)]).cumsum(0)
    return torch.cat([x for x, _ in graphs]), torch.cat([e + k for (_, e), k in zip(graphs, firsts, strict=False)], 1)


@pytest.mark.parametrize("sizes", [(20, 7), (20, 0)])
@pytest.mark.parametrize("name", CHOICES)
def test_two_ranks_equal_one_process_with_both_batches(name: str, sizes: tuple[int, int]) -> None:
    model = make_model(name)
    copies = [copy.deepcopy(model) for _ in sizes]
    if name == "segments":
        copies = [nn.SyncBatchNorm.convert_sync_batchnorm(each) for each in copies]
    graphs = [draw(nodes, seed) for seed, nodes in enumerate(sizes)]

    def work(rank: int, exchange: Any) -> Tensor:
        synchronise(copies[rank], exchange)
        logits = copies[rank](*graphs[rank], seed=7)
        logits.square().sum().backward()
        return logits.detach()

    logits = torch.cat(on_ranks(work))
    x, edge_index = union(graphs)
    expected = model(x, edge_index, seed=7)
    expected.square().sum().backward()
    assert relative_error(logits, expected.detach()) < 1e-9
    ours = [{key: parameter.grad for key, parameter in each.named_parameters()} for each in copies]
    together = {key: ours[0][key] + ours[1][key] for key in ours[0]}
    assert_same(together, {key: parameter.grad for key, parameter in model.named_parameters()}, 1e-7)
    for each in copies:
        assert_same(dict(each.named_buffers()), dict(model.named_buffers()), 1e-9)


@pytest.mark.parametrize("name", ["reversible", "stored"])
def test_rows_that_do_not_count_move_nothing_and_are_not_missed(name: str) -> None:
    model = make_model(name)
    copies = [copy.deepcopy(model) for _ in range(2)]

    def work(rank: int, exchange: Any) -> dict[str, Tensor]:
        synchronise(copies[rank], exchange).counts = rank == 0
        logits = copies[rank](*draw(20 + rank, 0), seed=7)
        (logits.square().sum() * float(rank == 0)).backward()
        return {key: parameter.grad for key, parameter in copies[rank].named_parameters()}

    ours = on_ranks(work)
    expected = train(model)
    assert_same(ours[0], {key: expected[key] for key in ours[0]}, 1e-9)
    assert all(not bool(value.any()) for value in ours[1].values())
    for each in copies:
        assert_same(dict(each.named_buffers()), dict(model.named_buffers()), 1e-10)


def test_ranks_do_a_run_again_together_where_one_outgrew_its_fixed_point() -> None:
    model = make_model("exact", state="exact", num_layers=3)
    copies = [copy.deepcopy(model) for _ in range(2)]

    def work(rank: int, exchange: Any) -> int:
        synchronise(copies[rank], exchange)
        for factor in (1.0, 1.0 + 1e6 * rank):
            x, edge_index = draw(20, rank)
            with torch.no_grad():
                copies[rank].encoder.weight.mul_(factor)
            copies[rank](x, edge_index, seed=7).square().sum().backward()
        return copies[rank].stack.exact.rescales

    assert on_ranks(work) == [0, 1]


def test_solvers_and_trials_keep_to_themselves() -> None:
    torch.manual_seed(1)
    config = ModelConfig(
        conv="gcn", num_layers=2, hidden_channels=D, norm="batch", coupling="residual", backprop="implicit",
        weight_tied=True, equilibrium=EquilibriumOptions(max_iter=3),
    )  # fmt: skip
    model = build_model(config, GraphInfo(in_channels=F, num_outputs=T))
    assert len(left_out(model)) == 2
    assert [type(m) for m in left_out(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(3)))] == [nn.BatchNorm2d]

    def unreachable(*_: Any) -> None:
        raise AssertionError("nobody is there")

    synchronise(model, SimpleNamespace(size=lambda: 2, allgather=unreachable))
    for mode in ("solve", "unroll"):
        model.stack.mode = mode
        with pytest.warns() if mode == "solve" else nothing():
            model(*[value.float() if value.is_floating_point() else value for value in draw(20, 0)]).sum().backward()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def test_what_is_not_synchronised_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, other = nn.Sequential(nn.BatchNorm1d(2)), nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(2))
    assert own_statistics(other, synchronise=True) is None, "one rank"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert own_statistics(reached, synchronise=True) is None
    assert own_statistics(nn.Linear(2, 2), synchronise=False) is None
    said = [own_statistics(reached, synchronise=False), own_statistics(other, synchronise=True)]
    assert said[0].startswith("BatchNorm is not synchronised: each of the 2 ranks")
    assert said[1].startswith("BatchNorm2d (of another type than nn.BatchNorm1d, or inside an equilibrium) is not")


def test_evaluation_and_copies_of_synchronised_norms_communicate_with_nobody() -> None:
    def unreachable(*_: Any) -> None:
        raise AssertionError("nobody is there")

    model, plain = make_model("reversible"), make_model("reversible")
    with synchronised(model, SimpleNamespace(size=lambda: 2, allgather=unreachable)):
        assert all(type(norm) is SharedBatchNorm1d for norm in batch_norms(model).values())
        assert_close(model.eval()(*draw(20, 0)), plain.eval()(*draw(20, 0)))
        file = io.BytesIO()
        torch.save(model.train(), file)
        file.seek(0)
        for copied in (copy.deepcopy(model), torch.load(file, weights_only=False)):
            assert_same(train(copied), train(copy.deepcopy(plain).train()))
    assert all(type(norm) is nn.BatchNorm1d for norm in batch_norms(model).values())
    assert_same(train(model), train(plain.train()))


@pytest.mark.parametrize("shape", [(20, D), (20, D, 4)])
def test_torchs_batch_norm_outside_of_blocks_is_shared_too(shape: tuple[int, ...]) -> None:
    net, x = nn.Sequential(nn.BatchNorm1d(D)).double(), torch.randn(shape, dtype=torch.double)
    nets, parts = [copy.deepcopy(net) for _ in range(2)], x.split((15, 5))

    def work(rank: int, exchange: Any) -> tuple[Tensor, Tensor]:
        synchronise(nets[rank], exchange)
        leaf = parts[rank].clone().requires_grad_()
        y = nets[rank](leaf)
        (dx,) = torch.autograd.grad(y.square().sin().sum(), leaf)
        return y.detach(), dx

    ours, leaf = on_ranks(work), x.clone().requires_grad_()
    expected = net(leaf)
    (dx,) = torch.autograd.grad(expected.square().sin().sum(), leaf)
    assert_close(torch.cat([y for y, _ in ours]), expected.detach())
    assert relative_error(torch.cat([dx for _, dx in ours]), dx) < 1e-11
    for each in nets:
        assert_close(each[0].running_var, net[0].running_var)
