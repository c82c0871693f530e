"""The fixed-point state: rebuilt bit for bit at any depth, gradients as good as with everything stored, no overflow
unseen. What float states lose, and who tells."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.measure import saved_bytes
from revgnn.nn.block import Block
from revgnn.nn.convs import GATOptions, GCNConv
from revgnn.nn.model import ModelConfig, build_model
from revgnn.nn.norms import NormActDrop
from revgnn.stack import DriftWarning, Stack, check_inverse, is_recomputing, split
from revgnn.stack.integer_state import WORDS, FixedPoint
from tolerances import assert_close, relative_error

# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started the suite.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import drift

N, D = 60, 16
EXACT = ("exact", "exact64")
PRECISIONS = ("float32", "bfloat16")


def make_graph(num_nodes: int = N) -> Graph:
    """Three edges a node, to hubs above all."""
    generator = torch.Generator().manual_seed(0)
    weights = (torch.arange(num_nodes) + 5.0) ** -0.6
    half = torch.multinomial(weights, 6 * num_nodes, replacement=True, generator=generator).view(2, -1)
    return Graph.from_edge_index(torch.cat([half, half.flip(0)], 1), num_nodes)


class Smooth(nn.Module):
    """A block without a kink: where a ReLU flips by a rounding error, errors of a gradient are a matter of luck."""

    def __init__(self, width: int, norm: Any) -> None:
        super().__init__()
        self.norm, self.conv = NormActDrop(width, norm, act=False), GCNConv(width, width)

    def forward(self, x: Tensor, seed: int, graph: Graph) -> Tensor:
        out: Tensor = self.conv(F.gelu(self.norm(x, graph)), graph)
        return out


class Recorded(nn.Module):
    """A block that keeps its inputs, and compares them bit for bit when it is rebuilt."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.seen = block, []
        # A list, because a plain value is put back after an evaluation that repeats another one.
        self.equal: list[bool] = []

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        if is_recomputing():
            if self.seen:
                self.equal.append(torch.equal(x, self.seen[0]))
        else:
            self.seen = [x.detach().clone()]
        out: Tensor = self.block(x, seed, *context)
        return out


class Linear(nn.Module):
    """``tanh(x W + b)``, times a gain that is no parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin, self.gain = nn.Linear(width, width), 1.0

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        return torch.tanh(self.lin(x)) * self.gain


class Counted(nn.Module):
    """`Linear` after a BatchNorm of torch's kind that moves its statistics once per step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = NormActDrop(width, "batch"), Linear(width)

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        out: Tensor = self.linear(self.norm(x), seed)
        return out


def make(block: Any = Linear, seed: int = 0, **arguments: Any) -> Stack:
    torch.manual_seed(seed)
    arguments = {"channels": D, "num_layers": 6, "coupling": "grouped", "backprop": "reversible", **arguments}
    return Stack(block, **arguments)


def under(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()


def features(num_nodes: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_nodes, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def block_gradient(stack: Stack, x: Tensor, graph: Graph, precision: str = "float32") -> Tensor:
    """Of a loss that weighs every entry differently, with respect to all parameters, as one vector."""
    weights = torch.linspace(-1.0, 1.0, D, dtype=torch.float64)
    with under(precision):
        y = stack(x, graph, seed=0)
    loss = torch.tanh(y.double() / stack.num_layers**0.5 * weights).mean()
    return torch.cat([grad.flatten().double() for grad in torch.autograd.grad(loss, list(stack.parameters()))])


# ---------------------------------------------------------------------- the integers
@given(
    exponents=st.lists(st.integers(0, 9), min_size=2, max_size=6),
    seed=st.integers(0, 2**20),
    name=st.sampled_from(EXACT),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_added_on_the_way_is_taken_off_again(exponents: list[int], seed: int, name: str) -> None:
    """Through scales that double by up to nine bits at once, over the borders of the bytes that keep them."""
    scales = tuple(sum(exponents[: k + 1]) - 20 for k in range(len(exponents)))
    form = FixedPoint(2, scales, WORDS[name], torch.float32)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 6, generator=generator)
    state = form.open(x)
    start = [part.clone() for part in state.parts]
    deltas = [torch.randn(5, 3, generator=generator) * 2.0**k for k in range(len(scales))]
    for layer, delta in enumerate(deltas):
        state.enter(layer)
        state.add(layer % 2, delta)
    assert len(state.lost_bits) == -(-(scales[-1] - scales[0]) // 8)
    # Nearest in every change of scale and addition: half a step each, of the scale that follows.
    expected = x.chunk(2, 1)
    summed = [expected[i] + sum((d for k, d in enumerate(deltas) if k % 2 == i), torch.zeros(5, 3)) for i in range(2)]
    bound = 2.0 ** scales[-1] * 2 + 1e-5 * float(torch.stack(summed).abs().max())
    assert float((state.join() - torch.cat(summed, 1)).abs().max()) <= bound
    again = form.reopen(state.kept(), copy=True)
    for layer, delta in reversed(list(enumerate(deltas))):
        again.subtract(layer % 2, delta)
        again.leave(layer)
    assert all(torch.equal(a, b) for a, b in zip(again.parts, start, strict=True))


def test_reading_and_rounding() -> None:
    form = FixedPoint(1, (-4,), WORDS["exact"], torch.float32)
    values = torch.tensor([[0.0, 1.0, -1.0, 1 / 16, 1.5 / 16, 2.5 / 16, -0.7 / 16]])
    assert form.steps(values, 0).tolist() == [[0, 16, -16, 1, 2, 2, -1]]
    assert form.read(form.steps(values, 0), 0).tolist() == [[0.0, 1.0, -1.0, 1 / 16, 2 / 16, 2 / 16, -1 / 16]]


# ---------------------------------------------------------------------- rebuilt bit for bit
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("norm", "depth", "state"),
    [
        ("batch", 28, "exact"),
        ("batch", 112, "exact"),
        ("batch", 112, "exact64"),
        ("batch", 448, "exact"),
        ("layer", 1001, "exact"),
    ],
)
def test_blocks_meet_the_same_bits_when_they_are_rebuilt(norm: Any, depth: int, state: Any, precision: str) -> None:
    graph = make_graph()
    stack = make(
        lambda width: Recorded(Block(NormActDrop(width, norm, dropout=0.2), GCNConv(width, width))),
        num_layers=depth,
        state=state,
        drift_every=1,
    )
    x = features(dtype=torch.float32)
    with under(precision):
        y = stack(x, graph, None, seed=0)
    y.pow(2).sum().backward()
    assert [block.equal[-1] for layer in stack.layers for block in layer] == [True] * (2 * depth)
    assert stack.drift == 0.0
    assert stack.exact is not None and stack.exact.rescales == 0


def test_a_float_state_is_not_rebuilt_bit_for_bit() -> None:
    """The test above can fail."""
    stack = make(lambda width: Recorded(Smooth(width, "batch")), num_layers=28)
    stack(features(dtype=torch.float32), make_graph(), seed=0).sum().backward()
    assert not all(block.equal[-1] for layer in stack.layers for block in layer)


@pytest.mark.parametrize("conv", ["gcn", "sage", "gen", "gat"])
@pytest.mark.parametrize("norm", ["layer", "batch", "graph", "none"])
def test_every_block_of_the_house_is_rebuilt_exactly(conv: Any, norm: Any) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        conv=conv, norm=norm, num_layers=6, hidden_channels=24, num_groups=2, state="exact", gat=GATOptions(heads=2)
    )
    model = build_model(config, GraphInfo(in_channels=5, num_outputs=3, edge_channels=4))
    model.stack.drift_every = 1
    graph = make_graph()
    edge_attr = torch.rand(graph.num_edges, 4) if model.uses_edge_attr else None
    model(torch.randn(N, 5), graph, edge_attr, seed=1).sum().backward()
    assert model.stack.drift == 0.0


# ---------------------------------------------------------------------- what the gradients are worth
@cache
def truth(norm: Any, depth: int, seed: int) -> Tensor:
    """The gradient in float64, with everything stored."""
    store = make(lambda width: Smooth(width, norm), seed, num_layers=depth, backprop="store").double()
    return block_gradient(store, features(), make_graph())


WAYS: dict[str, dict[str, Any]] = {
    "store": {"backprop": "store"},
    "exact": {"state": "exact"},
    "auto": {"segments": "auto"},
    "float": {},
}
MOST = 48
"""Sets of initial weights that a mean is taken over, at most."""


@cache
def error(way: str, norm: Any, depth: int, precision: str, seed: int) -> float:
    """The gradient's relative error against float64, for one set of initial weights."""
    stack = make(lambda width: Smooth(width, norm), seed, num_layers=depth, **WAYS[way])
    gradient = block_gradient(stack, features(dtype=torch.float32), make_graph(), precision)
    return relative_error(gradient, truth(norm, depth, seed))


def assert_errors(way: str, factor: float, other: str, *case: Any, least: int) -> None:
    """Assert that a way's errors are at most a factor of another's, in the geometric mean over initial weights.

    Rounding decides the ratio of one set of weights, by a factor of two and now and then of ten. So the mean is over
    ``least`` sets, and where it is above the factor, over more: a ratio that is above it stays there.
    """
    ratios: list[float] = []
    while len(ratios) < least or (geometric_mean(ratios) > factor and len(ratios) < MOST):
        ratios.append(error(way, *case, len(ratios)) / error(other, *case, len(ratios)))
    assert geometric_mean(ratios) <= factor, ratios


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("norm", "depth", "factor", "least"),
    [
        ("batch", 28, 1.5, 8),
        ("batch", 112, 1.5, 6),
        pytest.param("batch", 448, 1.5, 2, marks=pytest.mark.slow),
        pytest.param("layer", 1001, 2.0, 1, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_as_good_as_with_everything_stored(
    norm: Any, depth: int, factor: float, least: int, precision: str
) -> None:
    assert_errors("exact", factor, "store", norm, depth, precision, least=least)


@pytest.mark.slow
def test_1001_layers_of_batch_norm() -> None:
    """32 bits keep up with store, because the bits that fall off as the stream grows are put aside."""
    assert_errors("exact", 2.0, "store", "batch", 1001, "float32", least=2)


def test_segments_bound_the_drift_of_a_float_state() -> None:
    assert_errors("auto", 3.0, "store", "batch", 112, "float32", least=5)
    assert_errors("auto", 1 / 3, "float", "batch", 112, "float32", least=5)


@pytest.mark.parametrize(
    ("depth", "backprop", "segments", "expected"),
    [
        (1, "reversible", "auto", 1),
        (32, "reversible", "auto", 1),
        (33, "reversible", "auto", 2),
        (1001, "reversible", "auto", 32),
        (1001, "reversible", None, 1),
        (10, "reversible", 4, 4),
        (100, "checkpoint", "auto", 10),
        (7, "checkpoint", None, 7),
    ],
)
def test_how_many_segments(depth: int, backprop: Any, segments: Any, expected: int) -> None:
    stack = make(num_layers=depth, backprop=backprop, segments=segments)
    assert stack.segments == expected
    x = features(5, torch.float32).requires_grad_()
    assert torch.isfinite(stack(x, seed=0).sum())


# ---------------------------------------------------------------------- what is kept, and in which dtype
def test_saved_bytes() -> None:
    """Four bytes an element at any depth, eight with int64, and one more per 8 doublings of the range."""
    x = torch.randn(50, D)

    def kept(depth: int, gain: float = 1e-3, **choices: Any) -> int:
        stack = make(num_layers=depth, **choices)
        for module in stack.modules():
            if isinstance(module, Linear):
                module.gain = gain
        return saved_bytes(lambda: stack(x, seed=0))

    assert kept(1, state="exact") == kept(10, state="exact") == kept(100, state="exact") == x.numel() * 4
    assert kept(100, state="exact64") == x.numel() * 8
    assert kept(100, state="exact", segments=4) == 4 * x.numel() * 4
    assert kept(40, gain=10.0, state="exact") == x.numel() * 5


@pytest.mark.parametrize("state", EXACT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_streams_of_every_dtype(dtype: torch.dtype, state: Any) -> None:
    stack = make(state=state, num_groups=4, drift_every=1).to(dtype)
    plain = make(backprop="store", num_groups=4).double()
    plain.load_state_dict({name: value.double() for name, value in stack.state_dict().items() if name != "largest"})
    x = torch.randn(30, D, dtype=dtype, requires_grad=True)
    y = stack(x, seed=0)
    assert y.dtype == dtype
    y.to(torch.promote_types(dtype, torch.float32)).pow(2).sum().backward()
    assert stack.drift == 0.0
    leaf = x.detach().double().requires_grad_()
    expected = plain(leaf, seed=0)
    expected.pow(2).sum().backward()
    tolerance = {torch.float64: 1e-6 if state == "exact" else 1e-13, torch.float32: 1e-5}.get(dtype, 5e-2)
    assert relative_error(y.detach(), expected.detach()) < tolerance
    assert relative_error(x.grad, leaf.grad) < tolerance


def test_a_half_precision_stream_is_held_in_float32_under_autocast() -> None:
    for choices in ({}, {"state": "exact"}, {"backprop": "store"}):
        with torch.autocast("cpu", torch.bfloat16):
            y = make(**choices)(torch.randn(N, D, dtype=torch.bfloat16, requires_grad=True), seed=0)
        assert y.dtype == torch.float32


def test_context_gradients_and_repeated_backwards() -> None:
    class Scaled(Linear):
        def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
            return super().forward(x, seed) * context[0]

    found = []
    for choices in ({"backprop": "store"}, {"state": "exact64"}):
        stack = make(Scaled, **choices).double()
        x = features().requires_grad_()
        own = torch.linspace(0.5, 1.0, D, dtype=torch.double).expand(N, D).contiguous().requires_grad_()
        loss = stack(x, split(own), seed=0).pow(2).sum()
        first = torch.autograd.grad(loss, [x, own, *stack.parameters()], retain_graph=True)
        second = torch.autograd.grad(loss, [x, own, *stack.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        found.append(first)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_without_a_graph_nothing_is_rounded_and_nothing_remembered() -> None:
    stack, x = make(state="exact").double(), features()
    with torch.no_grad():  # 32 bits would be off by 1e-9
        assert_close(stack(x, seed=0), make(backprop="store").double()(x, seed=0))
    assert stack.exact is not None
    assert all(value != value for value in stack.exact.largest)


# ---------------------------------------------------------------------- ranges, overflow, what is not finite
def set_gain(stack: Stack, gain: float, layer: int) -> None:
    for block in stack.layers[layer]:
        block.get_submodule("linear").gain = gain


def test_a_state_that_outgrows_its_scale_is_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """With the value, the gradient and the running statistics of one right step, and a warning that names the layer."""
    x = features(dtype=torch.float32)
    stack, plain = make(Counted, state="exact"), make(Counted, backprop="store")
    for either in (stack, plain):
        either(x, seed=0).sum().backward()
        either.zero_grad()
        set_gain(either, 500.0, layer=3)
    with caplog.at_level(logging.WARNING, "revgnn.stack"):
        y, expected = stack(x, seed=1), plain(x, seed=1)
    assert stack.exact is not None and stack.exact.rescales == 1
    assert "outgrew its scale at layer 3" in caplog.text
    assert relative_error(y.detach(), expected.detach()) < 1e-5
    y.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    for (name, a), b in zip(stack.named_parameters(), plain.parameters(), strict=True):
        assert float((a.grad - b.grad).norm()) <= 1e-4 * float(b.grad.norm()) + 1e-6, name
    for a, b in zip(stack.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    stack(x, seed=2).sum().backward()
    assert stack.exact.rescales == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_by_its_layer(value: float) -> None:
    x = features(dtype=torch.float32)
    stack = make(Counted, state="exact", segments=2)
    stack(x, seed=0)
    before = [buffer.clone() for buffer in stack.buffers()]
    set_gain(stack, value, layer=4)
    with pytest.raises(FloatingPointError, match="layer 4 reads or adds a value that is not finite"):
        stack(x, seed=0)
    # The second run, to which the layer belongs, has left its statistics as they were.
    moved = [not torch.equal(a, b) for a, b in zip(stack.buffers(), before, strict=True)]
    assert any(moved[: len(moved) // 2]) and not any(moved[len(moved) // 2 :])
    x[3, 2] = value
    with pytest.raises(FloatingPointError, match="layer 0"):
        make(state="exact")(x, seed=0)


def test_a_range_that_never_settles_is_an_error() -> None:
    stack = make(Doubling, state="exact")
    stack.checked.repeats.update(block for blocks in stack.layers for block in blocks)
    with pytest.raises(OverflowError, match="layers 0 to 5 outgrew 4 scales in a row"):
        stack(features(dtype=torch.float32), seed=0)


class Doubling(Linear):
    """No pure function: small where it is measured."""

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        return super().forward(x, seed) * (1.0 if is_recomputing() else 1e4)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_ranges_at_the_edges(value: float) -> None:
    stack = make(state="exact", drift_every=1)
    for module in stack.modules():
        if isinstance(module, Linear):
            module.gain = value
    x = (features(dtype=torch.float32) * value).requires_grad_()
    stack(x, seed=0).sum().backward()
    assert stack.drift == 0.0
    assert bool(x.grad.isfinite().all())


def test_no_nodes_and_no_layers() -> None:
    for num_nodes, depth in ((0, 3), (4, 0)):
        stack = make(state="exact", num_layers=depth)
        x = torch.randn(num_nodes, D, requires_grad=True)
        y = stack(x, seed=0)
        y.sum().backward()
        assert y.shape == x.grad.shape == (num_nodes, D)


# ---------------------------------------------------------------------- from one process to the next
def test_a_resumed_stack_gives_the_same_bits() -> None:
    x = features(dtype=torch.float32)
    stack = make(state="exact")
    stack(x * 50, seed=0)
    resumed = make(state="exact", seed=1)
    resumed.load_state_dict(stack.state_dict())
    assert resumed.exact is not None and stack.exact is not None
    assert resumed.exact.largest == stack.exact.largest
    assert torch.equal(resumed(x, seed=1), stack(x, seed=1))
    fresh = make(state="exact")
    assert not torch.equal(fresh(x, seed=1), stack(x, seed=1))
    assert torch.equal(copy.deepcopy(stack)(x, seed=1), stack(x, seed=1))


def test_weights_go_from_any_state_to_any_other() -> None:
    plain, exact = make(), make(state="exact")
    assert "largest" not in plain.state_dict()
    assert exact.state_dict()["largest"].shape == (6,)
    assert not plain.load_state_dict(exact.state_dict()).unexpected_keys
    assert not exact.load_state_dict(plain.state_dict()).missing_keys
    nn.Sequential(plain).load_state_dict(nn.Sequential(exact).state_dict())


# ---------------------------------------------------------------------- drift: watched and searched
MANY = 600
"""Nodes, so many that rounding to bfloat16 flips some of the values that are computed again, whatever rounds them."""


def test_the_monitor_warns_and_can_be_asked() -> None:
    graph, x = make_graph(MANY), features(MANY, torch.float32)
    stack = make(lambda width: Smooth(width, "layer"), num_layers=64, drift_every=2)
    assert stack.drift is None
    with torch.autocast("cpu", torch.bfloat16):
        loss = stack(x, graph, seed=0).sum()
    with pytest.warns(DriftWarning, match=r"input of layer 0 was reconstructed .* segments='auto' .* state='exact'"):
        loss.backward()
    first = stack.drift
    assert first is not None and first > 1e-4
    stack(x, graph, seed=0).sum().backward()
    assert stack.drift == first
    stack(x, graph, seed=0).sum().backward()
    assert stack.drift is not None and stack.drift < 1e-4
    stack.drift_every = 0
    kept = saved_bytes(lambda: stack(x, graph, seed=0))
    stack.drift_every = 1
    assert saved_bytes(lambda: stack(x, graph, seed=0)) == kept + x.numel() * 4


def test_the_monitor_sees_all_runs() -> None:
    stack = make(lambda width: Smooth(width, "batch"), num_layers=64, segments=4, drift_every=1)
    stack(features(dtype=torch.float32), make_graph(), seed=0).sum().backward()
    assert set(stack.monitor.errors) == {0, 16, 32, 48}
    assert stack.drift == max(stack.monitor.errors.values())


class Forgetful(Linear):
    """Drops by numbers that are not torch's, against the contract."""

    numbers = random.Random(0)

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        torch.manual_seed(self.numbers.randrange(2**30))
        return F.dropout(super().forward(x, seed), 0.5)


class Moving(Linear):
    """Reads a counter that it moves at every evaluation, and that is neither a buffer nor an attribute."""

    counts = itertools.count(1)

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        return super().forward(x, seed) * next(self.counts)


@pytest.mark.parametrize("state", ["float", *EXACT])
@pytest.mark.parametrize("broken", [Forgetful, Moving])
@pytest.mark.parametrize("segments", [1, 3])
def test_check_inverse_names_the_impure_layer(broken: Any, state: Any, segments: int) -> None:
    made = []

    def block(width: int) -> nn.Module:
        made.append((broken if len(made) // 2 == 3 else Linear)(width))
        return made[-1]

    stack = make(block, state=state, segments=segments)
    found = check_inverse(stack, features(dtype=torch.float32), seed=0)
    assert found.layer == 3
    assert found.error > 1e-2
    assert max(found.errors[4:]) < 1e-6
    assert "layer 3 is the first" in str(found)


def test_check_inverse_measures_drift() -> None:
    graph, x = make_graph(MANY), features(MANY, torch.float32)
    stack = make(lambda width: Smooth(width, "layer"), num_layers=64)
    before = [buffer.clone() for buffer in stack.buffers()]
    found = check_inverse(stack, x, graph, seed=0)
    assert found.layer is None and 0 < found.error < 1e-4
    assert found.errors[0] > 5 * found.errors[-1] > 0
    strict = check_inverse(stack, x, graph, seed=0, limit=found.errors[32])
    assert strict.layer is not None and strict.layer < 63 and strict.error > found.errors[32]
    assert all(torch.equal(a, b) for a, b in zip(stack.buffers(), before, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert check_inverse(stack, x, graph, seed=0).layer is not None
        exact = check_inverse(make(lambda width: Smooth(width, "batch"), num_layers=112, state="exact"), x, graph)
    assert exact.layer is None and exact.errors == (0.0,) * 112
    assert str(exact) == "all 112 layers were reconstructed to a relative error of 0.0e+00 or less"
    with pytest.raises(ValueError, match="check_inverse needs backprop='reversible', got 'store'"):
        check_inverse(make(backprop="store"), x)


# ---------------------------------------------------------------------- what cannot be
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "fixed"}, "state='fixed' is not known; choose one of float, exact, exact64"),
        ({"state": "exact", "backprop": "store"}, "state='exact' applies to reconstructed states; set backprop="),
        ({"drift_every": 5, "backprop": "checkpoint"}, "drift_every=5 applies to reconstructed states"),
        ({"drift_every": -1}, "drift_every must be 0"),
        ({"segments": "many"}, "segments='many' is not known; give a number, 'auto' or None"),
        ({"segments": "auto", "backprop": "store"}, "leave it None"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_an_equilibrium_has_no_states_to_hold() -> None:
    for choice in ({"state": "exact"}, {"segments": "auto"}, {"memory_budget": "1GB"}):
        with pytest.raises(ValueError, match="segments, state and memory_budget apply to recomputed layers"):
            ModelConfig(backprop="implicit", coupling="residual", weight_tied=True, **choice)


# ---------------------------------------------------------------------- the page in docs
def test_the_drift_table_is_generated(tmp_path: Path) -> None:
    page = tmp_path / "drift.md"
    drift.main(["--quick", "--write", str(page)])
    text = page.read_text(encoding="utf-8")
    for word in ("LayerNorm, float32", "BatchNorm, bf16 autocast", "| exact64 | 0 / ", "PyG GroupAddRev", "2 layers"):
        assert word in text
