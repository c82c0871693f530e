"""A chain of `GroupAddRev` holds one state, and any graph of layers that branches from it is right."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chains import (
    D,
    Example,
    Moving,
    N,
    Program,
    assert_as_stored,
    chain,
    features,
    graph,
    make_layers,
    stored,
    weighted,
)
from revgnn.interop import GroupAddRev
from revgnn.measure import held_memory, peak_memory, saved_bytes
from tolerances import assert_close

# ---------------------------------------------------------------------- the memory of a chain


def small_layers(depth: int) -> nn.ModuleList:
    """Narrow blocks on many nodes, weights tied: what is held is the stream's."""
    return nn.ModuleList([GroupAddRev(Example(2), num_groups=2)] * depth)


def test_a_chain_holds_one_state_at_any_depth() -> None:
    x, ei = torch.randn(1000, 4, requires_grad=True), graph(1000, 3000)
    mask = torch.ones(1000, 4)
    held = [held_memory(lambda d=d: chain(small_layers(d), x, ei, mask)) for d in (1, 5, 40)]
    parameters = sum(p.numel() * p.element_size() for p in small_layers(1).parameters())
    assert held[0] == held[1] == held[2] <= x.nbytes + parameters
    assert saved_bytes(lambda: chain(small_layers(10), x, ei, mask)) == 0, "nothing of size N besides that state"

    def step(depth: int) -> None:
        layers = small_layers(depth)
        torch.autograd.grad(chain(layers, x, ei, mask).sum(), [x, *layers.parameters()])

    # Besides the gradients of the weights, which are the result.
    peaks = [peak_memory(lambda d=d: step(d)) - d * parameters for d in (3, 6, 20)]
    assert peaks[0] == peaks[1] == peaks[2]
    assert held_memory(lambda: chain(stored(small_layers(40)), x, ei, mask)) > 40 * held[0]


def test_a_retained_graph_holds_two_states() -> None:
    x, ei = torch.randn(1000, 4, requires_grad=True), graph(1000, 3000)

    def retained(depth: int) -> Tensor:
        y = chain(small_layers(depth), x, ei).sum()
        torch.autograd.grad(y, x, retain_graph=True)
        return y

    held = [held_memory(lambda d=d: retained(d)) for d in (3, 6, 20)]
    assert held[0] == held[1] == held[2] < 3 * x.nbytes


def test_a_released_graph_holds_none() -> None:
    x, ei = torch.randn(1000, 4, requires_grad=True), graph(1000, 3000)

    def released() -> Tensor:
        y = chain(small_layers(10), x, ei).sum()
        torch.autograd.grad(y, x)
        return y

    assert held_memory(released) < x.nbytes / 4


# ---------------------------------------------------------------------- branches of a chain


def all_outputs(layers: nn.ModuleList, x: Tensor) -> Tensor:
    outputs = [x]
    for layer in layers:
        outputs.append(layer(outputs[-1], graph()))
    return weighted(torch.cat(outputs, dim=1))


def squares_on_the_way(layers: nn.ModuleList, x: Tensor) -> Tensor:
    total: Any = 0
    for layer in layers:
        x = layer(x, graph())
        total = total + weighted(x.pow(2))
    return total


def two_consumers(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = layers[0](x, graph())
    return weighted(layers[2](layers[1](y, graph()), graph()) * layers[3](y, graph()))


def successor_without_gradient(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = layers[1](layers[0](x, graph()), graph())
    z = chain(layers[2:], y, graph())
    loss = weighted(y)
    del y, z
    return loss


def successor_that_is_gone(layers: nn.ModuleList, x: Tensor) -> Tensor:
    y = layers[1](layers[0](x, graph()), graph())
    for _ in range(3):
        chain(layers[2:], y, graph())
    return weighted(y)


def lower_part_later(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    y = chain(layers[:2], x, graph())
    (grad,) = torch.autograd.grad(weighted(chain(layers[2:], y, graph())), y)
    wanted = [x, *layers[:2].parameters()]
    rounds = [torch.autograd.grad(y, wanted, grad * k, retain_graph=k < 3) for k in (1, 2, 3)]
    return [grad for grads in rounds for grad in grads]


def extended_after_a_backward(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    y = chain(layers[:2], x, graph())
    first = torch.autograd.grad(weighted(y), [x], retain_graph=True)
    return [*first, *torch.autograd.grad(weighted(chain(layers[2:], y, graph())), [x, *layers.parameters()])]


def upper_part_twice(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    y = chain(layers, x, graph())
    upper = list(layers[2:].parameters())
    first = torch.autograd.grad(weighted(y), upper, retain_graph=True)
    return [*first, *torch.autograd.grad(weighted(y), upper, retain_graph=True), *torch.autograd.grad(weighted(y), x)]


def operations_between(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, graph()).view(N, D) * 0.9
    return weighted(x)


def same_layer_again(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return weighted(chain([*layers, *layers, layers[0], layers[0]], x, graph()))


def itself_as_an_argument(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, graph(), x)
    return weighted(x)


BRANCHES = [
    all_outputs,
    squares_on_the_way,
    two_consumers,
    successor_without_gradient,
    successor_that_is_gone,
    lower_part_later,
    extended_after_a_backward,
    upper_part_twice,
    operations_between,
    same_layer_again,
    itself_as_an_argument,
]


@pytest.mark.parametrize("program", BRANCHES)
@pytest.mark.parametrize("num_groups", [2, 3])
def test_a_branched_chain_has_the_gradients_of_a_stored_one(program: Program, num_groups: int) -> None:
    assert_as_stored(make_layers(num_groups=num_groups), program, 1e-11)


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_have_the_gradients_of_stored_ones(seed: int) -> None:
    """Any mixture of layers, sums, drops and views, any loss, a backward or two: the same as plain autograd."""

    def program(layers: nn.ModuleList, x: Tensor) -> list[Tensor | None]:
        draw = torch.Generator().manual_seed(seed)

        def pick(n: int) -> int:
            return int(torch.randint(n, (), generator=draw))

        held = [x]
        for _ in range(12):
            kind, source = pick(6), held[pick(len(held))] if pick(2) else held[-1]
            if kind < 4:
                y = layers[pick(len(layers))](source, graph())
                held.append(y * 1.0 if pick(5) == 0 else y)
            elif kind == 4:
                held.append(0.5 * (source + held[pick(len(held))]))
            else:
                del held[pick(len(held))]
                held = held or [x]
        loss = sum((weighted(held[pick(len(held))].sin(), k) for k in range(1 + pick(3))), weighted(held[-1]))
        wanted = [x, *layers.parameters()]
        del held
        rounds = 1 + pick(2)
        found: list[Tensor | None] = []
        for k in range(rounds):
            found += torch.autograd.grad(loss, wanted, retain_graph=k < rounds - 1, allow_unused=True)
        return found

    assert_as_stored(make_layers(Moving, depth=3), program, 1e-9)


def test_layers_of_different_groups_and_dimensions_share_a_chain() -> None:
    class Along(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.lin = nn.Linear(channels, channels)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x.movedim(1, -1)).movedim(-1, 1).tanh()

    layers = nn.ModuleList(
        [
            GroupAddRev(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), num_groups=3),
            GroupAddRev(Along(4), 1, 2),
            GroupAddRev(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), -1, 2),
        ]
    ).double()
    x = torch.randn(5, 8, 6, dtype=torch.double, requires_grad=True)
    results = []
    for variant in (layers, stored(layers)):
        y = chain(variant, chain(variant, x))
        results.append([y, *torch.autograd.grad(weighted(y), [x, *variant.parameters()])])
    assert results[0][0].grad_fn.lease is not None
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


def test_an_output_may_be_written_to_once_a_layer_has_taken_it() -> None:
    layers, x = make_layers(), features()

    def gradient(double: Callable[[Tensor], Tensor]) -> Tensor:
        y = layers[0](x, graph())
        z = chain(layers[1:], y, graph())
        return torch.autograd.grad(weighted(double(y) + z), x)[0]

    assert_close(gradient(lambda y: y.mul_(2.0)), gradient(lambda y: y * 2.0))


def test_changes_in_place_are_errors_where_they_matter() -> None:
    layers, ei = make_layers(), graph()
    y = chain(layers, features(), ei)
    with torch.no_grad():
        layers[1].convs[0].norm.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="layer 2 of a chain of 4 .* was changed in place.*clone it"):
        y.sum().backward()
    y = chain(layers, features(), ei)
    y.relu_()
    with pytest.raises(RuntimeError, match="layer 4 of a chain of 4 .* its output"):
        y.sum().backward()
    y = chain(layers, features(), ei)
    ei[0, 0] = 1 - ei[0, 0].clamp(max=1)
    with pytest.raises(RuntimeError, match="was changed in place"):
        y.sum().backward()


def test_a_change_of_a_later_layer_matters_only_if_it_has_to_be_walked_through() -> None:
    layers = make_layers()
    y = chain(layers[:2], features(), graph())
    expected = torch.autograd.grad(weighted(y), list(layers[:2].parameters()), retain_graph=True)
    z = chain(layers[2:], y, graph())
    with torch.no_grad():
        layers[3].convs[0].norm.weight.add_(1.0)
    found = torch.autograd.grad(weighted(y), list(layers[:2].parameters()))
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)
    with pytest.raises(RuntimeError, match="layer 4 of a chain of 4"):
        z.sum().backward()


def test_switching_to_evaluation_before_the_backward() -> None:
    def program(layers: nn.ModuleList, x: Tensor) -> Tensor:
        y = weighted(chain(layers, x, graph()))
        layers.eval()
        return y

    layers = make_layers(Moving)
    assert_as_stored(layers, program, 1e-11)
    assert not any(module.training for module in layers.modules() if module is not layers)


def test_backward_passes_of_two_threads_take_turns() -> None:
    layers = make_layers(depth=8)
    x = features()
    y = chain(layers, x, graph())
    expected = torch.autograd.grad(weighted(y), x, retain_graph=True)[0]
    found: list[Tensor] = []

    def backward() -> None:
        found.append(torch.autograd.grad(weighted(y), x, retain_graph=True)[0])

    threads = [threading.Thread(target=backward) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for grad in found:
        assert_close(grad, expected)


def test_a_reversible_layer_inside_a_block_of_another() -> None:
    class Outer(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.inner = nn.ModuleList(GroupAddRev(Moving(channels // 2), num_groups=2) for _ in range(2))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return chain(self.inner, x, edge_index).tanh()

    assert_as_stored(make_layers(Outer, depth=2), lambda m, x: weighted(chain(m, x, graph())), 1e-11)


def test_threads_that_take_the_same_output() -> None:
    layers = make_layers()
    y = chain(layers[:2], features(), graph())
    wanted = list(layers.parameters())
    expected = [
        torch.autograd.grad(weighted(layer(y, graph())), wanted, retain_graph=True, allow_unused=True)
        for layer in layers[2:]
    ]
    found: list[Any] = [None, None]
    start = threading.Barrier(2)

    def consume(k: int) -> None:
        start.wait()
        z = layers[2 + k](y, graph())
        found[k] = torch.autograd.grad(weighted(z), wanted, retain_graph=True, allow_unused=True)

    threads = [threading.Thread(target=consume, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for actual, wanted_grads in zip(found, expected, strict=True):
        for grad, exact in zip(actual, wanted_grads, strict=True):
            assert (grad is None) == (exact is None)
            if grad is not None:
                assert_close(grad, exact)
