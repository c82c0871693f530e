"""A memory budget: as many layers stored as fit, the gradient unchanged, the peak below it, and as few evaluations as
that allows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from revgnn.graph import Graph
from revgnn.measure import held_memory, peak_memory
from revgnn.nn.block import Block
from revgnn.nn.convs import CONVS, GATOptions
from revgnn.nn.model import ModelConfig
from revgnn.nn.norms import NormActDrop
from revgnn.ops import using
from revgnn.stack import Stack, is_recomputing, parse_bytes, split
from revgnn.stack.budget import LayerCost, LiveBytes
from revgnn.stack.fused_head import FusedHead
from tolerances import relative_error

# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started the suite.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import budget

N, D, L = 300, 16, 8


def make_graph() -> Graph:
    generator = torch.Generator().manual_seed(0)
    return Graph.from_edge_index(torch.randint(N, (2, 6 * N), generator=generator), N)


GRAPH = make_graph()


class Wide(nn.Module):
    """Keeps far more than its input: two hidden layers of eight times the width."""

    calls = 0
    rebuilds = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, 8 * width), nn.Linear(8 * width, width)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, seed: int, *context: Any) -> Tensor:
        Wide.calls += 1
        if is_recomputing():
            Wide.rebuilds += 1
        else:
            self.steps += 1
        out: Tensor = self.last(torch.tanh(self.first(x)))
        return out * context[0] if context else out


def make(block: Any = Wide, **arguments: Any) -> Stack:
    torch.manual_seed(0)
    arguments = {"channels": D, "num_layers": L, "coupling": "grouped", "backprop": "reversible", **arguments}
    return Stack(block, **arguments)


def house(conv: str, norm: Any) -> Any:
    options = {"options": GATOptions(heads=2)} if conv == "gat" else {}
    return lambda width: Block(NormActDrop(width, norm, dropout=0.2), CONVS[conv](width, width, **options))


def stream(num_nodes: int = N) -> Tensor:
    return torch.randn(num_nodes, D, generator=torch.Generator().manual_seed(1)).requires_grad_()


def step(stack: Stack, x: Tensor, *context: Any) -> list[Tensor]:
    y = stack(x, *context, seed=0)
    return [y.detach(), *torch.autograd.grad(y, [x, *stack.parameters()], torch.ones_like(y))]


def cost_of(stack: Stack) -> LayerCost:
    assert stack.budget is not None and stack.budget.cost is not None
    return stack.budget.cost


def budgets(stack: Stack, x: Tensor, *context: Any) -> list[int]:
    """For every number of stored layers, a budget that admits it."""
    step(stack, x, *context)
    cost = cost_of(stack)
    return [cost.need(k, L, stack._segments_of(L - k)) for k in range(L + 1)]


# ---------------------------------------------------------------------- the peak
@pytest.mark.parametrize("state", ["float", "exact"])
@pytest.mark.parametrize("ops", ["auto", "reference"])
@pytest.mark.parametrize("conv", CONVS)
def test_the_peak_stays_under_the_budget_and_fills_it(conv: str, ops: Any, state: Any) -> None:
    """Measured by the allocator's own events; gradients of parameters, which are no activations, apart."""
    x = stream()
    with using(ops):
        generous = make(house(conv, "batch"), state=state, memory_budget="1TB")
        limits = budgets(generous, x, GRAPH)
        assert generous.num_stored == L
        gradients = sum(p.numel() * p.element_size() for p in generous.parameters())
        for k in (0, 3, L):
            stack = make(house(conv, "batch"), state=state, memory_budget=limits[k])
            step(stack, x, GRAPH)
            assert stack.num_stored >= k
            peak = peak_memory(lambda stack=stack: step(stack, x, GRAPH)) - gradients
            assert peak <= limits[k]
            assert peak >= 0.6 * limits[k] - gradients


def test_the_least_budget_holds_for_a_stream_that_grows() -> None:
    """Its bits that are put aside are counted in."""
    x = stream()
    choices = {"state": "exact", "num_layers": 64}
    with pytest.raises(ValueError, match="too little") as caught:
        make(house("gcn", "batch"), **choices, memory_budget=1)(x, GRAPH, seed=0)
    least = int(str(caught.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    stack = make(house("gcn", "batch"), **choices, memory_budget=least)
    step(stack, x, GRAPH)
    assert stack.exact is not None and stack.exact.largest[-1] > 8 * stack.exact.largest[0]
    gradients = sum(p.numel() * p.element_size() for p in stack.parameters())
    assert peak_memory(lambda: step(stack, x, GRAPH)) - gradients <= least


@pytest.mark.parametrize("segments", [1, 3])
def test_what_follows_the_stack_is_planned_with_it(segments: int) -> None:
    """With a tail the last state is not handed on, and its copy not planned for."""
    x, head = stream(), nn.Linear(D, 5)
    tail = FusedHead(head, lambda rows, seed: head(rows), 0)

    def once(stack: Stack) -> object:
        y = stack(x, GRAPH, seed=0, head=tail)
        return torch.autograd.grad(y.sum(), [x, *stack.parameters(), *head.parameters()])

    generous = make(house("gcn", "batch"), memory_budget="1TB", segments=segments)
    once(generous)
    cost = cost_of(generous)
    assert cost.with_head < cost.recomputed
    stack = make(house("gcn", "batch"), memory_budget=cost.need(0, L, segments), segments=segments)
    once(stack)
    assert stack.num_stored == 0
    gradients = sum(p.numel() * p.element_size() for p in (*stack.parameters(), *head.parameters()))
    peak = peak_memory(lambda: once(stack))
    assert peak - gradients <= cost.need(0, L, segments) <= 1.1 * peak


def test_what_a_stored_layer_keeps_is_what_the_trial_found() -> None:
    x = stream()
    stack = make(house("gcn", "layer"), memory_budget="1TB")
    step(stack, x, GRAPH)
    shallow, deep = (
        held_memory(lambda depth=depth: make(house("gcn", "layer"), backprop="store", num_layers=depth)(x, GRAPH))
        for depth in (3, 7)
    )
    per_layer = sum(p.numel() * 4 for blocks in stack.layers[:1] for p in blocks.parameters())
    assert abs((deep - shallow) / 4 - per_layer - cost_of(stack).per_layer) <= 0.02 * cost_of(stack).per_layer


# ---------------------------------------------------------------------- the choice
@pytest.mark.parametrize("state", ["float", "exact", "exact64"])
@pytest.mark.parametrize("segments", [None, 4, "auto"])
def test_more_memory_means_fewer_evaluations_and_the_same_gradient(segments: Any, state: Any) -> None:
    x = stream()
    expected = step(make(backprop="store"), x)
    limits = budgets(make(memory_budget="1TB", segments=segments, state=state), x)
    stored = []
    for limit in sorted(set(limits)):
        stack = make(memory_budget=limit, segments=segments, state=state)
        step(stack, x)
        Wide.calls = Wide.rebuilds = 0
        found = step(stack, x)
        assert Wide.calls == 2 * L + 2 * (L - stack.num_stored)
        assert Wide.rebuilds == 2 * (L - stack.num_stored)
        stored.append(stack.num_stored)
        for a, b in zip(found, expected, strict=True):
            assert relative_error(a, b) < 1e-5
    assert stored == sorted(stored)
    assert stored[0] <= 1 and stored[-1] == L
    assert len(set(stored)) >= L - 2


def test_a_trial_leaves_nothing_behind() -> None:
    """No buffer moves, no gradient appears, the caller's hooks see nothing, and the generator stays where it was."""
    x = stream()
    stack = make(memory_budget="1TB")
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    state = torch.get_rng_state()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = stack(x, seed=0)
    first = len(packed)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(int(buffer) == 1 for buffer in stack.buffers())
    assert all(parameter.grad is None for parameter in stack.parameters())
    packed.clear()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        stack(x, seed=0)
    assert len(packed) == first
    del y


def test_a_cost_is_measured_once_for_every_kind_of_input() -> None:
    stack = make(memory_budget="1TB")
    scale = torch.ones(D)
    marker = object()

    def calls(*arguments: Any) -> int:
        Wide.calls = 0
        stack(*arguments, seed=0)
        return Wide.calls - 2 * L

    trial = calls(stream(), split(scale))
    assert trial == 2 * 3 + 2
    assert calls(stream(), split(scale)) == 0
    assert calls(stream(N + 1), split(scale)) == trial
    assert calls(stream(N + 1), split(scale.requires_grad_())) == trial
    assert calls(stream(N + 1), split(scale), marker) == trial
    assert calls(stream(N + 1), split(scale), marker) == 0
    assert calls(stream(N + 1), split(scale), object()) == trial
    with torch.autocast("cpu", torch.bfloat16):
        assert calls(stream(N + 1), split(scale), marker) == trial
    with torch.no_grad():
        assert calls(stream(N + 2), split(scale)) == 0


def test_context_gradients_cross_from_stored_to_rebuilt_layers() -> None:
    x = stream()
    scale = torch.linspace(0.5, 1.0, D).requires_grad_()
    limits = budgets(make(memory_budget="1TB"), x, split(scale))
    found = []
    for choices in ({"backprop": "store"}, {"memory_budget": limits[3]}):
        stack = make(**choices)
        y = stack(x, split(scale), seed=0)
        found.append(torch.autograd.grad(y.pow(2).sum(), [x, scale, *stack.parameters()]))
    assert stack.num_stored in (3, 4)
    for a, b in zip(*found, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_shallow_stacks(depth: int) -> None:
    x = stream()
    expected = make(backprop="store", num_layers=depth)(x, seed=0)
    assert torch.equal(make(memory_budget="1TB", num_layers=depth)(x, seed=0), expected)


def test_too_little_is_an_error_that_says_what_would_do() -> None:
    x = stream()
    limits = budgets(make(memory_budget="1TB"), x)
    with pytest.raises(ValueError, match=r"memory_budget=1,000 bytes is too little.* needs ([\d,]+) bytes") as caught:
        make(memory_budget=1000)(x, seed=0)
    least = int(str(caught.value).split("needs ")[1].split(" bytes")[0].replace(",", ""))
    assert limits[0] // 2 < least <= limits[0]
    make(memory_budget=least)(x, seed=0)
    with pytest.raises(ValueError, match="too little"):
        make(memory_budget=least - 1)(x, seed=0)


# ---------------------------------------------------------------------- sizes, and counting
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (12345, 12345),
        ("12345", 12345),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("500K", 500_000),
        ("3Mi", 3 * 2**20),
        ("1TB", 10**12),
        ("7 B", 7),
    ],
)
def test_sizes_are_read(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "two", "2XB", "1e9", "2 G B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a number of bytes such as 2000000000, 2GB or 1\.5GiB; got"):
        parse_bytes(text)


def test_sizes_are_checked_where_they_come_in() -> None:
    for size in (0, -1, "0GB"):
        with pytest.raises(ValueError, match="memory_budget must be above 0 bytes"):
            make(memory_budget=size)
    with pytest.raises(ValueError, match="memory_budget='2GB' applies to reconstructed states"):
        ModelConfig(memory_budget="2GB", coupling="residual", backprop="store")
    assert ModelConfig(memory_budget="2GB").stack_arguments()["memory_budget"] == "2GB"


def test_live_bytes_agree_with_the_allocator() -> None:
    weight = torch.randn(200, 200, requires_grad=True)

    def work() -> Tensor:
        x = torch.zeros(100, 200)
        y = torch.tanh(x @ weight.t())
        return torch.autograd.grad((y.view(-1)[5:] * 2).sum(), weight)[0]

    work()
    with LiveBytes() as live:
        result = work()
    assert live.now() == result.numel() * 4
    assert abs(live.peak - peak_memory(work)) <= 0.01 * live.peak


def test_the_budget_table_is_generated(tmp_path: Path) -> None:
    page = tmp_path / "memory_budget.md"
    budget.main(["--quick", "--write", str(page)])
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert "| gen | " in text and "6 layers of 16 channels" in text and "1.00 |" in text
