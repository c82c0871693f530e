"""The drop-in for PyG's GroupAddRev: each defect of the original is a test here, and so is the memory of a chain."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from revgnn.interop import GroupAddRev
from revgnn.measure import held_memory, peak_memory, saved_bytes
from tolerances import assert_close, relative_error

N, E, D = 20, 61, 12


class Example(nn.Module):
    """The block of PyG's example: norm, ReLU, a mask that comes as an argument, convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = pyg.SAGEConv(channels, channels)

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.conv.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        x = self.norm(x).relu()
        if self.training and dropout_mask is not None:
            x = x * dropout_mask
        return self.conv(x, edge_index)


class Moving(nn.Module):
    """A block with everything that moves: batch statistics, and dropout of its own, as a function and as a module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.conv = pyg.SAGEConv(channels, channels)
        self.drop = nn.Dropout(0.3)
        # Not a plain number, which is put back after an evaluation that repeats another one.
        self.calls: list[None] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.calls.append(None)
        x = nn.functional.dropout(self.norm(x).relu(), 0.3, self.training)
        return self.drop(self.conv(x, edge_index))


def graph(num_nodes: int = N, num_edges: int = E) -> Tensor:
    return torch.randint(num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(0))


def features(num_nodes: int = N, channels: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_nodes, channels, dtype=torch.double, generator=generator).requires_grad_()


def make_layers(block: Callable[[int], nn.Module] = Example, depth: int = 4, num_groups: int = 2) -> nn.ModuleList:
    layers = [GroupAddRev(block(D // num_groups), num_groups=num_groups) for _ in range(depth)]
    return nn.ModuleList(layers).double()


def chain(layers: Sequence[nn.Module], x: Tensor, *args: Any) -> Tensor:
    for layer in layers:
        x = layer(x, *args)
    return x


def stored(layers: nn.Module) -> nn.Module:
    """The same layers, differentiated plainly by autograd: the oracle."""
    twin = copy.deepcopy(layers)
    for module in twin.modules():
        if isinstance(module, GroupAddRev):
            module.disable = True
    return twin


def weighted(y: Tensor, seed: int = 2) -> Tensor:
    """A loss with a random cotangent."""
    return (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))).sum()


Program = Callable[[nn.ModuleList, Tensor], Tensor | Sequence[Tensor | None]]


def assert_as_stored(layers: nn.ModuleList, program: Program, tolerance: float = 1e-12) -> None:
    """Run a program on the layers and on their stored twin: gradients (or what it returns), buffers, random state."""
    found = []
    for variant in (layers, stored(layers)):
        torch.manual_seed(5)
        x = features()
        result = program(variant, x)
        if isinstance(result, Tensor):
            wanted = [x, *(p for p in variant.parameters() if p.requires_grad)]
            result = torch.autograd.grad(result, wanted, allow_unused=True)
        found.append([*result, *variant.buffers(), torch.rand(3)])
    for actual, expected in zip(*found, strict=True):
        assert (actual is None) == (expected is None)
        if actual is not None:
            difference = (actual.detach() - expected.detach()).double().norm()
            assert float(difference) <= tolerance * max(1.0, float(expected.detach().double().norm()))


# ---------------------------------------------------------------------- one import in PyG's example


class ExampleNet(nn.Module):
    """PyG's example network, with the reversible layer to be chosen by an import."""

    def __init__(self, layer: Any, num_groups: int, depth: int = 5) -> None:
        super().__init__()
        self.dropout = 0.4
        self.lin1, self.lin2 = nn.Linear(7, D), nn.Linear(D, 3)
        self.norm = nn.LayerNorm(D)
        self.convs = nn.ModuleList(layer(Example(D // num_groups), num_groups=num_groups) for _ in range(depth))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.lin1(x)
        mask = torch.zeros_like(x).bernoulli_(1 - self.dropout) if self.training else None
        mask = None if mask is None else mask.requires_grad_(False) / (1 - self.dropout)
        for conv in self.convs:
            x = conv(x, edge_index, mask)
        x = nn.functional.dropout(self.norm(x).relu(), self.dropout, self.training)
        return self.lin2(x)


@pytest.mark.parametrize("num_groups", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_one_import_of_the_example_is_all_it_takes(num_groups: int, training: bool) -> None:
    results, keys = [], []
    for layer in (GroupAddRev, pyg.GroupAddRev):
        torch.manual_seed(0)
        net = ExampleNet(layer, num_groups).double().train(training)
        keys.append([(name, value) for name, value in net.state_dict().items()])
        logits = net(features(N, 7), graph())
        grads = torch.autograd.grad(weighted(logits), list(net.parameters()))
        results.append([logits, *grads])
    for (name, value), (other, expected) in zip(*keys, strict=True):
        assert name == other and torch.equal(value, expected), "the same seed makes the same weights"
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


# ---------------------------------------------------------------------- the thirteen points


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_01_buffers_move_once_per_step(norm: str) -> None:
    def block(width: int) -> nn.Module:
        if norm == "batch":
            return pyg.GENConv(width, width, norm="batch")
        conv = pyg.SAGEConv(width, width)
        # Its forward moves buffers that its value depends on: a repetition needs them as they were.
        nn.utils.parametrizations.spectral_norm(conv.lin_l)
        return conv

    layers = make_layers(block)
    assert_as_stored(layers, lambda m, x: weighted(chain(m, x, graph())), 1e-11)
    if norm == "batch":
        assert {int(b) for name, b in layers.named_buffers() if name.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize("num_groups", [2, 3])
def test_02_ordinary_dropout_inside_a_block(num_groups: int) -> None:
    assert_as_stored(make_layers(Moving, num_groups=num_groups), lambda m, x: weighted(chain(m, x, graph())), 1e-11)


def test_02_random_numbers_of_the_caller_run_on_during_the_backward() -> None:
    layers = make_layers(Moving)
    y = weighted(chain(layers, features(), graph()))
    expected = torch.random.get_rng_state()
    y.backward()
    assert torch.equal(torch.random.get_rng_state(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_03_autocast_is_that_of_the_forward(dtype: torch.dtype) -> None:
    layers = make_layers(depth=16).float()
    x = features().detach().float()
    lin = nn.Linear(D, D)
    seen: set[torch.dtype] = set()
    for layer in layers:
        layer.convs[0].conv.register_forward_hook(lambda _, __, out: seen.add(out.dtype))

    def gradients(variant: nn.Module, on: bool) -> Tensor:
        parameters = [*lin.parameters(), *variant.parameters()]
        with torch.autocast("cpu", dtype, enabled=on):
            y = chain(variant, lin(x), graph())
        assert y.dtype == torch.float32
        grads = torch.autograd.grad(weighted(y), parameters)
        assert all(grad.dtype == torch.float32 for grad in grads)
        return torch.cat([grad.flatten() for grad in grads])

    exact = gradients(stored(layers), False)
    seen.clear()
    error = relative_error(gradients(layers, True), exact)
    assert seen == {dtype}, "both evaluations run under the forward's autocast"
    assert error <= 1.2 * relative_error(gradients(stored(layers), True), exact)


def test_04_nothing_of_the_callers_is_freed_or_written_to() -> None:
    layers = make_layers(depth=2)
    base = torch.randn(N, 2 * D, dtype=torch.double)
    before = base.clone()
    view = base[:, :D]
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            chain(layers, view, graph())
    layers.eval()
    chain(layers, view, graph())
    layers.train()
    h = base[:, :D].clone().requires_grad_() * 1
    middle = layers[0](h, graph())
    y = layers[1](middle, graph())
    kept = [tensor.detach().clone() for tensor in (h, middle, y)]
    (y + h).pow(2).sum().backward()
    for tensor, value in zip((h, middle, y, base), (*kept, before), strict=True):
        assert torch.equal(tensor, value)


def test_05_backward_as_often_as_the_graph_is_retained() -> None:
    def twice(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
        loss = chain(layers, x, graph()).pow(2).sum()
        wanted = [x, *layers.parameters()]
        rounds = [torch.autograd.grad(loss, wanted, retain_graph=True) for _ in range(3)]
        return [grad for grads in rounds for grad in grads]

    assert_as_stored(make_layers(), twice)
    loss = chain(make_layers(), features(), graph()).pow(2).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_06_a_forward_without_backward_leaves_nothing() -> None:
    layers = make_layers(Moving)
    gc.collect()
    gc.disable()
    try:
        y = chain(layers, features(), graph())
        tape = weakref.ref(y.grad_fn.lease().tape)
        del y
        assert tape() is None, "freed by counting references, without the garbage collector"
        loss = chain(layers, features(), graph()).sum()
        tape = weakref.ref(loss.grad_fn.next_functions[0][0].lease().tape)
        loss.backward()
        assert tape() is None, "and freed by the backward, while its result is still held"
    finally:
        gc.enable()


def test_07_frozen_and_unused_parameters() -> None:
    class Optional(Example):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.unused = nn.Parameter(torch.ones(3))

    assert_as_stored(make_layers(Optional), lambda m, x: weighted(chain(m, x, graph())))
    assert_as_stored(make_layers(Optional).requires_grad_(False), lambda m, x: weighted(chain(m, x, graph())))
    partly = make_layers()
    for layer in partly:
        layer.convs[1].norm.requires_grad_(False)
    assert_as_stored(partly, lambda m, x: weighted(chain(m, x, graph())))
    # Parameters alone: x is a leaf that needs nothing.
    assert_as_stored(
        make_layers(),
        lambda m, x: torch.autograd.grad(weighted(chain(m, x.detach(), graph())), list(m.parameters())),
    )


@pytest.mark.parametrize("front", [nn.Identity(), nn.Linear(D, D).double()])
def test_08_second_derivatives_are_refused(front: nn.Module) -> None:
    x, layers = features(), make_layers()

    def penalty(variant: nn.Module) -> Tensor:
        (grad,) = torch.autograd.grad(weighted(chain(variant, front(x), graph())), x, create_graph=True)
        return grad.pow(2).sum()

    with pytest.raises(RuntimeError, match="cannot be differentiated twice.*disable=True"):
        penalty(layers).backward()
    penalty(stored(layers)).backward()
    # The gradient of the last layer's weight depends on the first layer's through the chain.
    last, first = list(layers[-1].parameters()), list(layers[0].parameters())
    (grad,) = torch.autograd.grad(weighted(chain(layers, x.detach(), graph())), last[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice.*disable=True"):
        torch.autograd.grad(grad.pow(2).sum(), first, allow_unused=True)


def test_08_functional_transforms_work() -> None:
    layers, x = make_layers(), features().detach()
    parameters = {name: p.detach() for name, p in layers.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        for k, layer in enumerate(layers):
            own = {name.removeprefix(f"{k}."): v for name, v in values.items() if name.startswith(f"{k}.")}
            x = torch.func.functional_call(layer, own, (x, graph()))
        return weighted(x)

    found = torch.func.grad(loss)(parameters, x)
    weighted(chain(layers, x, graph())).backward()
    for name, parameter in layers.named_parameters():
        assert_close(found[name], parameter.grad)


class Weighted(nn.Module):
    """A block with edge weights [E], edge features and a mask, in the caller's own order and containers."""

    def __init__(self, channels: int, edge_channels: int = D) -> None:
        super().__init__()
        self.conv = pyg.GraphConv(channels, channels)
        self.lin = nn.Linear(edge_channels, 1)

    def forward(
        self, x: Tensor, edge_index: Tensor, weight: Tensor, edge_attr: Tensor, *, extra: dict[str, Any]
    ) -> Tensor:
        assert weight.dim() == 1 and edge_attr.size(1) == D
        scale = weight + self.lin(edge_attr).squeeze(1) + extra["more"][0]
        return self.conv(x * extra["mask"] if "mask" in extra else x, edge_index, scale)


@pytest.mark.parametrize("num_edges", [D, N, E])
def test_09_edge_arguments_are_whole_whatever_their_size(num_edges: int) -> None:
    """Also where E = D (weights as long as x is wide) and where E = N (edge features shaped like x)."""
    ei = graph(num_edges=num_edges)
    weight, edge_attr, more = (
        torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((num_edges,), (num_edges, D), (1,))
    )

    def program(layers: nn.ModuleList, x: Tensor) -> Sequence[Tensor]:
        for layer in layers:
            x = layer(x, ei, weight, edge_attr=edge_attr, extra={"more": (more, None)})
        return torch.autograd.grad(weighted(x), [weight, edge_attr, more, *layers.parameters()])

    assert_as_stored(make_layers(Weighted), program, 1e-11)


def test_09_what_is_cut_and_what_is_shared() -> None:
    class Seen(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.widths = [v.size(-1) if isinstance(v, Tensor) else v for v in (*args, *kwargs.values())]
            return x * 0

    def seen(num_edges: int, *args: Any, split_args: Any = None, **kwargs: Any) -> list[Any]:
        layer = GroupAddRev(Seen(), num_groups=2, split_args=split_args)
        layer(torch.zeros(N, D), graph(num_edges=num_edges), *args, **kwargs)
        return layer.convs[1].widths

    mask, row, flat = torch.ones(N, D, dtype=torch.bool), torch.ones(1, D), torch.ones(D)
    assert seen(E, mask, row, flat, None, 3) == [D // 2, D // 2, D, None, 3]
    assert seen(E, torch.ones(E, D), torch.ones(N, D - 1), torch.ones(N, D).long()) == [D, D - 1, D]
    assert seen(N, edge_weight=torch.ones(N, D), mask=mask) == [D, D // 2], "a name tells where shapes do not"
    with pytest.raises(ValueError, match=r"argument 1 after x is \[20, 12\]: with 20 edges .* split_args"):
        seen(N, mask)
    assert seen(N, mask, flat, split_args=[1, 2]) == [D // 2, D // 2]
    assert seen(E, mask, mask=mask, split_args=["mask"]) == [D, D // 2]
    assert seen(E, mask, split_args=[]) == [D]
    with pytest.raises(ValueError, match="split_args names 'mask', but the call has the arguments"):
        seen(E, split_args=["mask"])
    with pytest.raises(ValueError, match=r"argument 1 of shape \[20, 5\] cannot be cut into 2 groups"):
        seen(E, torch.ones(N, 5), split_args=[1])


def test_09_a_mask_that_needs_a_gradient() -> None:
    mask = torch.rand(N, D, dtype=torch.double, requires_grad=True)
    embedded = torch.rand(1, D, dtype=torch.double, requires_grad=True)

    def program(layers: nn.ModuleList, x: Tensor) -> Sequence[Tensor]:
        y = chain(layers, chain(layers, x, graph(), mask), graph(), embedded)
        return torch.autograd.grad(weighted(y), [mask, embedded, *layers.parameters()])

    assert_as_stored(make_layers(num_groups=3), program)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # asked for while it traces
def test_10_compile_of_a_network_and_of_a_block() -> None:
    layers, x = make_layers(depth=2), features()
    expected = torch.autograd.grad(weighted(chain(stored(layers), x, graph())), x)[0]
    network = torch.compile(lambda x, ei: chain(layers, x * 1.0, ei).sin(), backend="aot_eager")
    found = torch.autograd.grad(weighted(network(x, graph())), x)[0]
    assert_close(found, torch.autograd.grad(weighted(chain(stored(layers), x, graph()).sin()), x)[0])
    for layer in layers:
        layer.convs = nn.ModuleList(torch.compile(b, fullgraph=True, backend="aot_eager") for b in layer.convs)
    assert_close(torch.autograd.grad(weighted(chain(layers, x, graph())), x)[0], expected)
    whole = torch.compile(make_layers(depth=1)[0].requires_grad_(False), fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile its block, or set disable=True"):
        whole(x, graph())
    whole.disable = True
    whole(x, graph()).sum().backward()


@pytest.mark.parametrize(("channels", "groups", "remedy"), [(30, 4, "28 or 32"), (10, 4, "8 or 12"), (3, 4, "4")])
def test_11_a_width_that_does_not_divide(channels: int, groups: int, remedy: str) -> None:
    layer = GroupAddRev(nn.Identity(), num_groups=groups)
    with pytest.raises(ValueError, match=f"{channels} channels .*num_groups={groups}; choose {remedy}"):
        layer(torch.zeros(N, channels), graph())


def test_12_groups_start_from_different_weights() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))

    layer = GroupAddRev(Bare(), num_groups=3)
    weights = [conv.inner[1].weight for conv in layer.convs]
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
    layer.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in pairwise([conv.inner[1].weight for conv in layer.convs]))


def test_13_two_evaluations_per_step() -> None:
    layers = make_layers(Moving)
    convs = [conv for layer in layers for conv in layer.convs]
    chain(layers, features(), graph()).sum().backward()
    assert {len(conv.calls) for conv in convs} == {3}, "the first step asks whether a block repeats its value"
    chain(layers, features(), graph()).sum().backward()
    assert {len(conv.calls) for conv in convs} == {5}
    layers.eval()
    with torch.no_grad():
        chain(layers, features(), graph())
    assert {len(conv.calls) for conv in convs} == {6}


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


# ---------------------------------------------------------------------- inside other tools


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """Random numbers of the device, batch statistics and autocast, differentiated in autograd's own thread."""
    layers = make_layers(Moving, depth=8).float().cuda()
    ei, x = graph().cuda(), features().detach().float().cuda().requires_grad_()
    found = []
    for variant in (layers, stored(layers)):
        torch.manual_seed(5)
        with torch.autocast("cuda", torch.bfloat16):
            y = chain(variant, x, ei)
        grads = torch.autograd.grad(weighted(y.cpu()), [x, *variant.parameters()])
        found.append([torch.cat([grad.flatten() for grad in grads]), *variant.buffers(), torch.rand(3, device="cuda")])
    assert relative_error(found[0][0], found[1][0]) < 0.05
    for actual, expected in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


def test_copies_pickles_and_state_dicts() -> None:
    layers = make_layers(Moving)
    y = chain(layers, features(), graph())
    twins = [copy.deepcopy(layers), pickle.loads(pickle.dumps(layers)), make_layers(Moving)]
    twins[2].load_state_dict(layers.state_dict())
    for twin in twins:
        twin.eval()
        assert_close(chain(twin, features(), graph()), chain(layers.eval(), features(), graph()))
    y.sum().backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_inside_a_checkpoint(use_reentrant: bool) -> None:
    def program(layers: nn.ModuleList, x: Tensor) -> Tensor:
        middle = torch.utils.checkpoint.checkpoint(
            lambda x: chain(layers[:2], x.sin(), graph()).cos(), x, use_reentrant=use_reentrant
        )
        return weighted(chain(layers[2:], middle, graph()))

    def gradients(layers: nn.ModuleList, x: Tensor) -> list[Tensor | None]:
        program(layers, x).backward()
        return [x.grad, *(p.grad for p in layers.parameters())]

    assert_as_stored(make_layers(), gradients)


def test_gradient_scaler() -> None:
    layers = make_layers().float()
    lin = nn.Linear(D, D)
    optimizer = torch.optim.SGD([*lin.parameters(), *layers.parameters()], lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = chain(layers, lin(features().detach().float()), graph()).pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and scaler.get_scale() == 2.0**8


def test_export_and_explanation() -> None:
    layers = make_layers(depth=2).eval()
    program = torch.export.export(layers[0], (features(), graph()))
    assert_close(program.module()(features(), graph()), layers[0](features(), graph()))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_other_forms_of_a_graph() -> None:
    layers, ei = make_layers(), graph()
    ones = torch.ones(E, dtype=torch.double)
    adjacency = torch.sparse_coo_tensor(ei.flip(0), ones, (N, N), check_invariants=True).coalesce()
    ordered = adjacency.indices().flip(0)
    expected = torch.autograd.grad(weighted(chain(layers, x := features(), ordered)), x)[0]
    # SAGE's mean over a sparse matrix divides by the sum of its values: repeated edges are one of weight one.
    adjacency.values().fill_(1.0)
    csr = adjacency.to_sparse_csr()
    for form in (csr, ordered.contiguous()):
        assert_close(torch.autograd.grad(weighted(chain(layers, x, form)), x)[0], expected)


def test_lazy_blocks_take_their_shape_from_the_first_call() -> None:
    layer = GroupAddRev(pyg.SAGEConv(-1, D // 2), num_groups=2)
    layer(features().float(), graph()).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("num_groups", [2, 4])
def test_inverse(num_groups: int) -> None:
    layers = make_layers(num_groups=num_groups)
    x = features()
    y = layers[0](x, graph())
    assert_close(layers[0].inverse(y, graph()), x)
    assert torch.autograd.gradcheck(
        lambda y: layers[0].inverse(y, graph()), y.detach().requires_grad_(), fast_mode=True
    )


# ---------------------------------------------------------------------- the border


def test_what_cannot_be_a_layer() -> None:
    with pytest.raises(ValueError, match="num_groups must be 2 or more .*got 1"):
        GroupAddRev(nn.Linear(4, 4), num_groups=1)
    with pytest.raises(ValueError, match="num_groups must be 2 or more .*got 1"):
        GroupAddRev(nn.ModuleList([nn.Linear(4, 4)]))
    with pytest.raises(ValueError, match="num_groups must be given, unless conv is a ModuleList"):
        GroupAddRev(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="num_groups=3 but conv lists 2 blocks"):
        GroupAddRev(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), num_groups=3)
    with pytest.raises(ValueError, match="split_dim=0 would cut the nodes"):
        GroupAddRev(nn.Linear(4, 4), 0, 2)
    with pytest.raises(ValueError, match="num_bwd_passes must be 1 or more"):
        GroupAddRev(nn.Linear(4, 4), num_groups=2, num_bwd_passes=0)
    with pytest.raises(ValueError, match="split_dim=2 is not a dimension of channels"):
        GroupAddRev(nn.Linear(4, 4), 2, 2)(torch.zeros(3, 8))


@pytest.mark.parametrize("disable", [True, False])
def test_what_cannot_be_a_block(disable: bool) -> None:
    x = torch.zeros(3, 8, requires_grad=True)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match=r"keep the shape of its input: got \[3, 1\] from \[3, 4\]"):
        GroupAddRev(nn.Linear(4, 1), num_groups=2, disable=disable)(x)
    with pytest.raises(TypeError, match="must return one tensor, got tuple"):
        GroupAddRev(Pair(), num_groups=2, disable=disable)(x)


def test_a_block_that_writes_to_its_input() -> None:
    layer = GroupAddRev(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), num_groups=2)
    with pytest.raises(RuntimeError, match="group 0 writes to its input"):
        layer(torch.zeros(3, 8))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()
