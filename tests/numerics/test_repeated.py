"""Layers that are alike, evaluated by the kernel calls of one of them: the same bits as block by block, or not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from revgnn import ops
from revgnn.graph import Graph
from revgnn.nn.block import Block
from revgnn.nn.convs import GCNConv, GENConv, SAGEConv, SAGEOptions
from revgnn.nn.norms import NormActDrop
from revgnn.ops import Recording, cpu, draw_mask
from revgnn.stack import Stack, check_inverse, split
from revgnn.stack.layer_run import LayerRun
from tolerances import assert_close, relative_error

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]

CONVS: dict[str, Any] = {
    "gcn": GCNConv,
    "gcn without bias": lambda a, b: GCNConv(a, b, bias=False),
    "sage mean": SAGEConv,
    "sage of neighbours alone": lambda a, b: SAGEConv(a, b, options=SAGEOptions(root_weight=False, aggr="sum")),
}
SOME = torch.randint(61, (2, 400), generator=torch.Generator().manual_seed(0))
GRAPHS = {
    "directed, isolated nodes": Graph.from_edge_index(SOME, 67),
    "weighted": Graph.from_edge_index(SOME, 61).weighted(torch.linspace(0.1, 1.0, 400).unsqueeze(1)),
    "no edges": Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 7),
    "one node": Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 1),
}
GRAPH = GRAPHS["directed, isolated nodes"]
L, D = 18, 22
"""More layers than a call of C repeats, and an odd number of channels a group."""


def make_stack(conv: str = "gcn", norm: Any = "layer", dropout: float = 0.3, **more: Any) -> Stack:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"num_layers": L, "coupling": "grouped", "backprop": "reversible"} | more

    def block(width: int) -> Block:
        return Block(NormActDrop(width, norm, dropout=dropout), CONVS[conv](width, width))

    stack = Stack(block, channels=D, **arguments)
    for parameter in stack.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data *= 0.2 if norm == "none" else 1.0
    return stack


def step(stack: Stack, *context: Any, between: Callable[[], object] = lambda: None) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters that need one."""
    graph, *rest = context or (GRAPH,)
    torch.manual_seed(1)
    leaf = torch.randn(graph.num_nodes, D, dtype=next(stack.parameters()).dtype).requires_grad_()
    out = stack(leaf, graph, *rest, seed=3)
    between()
    wanted = [leaf, *(parameter for parameter in stack.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(out, wanted, torch.randn_like(out), allow_unused=True)
    return [out.detach(), *(grad for grad in found if grad is not None)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Receives whether each recording was repeated."""
    found: list[bool] = []
    repeat = Recording.repeat
    monkeypatch.setattr(Recording, "repeat", lambda *args, **more: found.append(repeat(*args, **more)) or found[-1])
    return found


def by_block(stack: Stack, *context: Any) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerRun, "_recording", lambda *_: None)
        return step(stack, *context)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# ---------------------------------------------------------------------- the same bits
@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("conv", CONVS)
def test_the_same_bits_as_block_by_block_and_close_to_the_stored_twin(conv: str, norm: str, taken: list[bool]) -> None:
    for name, graph in GRAPHS.items():
        expected = by_block(make_stack(conv, norm), graph)
        taken.clear()
        stack = make_stack(conv, norm)
        assert_same(step(stack, graph), expected)
        assert taken == [True, True], name
        if norm == "batch":
            other = make_stack(conv, norm)
            by_block(other, graph)
            for one, two in zip(stack.buffers(), other.buffers(), strict=True):
                assert torch.equal(one, two)
    twin = make_stack(conv, norm, backprop="store").double()
    for one, two in zip(step(make_stack(conv, norm).double()), step(twin), strict=True):
        assert relative_error(one, two) < 1e-8


@pytest.mark.parametrize(
    "choice",
    [{"segments": 3}, {"drift_every": 1}, {"backprop": "checkpoint", "segments": 2}, {"num_layers": 2}],
)
def test_any_stack_of_two_groups(choice: dict[str, Any], taken: list[bool]) -> None:
    mask = split(draw_mask(7, GRAPH.num_nodes, D, 0.4, torch.device("cpu"), groups=2))
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(step(make_stack(**choice), GRAPH, mask), by_block(make_stack(**choice), GRAPH, mask))
    assert taken and all(taken)


def test_without_gradients(taken: list[bool]) -> None:
    x = torch.randn(GRAPH.num_nodes, D)
    for more in {"num_groups": 2}, {"coupling": "residual", "backprop": "store"}:
        stack = make_stack(**more).eval()
        with torch.no_grad():
            found = stack(x, GRAPH)
        expected = stack(x.requires_grad_(), GRAPH).detach()
        x = x.detach()
        assert_close(found, expected)
    assert taken[:1] == [True] and taken[-1]


def test_running_statistics_are_torchs(taken: list[bool]) -> None:
    stack, twin = make_stack(norm="batch"), nn.BatchNorm1d(D // 2)
    norms = [part for part in stack.modules() if isinstance(part, nn.BatchNorm1d)]
    for momentum in (0.1, 0.7, None):
        for norm in (twin, *norms):
            norm.momentum = momentum
        twin.load_state_dict(norms[0].state_dict())
        versions = [norm.running_mean._version for norm in norms]
        torch.manual_seed(1)
        twin(torch.randn(GRAPH.num_nodes, D)[:, D // 2 :])  # what the first block reads
        step(stack)
        assert all(norm.running_mean._version > version for norm, version in zip(norms, versions, strict=True))
        for name, buffer in twin.named_buffers():
            assert_close(getattr(norms[0], name).double(), buffer.double(), dtype=torch.float32)
    assert all(taken) and len(taken) == 6
    assert {int(norm.num_batches_tracked) for norm in norms} == {3}


# ---------------------------------------------------------------------- what goes block by block
def middle(stack: Stack) -> Block:
    block = stack.layers[L // 2][1]
    assert isinstance(block, Block)
    return block


def replace_forward(stack: Stack) -> None:
    lin = middle(stack).conv.lin
    lin.forward = lambda x: 2 * nn.functional.linear(x, lin.weight, lin.bias)


def transpose(stack: Stack) -> None:
    weight = middle(stack).conv.lin.weight
    weight.data = weight.data.t().contiguous().t()


CHANGES: dict[str, Callable[[Stack], object]] = {
    "a hook": lambda stack: middle(stack).conv.register_forward_hook(lambda *values: 2 * values[-1]),
    "a forward": replace_forward,
    "dropout": lambda stack: setattr(middle(stack), "act_drop", type(middle(stack).act_drop)(dropout=0.7)),
    "evaluation": lambda stack: middle(stack).eval(),
    "a norm": lambda stack: setattr(middle(stack), "norm", nn.Identity()),
    "a convolution": lambda stack: setattr(middle(stack), "conv", SAGEConv(D // 2, D // 2)),
    "a parametrization": lambda stack: nn.utils.parametrizations.weight_norm(middle(stack).conv.lin),
    "no bias": lambda stack: setattr(middle(stack).conv.lin, "bias", None),
    "columns": transpose,
    "a class": lambda stack: setattr(middle(stack).conv, "__class__", type("Mine", (GCNConv,), {})),
    "shared weights": lambda stack: setattr(stack.layers[3][0], "norm", middle(stack).norm),
}


@pytest.mark.parametrize("after_a_step", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_alike_goes_block_by_block(change: str, after_a_step: bool, taken: list[bool]) -> None:
    expected_of = make_stack(backprop="store")
    CHANGES[change](expected_of)
    torch.manual_seed(5)
    expected = step(expected_of.double())
    stack = make_stack()
    if after_a_step:
        step(stack)
    CHANGES[change](stack)
    taken.clear()
    found = step(stack.double())
    assert not any(taken)
    if change != "a convolution":  # its weights are drawn
        assert len(found) == len(expected)
        assert all(relative_error(one, other) < 1e-8 for one, other in zip(found, expected, strict=True))


class Seeing(TorchDispatchMode):
    """Sees every operator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_what_is_watched_goes_block_by_block_and_frozen_weights_do_not_matter(taken: list[bool]) -> None:
    stack, expected = make_stack(), step(make_stack())
    taken.clear()
    with Seeing():
        found = step(stack)
    assert not taken and all(relative_error(one, other) < 1e-5 for one, other in zip(found, expected, strict=True))
    frozen = middle(stack).conv.lin.weight, stack.layers[-1][0].norm.bias, stack.layers[0][1].conv.lin.bias
    for parameter in frozen:
        parameter.requires_grad_(False)
    left = [k for k, parameter in enumerate(stack.parameters()) if parameter.requires_grad]
    assert_same(step(stack), [*expected[:2], *(expected[2 + k] for k in left)])
    assert taken == [True, True]
    with ops.using("reference"):
        step(stack)
    assert len(taken) == 2


@pytest.mark.parametrize(
    "choice", [{"num_groups": 11}, {"state": "exact"}, {"weight_tied": True}, {"backprop": "store"}, {"num_layers": 1}]
)
def test_stacks_that_are_not_repeated(choice: dict[str, Any], taken: list[bool]) -> None:
    found = step(make_stack(**choice))
    assert not taken
    if choice.get("state") == "exact":
        for one, two in zip(found, step(make_stack()), strict=True):
            assert relative_error(one, two) < 1e-3
        assert check_inverse(make_stack(state="exact"), torch.randn(GRAPH.num_nodes, D), GRAPH).error == 0.0


def test_a_convolution_that_does_more_than_call_kernels(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONVS, "gen", GENConv)
    step(make_stack("gen"))
    assert not taken


# ---------------------------------------------------------------------- between forward and backward, and between steps
@pytest.mark.parametrize("change", ["a hook", "a forward", "dropout", "evaluation", "a class"])
def test_changes_between_forward_and_backward_do_not_reach_the_gradient(change: str, taken: list[bool]) -> None:
    stack, expected = make_stack(), step(make_stack())
    assert_same(step(stack, between=lambda: CHANGES[change](stack)), expected)
    assert taken[2:] == [True, True]


def test_changes_that_the_backward_cannot_undo_are_refused() -> None:
    stack = make_stack()
    with pytest.raises(RuntimeError, match="modules inside Block were added, removed or exchanged"):
        step(stack, between=lambda: CHANGES["a norm"](stack))
    stack = make_stack()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        step(stack, between=lambda: middle(stack).conv.lin.weight.detach().add_(1.0))


def test_a_step_sees_what_changed_since_the_one_before(taken: list[bool]) -> None:
    stack, seen = make_stack(), []
    expected = step(stack)
    handle = middle(stack).conv.register_forward_pre_hook(lambda *_: seen.append(1))
    step(stack)
    assert seen and taken == [True, True]
    handle.remove()
    assert_same(step(stack), expected)
    assert taken == [True] * 4
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append(2))
    step(stack)
    handle.remove()
    assert 2 in seen and len(taken) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GCNConv, "forward", lambda *_, **__: seen.append(3) or torch.zeros(GRAPH.num_nodes, D // 2))
        stack(torch.randn(GRAPH.num_nodes, D), GRAPH)
    assert 3 in seen and len(taken) == 4
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.mul_(2.0)
    stack.layers[0], stack.layers[1] = stack.layers[1], stack.layers[0]
    other = make_stack()
    other.load_state_dict(stack.state_dict())
    assert_same(step(stack), by_block(other))
    assert_same(step(copy.deepcopy(stack)), step(other))
    stack.to(torch.float64)
    assert step(stack)[0].dtype is torch.float64
    assert all(taken[4:])


def test_what_is_known_of_blocks_is_kept_from_step_to_step() -> None:
    stack, x = make_stack(norm="batch"), torch.randn(GRAPH.num_nodes, D)
    for _ in range(3):
        step(stack)
        with torch.no_grad():
            stack.eval()(x, GRAPH)
        stack.train()
    surveys = list(stack._surveys._found.values())
    first, _ = surveys
    step(stack)
    assert stack._surveys._found[True] is first
    middle(stack).conv.lin.bias = nn.Parameter(torch.zeros(D // 2))
    assert not first.holds(stack.layers)
    step(stack)
    assert stack._surveys._found[True] is not first
    assert not pickle.loads(pickle.dumps(stack))._surveys._found


# ---------------------------------------------------------------------- a recording
def test_a_recording_refuses_what_it_cannot_explain() -> None:
    x, out, weights = torch.randn(5, 8), torch.empty(5, 8), [nn.Parameter(torch.randn(8, 8)) for _ in range(2)]

    def recorded(seed: int | None = None) -> Recording:
        recording = Recording()
        with recording:
            recording.begin()
            ops.kernels(x).linear(x, weights[0], out=out)
            ops.kernels(x).norm_act_drop(x, kind="none", out=torch.empty(5, 8), drop=cpu.Drop(0.5, None, seed))
        assert ops.kernels(x) is cpu.BACKEND
        return recording

    assert recorded().repeat(2, weights, [1, 2])
    assert torch.equal(out, cpu_linear(x, weights[1]))
    assert recorded(1).repeat(2, weights, [1, 2])
    assert not recorded(7).repeat(2, weights, [1, 2]), "a seed of its own"
    assert not recorded().repeat(2, [*weights, weights[1]], [1, 2]), "an odd number"
    assert not recorded().repeat(1, weights[:1] * 2, [1]), "one address for two"
    for other in weights[1].double(), weights[1][:4], weights[1].t(), weights[1].detach():
        other = nn.Parameter(other) if other.requires_grad else other
        assert not recorded().repeat(2, [weights[0], other], [1, 2])


def test_kernels_that_are_not_the_librarys_are_not_repeated(taken: list[bool]) -> None:
    own, called = cpu.BACKEND.spmm, []

    def spmm(*arguments: Any, **named: Any) -> None:
        called.append(1)
        named["out"].copy_(arguments[0])

    cpu.BACKEND.register("spmm", spmm)
    try:
        step(make_stack())
    finally:
        cpu.BACKEND.register("spmm", own)
    assert taken == [False, False] and len(called) == 2 * L * 3


def test_running_statistics_move_in_inference_mode(taken: list[bool]) -> None:
    with torch.inference_mode():
        made_here = make_stack(norm="batch")
    for stack in made_here, make_stack(norm="batch"):
        with torch.inference_mode():
            stack(torch.randn(GRAPH.num_nodes, D), GRAPH)
        assert all(int(part.num_batches_tracked) == 1 for part in stack.modules() if isinstance(part, nn.BatchNorm1d))
    assert taken and all(taken)


def cpu_linear(x: Tensor, weight: Tensor) -> Tensor:
    out = torch.empty(x.size(0), weight.size(0))
    cpu.BACKEND.linear(x, weight, out=out)
    return out
