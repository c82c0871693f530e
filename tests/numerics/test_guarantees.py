"""The backward belongs to its forward, in ordinary surroundings of PyTorch: right, or refused in words."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from benchmarks import guarantees
from benchmarks.guarantees import SURROUNDINGS, Case, D, F, N, T, cell
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import revgnn
from revgnn.data import GraphInfo
from revgnn.interop import GroupAddRev

OURS = [subject for subject in guarantees.SUBJECTS if not subject.startswith("PyG")]
FIRST_ONLY = {"model, reversible", "own block, reversible", "own block, implicit", "GroupAddRev"}
"""What is differentiated once."""
SECOND = {"a gradient penalty (`create_graph`)", "`functional.hessian`", "`functional.hvp`"}
MANY = "`functional.jacobian`, `vectorize=True`"
"""Cotangents are taken one at a time by kernels and by whatever evaluates again."""
REFUSED = {"an optimizer's step before the backward"}
"""By torch for all."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_right_or_refused(surrounding: str) -> None:
    found = {subject: cell(subject, surrounding) for subject in OURS}
    refused = set(OURS) if surrounding in REFUSED else FIRST_ONLY if surrounding in SECOND else set()
    if surrounding == MANY:
        refused = set(OURS)
    if surrounding in ("`torch.func.grad`", "`torch.func.jvp`", "`torch.func.vmap`"):
        refused = {"own block, implicit"}
    assert found == {subject: "refused" if subject in refused else "right" for subject in OURS}


OTHERS = {
    "gcn, exact state, two segments": {"conv": "gcn", "state": "exact64", "segments": 2},
    "gen with its MLP": {"conv": "gen", "norm": "layer"},
    "gen with message norm": {"conv": "gen", "gen": revgnn.nn.convs.GENOptions(msg_norm=True, learn_t=True)},
    "gat": {"conv": "gat", "gat": revgnn.nn.convs.GATOptions(heads=2, edge_drop=0.2, attn_dst=True)},
    "tied": {"conv": "sage", "weight_tied": True, "num_distinct": 2, "norm": "batch"},
    "graph norm": {"conv": "gcn", "norm": "graph"},
}
ROADS = [
    "`torch.utils.checkpoint`",
    "`save_on_cpu`",
    "`torch.func.functional_call`",
    "parameters exchanged before the backward",
    "a validation between forward and backward",
    "`train()` before an evaluation's backward",
    "`register_hook` on parameters",
    "forwards replaced on the instance",
    "`FlopCounterMode`",
    "`torch.utils.checkpoint`, selective",
    "hooks and forwards changed before the backward",
    "attributes and classes of modules changed before the backward",
    "`parametrize.cached`",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("other", OTHERS)
def test_other_models(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(stored: bool) -> nn.Module:
        options = {"dropout": 0.3, **OTHERS[other]}
        if stored:
            options = {k: v for k, v in options.items() if k not in ("state", "segments")} | {"backprop": "store"}
        config = revgnn.ModelConfig(num_layers=4, hidden_channels=D, **options)  # type: ignore[arg-type]
        return revgnn.build_model(config, GraphInfo(in_channels=F, num_outputs=T))

    monkeypatch.setitem(guarantees.SUBJECTS, other, model)
    assert {road: cell(other, road) for road in ROADS} == dict.fromkeys(ROADS, "right")


class Drawing(nn.Module):
    """Draws from torch in evaluation too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, channels)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(x) @ torch.randn(x.size(1), x.size(1), dtype=x.dtype)


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint"])
@pytest.mark.parametrize("training", [True, False])
def test_random_projections_are_drawn_once_a_step(backprop: str, training: bool) -> None:
    def run(backprop: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        stack = revgnn.Stack(Drawing, channels=8, num_layers=3, coupling="grouped", backprop=backprop)  # type: ignore[arg-type]
        stack.double().train(training)
        y = stack(torch.randn(5, 8).double())
        after = torch.rand(1)
        y.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in stack.parameters() if p.grad is not None]), after

    (expected, drawn), (found, drawn_too) = run("store"), run(backprop)
    torch.testing.assert_close(found, expected)
    assert drawn == drawn_too
    stack = revgnn.Stack(Drawing, channels=8, num_layers=3).train(training)
    assert not torch.equal(stack(torch.ones(5, 8)), stack(torch.ones(5, 8))), "every call draws anew"


class Impure(Drawing):
    """Depends on something that nobody can put back."""

    calls = itertools.count(1)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(x) * next(self.calls)


class Counting(Drawing):
    """Multiplies by how often it was called, which is a plain attribute; lazy, with statistics and dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm, self.lin, self.drop = nn.LazyBatchNorm1d(), nn.LazyLinear(channels), nn.Dropout(0.3)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return self.drop(self.lin(self.norm(x))).tanh() * self.calls


def test_counters_that_are_attributes_count_and_lazy_modules_are_initialised() -> None:
    def run(backprop: str, **more: object) -> list[Tensor]:
        torch.manual_seed(0)
        stack = revgnn.Stack(Counting, channels=8, num_layers=3, coupling="grouped", backprop=backprop, **more)  # type: ignore[arg-type]
        x = torch.randn(9, 8, requires_grad=True, dtype=torch.float64)
        stack.double()
        for _ in range(2):
            stack(x, seed=1).square().sum().backward()
        blocks = [block for layer in stack.layers for block in layer]
        calls = torch.tensor([block.calls for block in blocks])
        return [x.grad, calls, *stack.buffers(), *(p.grad for p in stack.parameters())]  # type: ignore[list-item]

    for more in ({}, {"weight_tied": True}):
        expected = run("store", **more)
        for backprop in ("reversible", "checkpoint"):
            torch.testing.assert_close(run(backprop, **more), expected)


def _hooks_once(case: Case) -> Tensor:
    for module in case.linears():

        def hook(_module: nn.Module, args: tuple[Tensor], handles: list[RemovableHandle]) -> tuple[Tensor]:
            handles[0].remove()
            return (3 * args[0],)

        handles: list[RemovableHandle] = []
        handles.append(module.register_forward_pre_hook(partial(hook, handles=handles)))
    loss = case.loss()
    assert not any(module._forward_pre_hooks for module in case.linears())
    loss.backward()
    return case.grads()


@pytest.mark.filterwarnings("ignore")
def test_hooks_that_remove_themselves_are_called_again_for_the_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SURROUNDINGS, "hooks once", _hooks_once)
    # An equilibrium has one map, not another for its first iteration.
    subjects = [subject for subject in OURS if "implicit" not in subject]
    assert {subject: cell(subject, "hooks once") for subject in subjects} == dict.fromkeys(subjects, "right")


class Hidden(Drawing):
    """Uses a tensor that is not its own."""

    weight = torch.randn(4, 4, requires_grad=True)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(x) @ self.weight


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint"])
def test_what_cannot_be_right_is_an_error_in_the_first_step(backprop: str) -> None:
    def made(block: type[nn.Module], at: int) -> revgnn.Stack:
        stack = revgnn.Stack(Drawing, channels=8, num_layers=4, coupling="grouped", backprop=backprop)  # type: ignore[arg-type]
        stack.layers[at][1] = block(4)
        return stack

    with pytest.raises(RuntimeError, match="layer 2, group 1: Impure gave another value"):
        made(Impure, 2)(torch.randn(5, 8))
    loss = made(Hidden, 1)(torch.randn(5, 8)).sum()
    with pytest.raises(RuntimeError, match=r"uses a tensor of shape \[4, 4\] that needs a gradient"):
        loss.backward()
    stack = made(Drawing, 0)
    loss = stack(torch.randn(5, 8)).sum()
    stack.layers[1][0].lin = nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match="modules inside Drawing were added, removed or exchanged"):
        loss.backward()


def test_depth_follows_the_modules() -> None:
    def model(num_layers: int, **more: object) -> nn.Module:
        config = revgnn.ModelConfig(conv="sage", num_layers=num_layers, hidden_channels=D, **more)  # type: ignore[arg-type]
        return revgnn.build_model(config, GraphInfo(in_channels=F, num_outputs=T)).eval()

    x, e = torch.randn(N, F), torch.randint(0, N, (2, 99))
    for more in ({}, {"state": "exact"}, {"segments": 3}):
        deep, three = model(6, **more), model(3, **more)
        deep(x, e).sum().backward()
        deep.stack.layers = deep.stack.layers[:3]
        three.load_state_dict({k: v for k, v in deep.state_dict().items() if k in three.state_dict()})
        torch.testing.assert_close(deep(x, e), three(x, e))
        assert deep.stack.num_layers == 3
    deep.stack.layers[1] = nn.ModuleList([deep.stack.layers[1][0]])
    with pytest.raises(ValueError, match=r"layers\[1\] must be an nn.ModuleList of num_groups=2 blocks"):
        deep(x, e)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_recorders_of_operators_are_refused() -> None:
    stack = revgnn.Stack(Drawing, channels=8, num_layers=2)
    with pytest.raises(RuntimeError, match=r"cannot be recorded by torch\.jit\.trace"):
        torch.jit.trace(stack, torch.randn(5, 8))
    with pytest.raises(RuntimeError, match=r"cannot be recorded by torch\.fx"):
        torch.fx.symbolic_trace(stack)


def test_a_reversible_layer_of_group_add_rev_refuses_what_cannot_be_right() -> None:
    def made(block: type[nn.Module]) -> GroupAddRev:
        return GroupAddRev(nn.ModuleList([Drawing(4), block(4)]))

    x = torch.randn(5, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="group 1: Impure gave another value"):
        made(Impure)(x)
    loss = made(Hidden)(x).sum()
    with pytest.raises(RuntimeError, match=r"uses a tensor of shape \[4, 4\] that needs a gradient"):
        loss.backward()


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint"])
def test_a_tensor_that_comes_in_with_a_later_patch_is_an_error(backprop: str) -> None:
    stack = revgnn.Stack(Drawing, channels=8, num_layers=2, coupling="grouped", backprop=backprop)  # type: ignore[arg-type]
    stack(torch.randn(5, 8)).sum().backward()
    hidden = torch.randn(4, 4, requires_grad=True)
    lin = stack.layers[1][0].lin
    lin.forward = lambda x, before=lin.forward: before(x) + x @ hidden
    loss = stack(torch.randn(5, 8)).sum()
    with pytest.raises(RuntimeError, match=r"uses a tensor of shape \[4, 4\] that needs a gradient"):
        loss.backward()


class Twice(nn.Module):
    """Reads two context arguments, which may be one tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin, self.of_context = nn.Linear(channels, channels), nn.Linear(8, channels)

    def forward(self, x: Tensor, seed: int, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(self.lin(x) + self.of_context(a) * self.of_context(b))


def test_second_derivatives_where_arguments_are_one_tensor_or_follow_from_another() -> None:
    def run(backprop: str, stream_first: bool) -> Tensor:
        torch.manual_seed(0)
        stack = revgnn.Stack(Twice, channels=8, num_layers=3, coupling="grouped", backprop=backprop)  # type: ignore[arg-type]
        stack.double()
        x = torch.randn(5, 8).double().requires_grad_()
        y = stack(x, x, x.sin()) if stream_first else stack(x.sin(), x, x)
        (force,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        force.pow(2).sum().backward()
        assert x.grad is not None
        return torch.cat([force.detach().flatten(), x.grad.flatten()])

    for stream_first in (True, False):
        torch.testing.assert_close(run("checkpoint", stream_first), run("store", stream_first))


@pytest.mark.parametrize("subject", OURS)
def test_another_default_device(subject: str) -> None:
    """Stands for CUDA as the default device, with a model and data on the CPU."""
    expected = guarantees.gradient(subject, "nothing around it", stored=False)
    torch.manual_seed(0)
    model = guarantees.SUBJECTS[subject](False).double()
    torch.manual_seed(3)
    edge_index, x, y = torch.randint(0, N, (2, 200)), torch.randn(N, F).double(), torch.randint(0, T, (N,))
    torch.manual_seed(5)
    with torch.device("meta"):
        nn.functional.cross_entropy(model(x, edge_index).double(), y).backward()
    found = guarantees.Case(model, x, edge_index, y).grads()
    torch.testing.assert_close(found, expected)
