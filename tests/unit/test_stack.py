"""The stack with blocks of two lines: choices, seeds, segments, context, and what it refuses. No graphs here."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revgnn.measure import saved_bytes
from revgnn.stack import Stack, fold_seed, is_recomputing, recomputing, split
from tolerances import assert_close

D, N = 12, 7


class Linear(nn.Module):
    """The smallest block: ``tanh(x W + b)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, width)

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        return torch.tanh(self.lin(x))


class Contextual(nn.Module):
    """A block with a split context, a shared one of another width, and dropout from its seed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin, self.shared = nn.Linear(width, width), nn.Linear(3, width)

    def forward(self, x: Tensor, seed: int, own: Tensor, shared: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        keep = torch.bernoulli(torch.full(x.shape, 0.7, dtype=x.dtype), generator=generator)
        return self.lin(torch.tanh(x) * own * keep) + self.shared(shared)


def make(block: type[nn.Module] = Linear, **arguments: Any) -> Stack:
    torch.manual_seed(0)
    arguments = {"channels": D, "num_layers": 6, "coupling": "grouped", "backprop": "reversible", **arguments}
    return Stack(block, **arguments).double()


def gradients(stack: Stack, inputs: list[Tensor], *context: Any, seed: int = 5) -> list[Tensor]:
    torch.manual_seed(1)
    y = stack(inputs[0], *context, seed=seed)
    wanted = [*inputs, *stack.parameters()]
    return list(torch.autograd.grad(y, wanted, torch.randn_like(y)))


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= rtol * b.norm()


@pytest.mark.parametrize("num_groups", [2, 3, 4])
@pytest.mark.parametrize(
    "choice",
    [
        {"backprop": "reversible"},
        {"backprop": "reversible", "segments": 3},
        {"backprop": "reversible", "segments": 6},
        {"backprop": "checkpoint"},
        {"backprop": "checkpoint", "segments": 4},
    ],
)
def test_every_way_back_gives_the_gradients_of_store(num_groups: int, choice: dict[str, Any]) -> None:
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    own = torch.rand(N, D, dtype=torch.double, requires_grad=True)
    shared = torch.randn(N, 3, dtype=torch.double, requires_grad=True)
    context = (split(own), shared)
    store = make(Contextual, num_groups=num_groups, backprop="store")
    other = make(Contextual, num_groups=num_groups, **choice)
    expected = gradients(store, [x, own, shared], *context)
    assert_same(gradients(other, [x, own, shared], *context), expected)


@pytest.mark.parametrize("schedule", ["cycle", "head_repeat"])
@pytest.mark.parametrize("coupling", ["grouped", "residual"])
def test_tied_gradients_equal_autograd_on_the_unrolled_stack(schedule: Any, coupling: Any) -> None:
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    backprop = "reversible" if coupling == "grouped" else "checkpoint"
    tied = make(weight_tied=True, num_distinct=2, schedule=schedule, coupling=coupling, backprop=backprop)
    unrolled = make(coupling=coupling, backprop="store")
    order = [0, 1, 0, 1, 0, 1] if schedule == "cycle" else [0, 1, 1, 1, 1, 1]
    for depth, distinct in enumerate(order):
        unrolled.layers[depth].load_state_dict(tied.layers[distinct].state_dict())
    found = gradients(tied, [x])
    apart = gradients(unrolled, [x])
    per_layer = len(list(tied.layers[0].parameters()))
    expected = [apart[0]] + [torch.zeros_like(p) for p in tied.parameters()]
    for depth, distinct in enumerate(order):
        for k in range(per_layer):
            expected[1 + distinct * per_layer + k] += apart[1 + depth * per_layer + k]
    assert_same(found, expected)


def test_gradcheck() -> None:
    stack = make(num_layers=3, num_groups=3)
    x = torch.randn(3, D, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: stack(x, seed=0), (x, *stack.parameters()))


def test_values_do_not_depend_on_the_way_back_or_on_grad_mode() -> None:
    x = torch.randn(N, D, dtype=torch.double)
    y = make(backprop="store")(x, seed=1)
    assert_close(make(backprop="reversible")(x, seed=1), y)
    with torch.no_grad():
        assert_close(make(backprop="reversible")(x, seed=1), y)


def test_identity_and_constant_blocks_have_right_gradients() -> None:
    class Shift(nn.Module):
        """Its bias receives the very cotangent, which the stack goes on adding to."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(N, width, dtype=torch.double))

        def forward(self, x: Tensor, seed: int) -> Tensor:
            return x + self.bias

    class Constant(Shift):
        def forward(self, x: Tensor, seed: int) -> Tensor:
            return self.bias * 2

    class Echo(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

        def forward(self, x: Tensor, seed: int) -> Tensor:
            return x

    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    for block in (Shift, Constant, Echo):
        expected = gradients(make(block, backprop="store", num_groups=3), [x])
        assert_same(gradients(make(block, num_groups=3), [x]), expected)


def test_frozen_and_unused_parameters() -> None:
    class Partly(Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.unused = nn.Parameter(torch.ones(3))

    stack = make(Partly)
    stack.layers[2].requires_grad_(False)
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    stack(x, seed=0).sum().backward()
    assert stack.layers[0][0].unused.grad is None
    assert stack.layers[2][0].lin.weight.grad is None
    assert stack.layers[1][0].lin.weight.grad is not None
    stack.requires_grad_(False)
    assert torch.autograd.grad(stack(x, seed=0).sum(), x)[0].shape == x.shape


def test_input_output_and_context_stay_readable() -> None:
    stack = make(Contextual)
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    own, shared = torch.rand(N, D, dtype=torch.double), torch.randn(N, 3, dtype=torch.double)
    copies = [t.detach().clone() for t in (x, own, shared)]
    y = stack(x, split(own), shared, seed=0)
    value = y.detach().clone()
    (y.pow(2).sum() + (y + x).sum()).backward(retain_graph=True)
    first = [p.grad.clone() for p in stack.parameters()]
    stack.zero_grad()
    (y.pow(2).sum() + (y + x).sum()).backward()
    assert_same([p.grad for p in stack.parameters()], first, rtol=0.0)
    assert torch.equal(y, value)
    assert all(torch.equal(a, b) for a, b in zip((x, own, shared), copies, strict=True))


@pytest.mark.parametrize("num_groups", [2, 3])
def test_blocks_of_a_reversible_stack_read_dense_rows(num_groups: int) -> None:
    """In both directions: kernels read a group's columns of a wider tensor at half the speed."""
    seen = []

    class Recording(Linear):
        def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
            seen.append((is_recomputing(), x.is_contiguous()))
            return super().forward(x, seed)

    stack = make(Recording, num_groups=num_groups)
    gradients(stack, [torch.randn(N, D, dtype=torch.double, requires_grad=True)])
    assert {recomputes for recomputes, _ in seen} == {False, True}
    assert all(is_dense for _, is_dense in seen)


def test_a_forward_without_backward_is_freed_at_once() -> None:
    stack = make()
    gc.disable()
    try:
        y = stack(torch.randn(N, D, dtype=torch.double, requires_grad=True), seed=0)
        found = weakref.ref(y)
        del y
        assert found() is None
    finally:
        gc.enable()


def test_second_derivatives_are_refused() -> None:
    stack = make()
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    (grad,) = torch.autograd.grad(stack(x, seed=0).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice.*backprop='store'"):
        grad.sum().backward()


def test_a_parameter_changed_before_the_backward_is_an_error() -> None:
    stack = make()
    y = stack(torch.randn(N, D, dtype=torch.double), seed=0)
    with torch.no_grad():
        stack.layers[0][0].lin.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("device_dtype", [torch.bfloat16])
@pytest.mark.parametrize("inside", [True, False])
def test_the_backward_runs_under_the_autocast_of_the_forward(device_dtype: torch.dtype, inside: bool) -> None:
    x = torch.randn(N, D, requires_grad=True)
    found = []
    for backprop in ("store", "reversible"):
        stack = make(backprop=backprop).float()
        with torch.autocast("cpu", device_dtype):
            y = stack(x, seed=0)
            if inside:
                found.append(torch.autograd.grad(y.sum(), [x, *stack.parameters()]))
        if not inside:
            found.append(torch.autograd.grad(y.sum(), [x, *stack.parameters()]))
        assert y.dtype == torch.float32
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 2e-2 * b.norm()


def test_evaluations_per_step_and_the_mark_of_rebuilding() -> None:
    calls: list[bool] = []

    class Counting(Linear):
        def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
            calls.append(is_recomputing())
            return super().forward(x, seed)

    for backprop in ("reversible", "checkpoint"):
        calls.clear()
        stack, x = make(Counting, backprop=backprop), torch.randn(N, D, dtype=torch.double)
        stack(x, seed=0).sum().backward()
        assert calls == [False, True] * 12 + [True] * 12, "the first step asks every block whether it repeats itself"
        calls.clear()
        stack(x, seed=1).sum().backward()
        assert calls == [False] * 12 + [True] * 12
    with recomputing(), recomputing():
        pass
    assert not is_recomputing()


def test_saved_bytes_do_not_grow_with_depth() -> None:
    x = torch.randn(50, D, dtype=torch.double, requires_grad=True)

    def kept(depth: int, backprop: str) -> int:
        stack = make(num_layers=depth, backprop=backprop)
        return saved_bytes(lambda: stack(x, seed=0))

    assert kept(1, "reversible") == kept(10, "reversible") == kept(100, "reversible") == x.numel() * 8
    assert kept(100, "store") > 50 * kept(1, "reversible")


def test_seeds() -> None:
    draws = {fold_seed(7, layer, group) for layer in range(50) for group in range(4)}
    assert len(draws) == 200
    assert all(0 <= seed < 2**63 for seed in draws)
    assert fold_seed(7, 1) == fold_seed(7, 1) != fold_seed(8, 1)
    assert fold_seed(7, -1) != fold_seed(7, 0)


def test_the_global_generator_governs_a_step_without_a_seed() -> None:
    stack = make(Contextual)
    context = (split(torch.ones(N, D, dtype=torch.double)), torch.ones(N, 3, dtype=torch.double))
    x = torch.randn(N, D, dtype=torch.double)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(stack(x, *context))
    assert torch.equal(*found)
    assert not torch.equal(stack(x, *context), found[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coupling": "residual"}, "needs coupling='grouped'"),
        ({"num_groups": 5}, r"channels=12 must be divisible by num_groups=5; choose 10 or 15"),
        ({"num_groups": 1}, "num_groups must be 2 or more"),
        ({"coupling": "dense"}, "choose one of residual, grouped"),
        ({"backprop": "magic"}, "choose one of store, checkpoint, reversible"),
        ({"backprop": "store", "segments": 2}, "leave it None"),
        ({"segments": 7}, r"segments must lie in 1\.\.num_layers=6, got 7"),
        ({"num_layers": -1}, "num_layers must be 0 or more"),
        ({"num_distinct": 2}, "set weight_tied=True"),
        ({"weight_tied": True, "num_distinct": 9}, "num_distinct must lie in"),
        ({"schedule": "random"}, "choose cycle or head_repeat"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_widths_are_checked_where_they_come_in() -> None:
    with pytest.raises(ValueError, match="12 channels wide, got x with 9"):
        make()(torch.randn(N, 9, dtype=torch.double))
    with pytest.raises(ValueError, match="split context argument of 5 channels does not divide into 2"):
        make()(torch.randn(N, D, dtype=torch.double), split(torch.randn(N, 5)))

    class Wider(Linear):
        def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
            return torch.cat([x, x], 1)

    with pytest.raises(ValueError, match="a block must keep the shape"):
        make(Wider)(torch.randn(N, D, dtype=torch.double))


def test_zero_layers_is_the_identity() -> None:
    x = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    assert torch.equal(make(num_layers=0)(x, seed=0), x)
