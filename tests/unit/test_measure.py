"""Memory against allocations whose size is known, in and around operators; time against a sleep."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from revgnn.measure import StepMemory, held_memory, median_seconds, peak_memory, saved_bytes, tensor_bytes

KB = 1000


def _floats(count: int) -> Tensor:
    return torch.empty(count // 4)


def test_peak_is_the_most_that_is_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            block = _floats(100 * KB)
            del block

    def together() -> None:
        first, second = _floats(100 * KB), _floats(200 * KB)
        del first
        third = _floats(50 * KB)
        del second, third

    assert peak_memory(one_after_the_other) == 100 * KB
    assert peak_memory(together) == 300 * KB
    assert peak_memory(lambda: None) == 0


def test_peak_sees_temporaries_inside_an_operator() -> None:
    x = torch.randn(500, 50)
    # logsumexp returns 500 numbers, and makes exp(x - max) of the size of x on the way.
    peak = peak_memory(lambda: torch.logsumexp(x, 1))
    assert 500 * 50 * 4 <= peak <= 2 * 500 * 50 * 4 + 3 * 500 * 4


def test_peak_sees_the_backward() -> None:
    x = torch.randn(250, 100, requires_grad=True)

    def step() -> None:
        # The gradient of the sum is an expanded scalar; that of the square is as large as x and stays in x.grad.
        x.square().sum().backward()

    peak = peak_memory(step)
    assert 100 * KB <= peak <= 400 * KB
    x.grad = None


def test_memory_from_before_is_not_counted() -> None:
    before = [_floats(400 * KB)]

    def release_and_allocate() -> Tensor:
        before.clear()
        return _floats(100 * KB)

    assert peak_memory(release_and_allocate) == 100 * KB


def test_held_is_what_the_result_keeps() -> None:
    def keep_one_of_two() -> Tensor:
        _floats(500 * KB)
        return _floats(100 * KB)

    assert held_memory(keep_one_of_two) == 100 * KB
    assert held_memory(lambda: None) == 0
    x = torch.randn(250, 100, requires_grad=True)
    # exp keeps its output, which is also the result.
    assert held_memory(lambda: x.exp()) == 100 * KB
    assert held_memory(lambda: x.exp().exp()) == 200 * KB


def test_held_sees_what_a_function_hides_in_its_context() -> None:
    class Hiding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.hidden = x * 2
            return x * 1

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    x = torch.randn(250, 100, requires_grad=True)
    assert saved_bytes(lambda: Hiding.apply(x)) == 0
    assert held_memory(lambda: Hiding.apply(x)) == 200 * KB


def test_an_error_inside_ends_the_recording() -> None:
    def fail() -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        peak_memory(fail)
    assert peak_memory(lambda: _floats(100 * KB)) == 100 * KB


def test_one_recording_at_a_time() -> None:
    with pytest.raises(RuntimeError, match="recorded already"):
        peak_memory(lambda: peak_memory(lambda: None))
    assert peak_memory(lambda: _floats(100 * KB)) == 100 * KB


def test_recording_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(lambda: _floats(100 * KB))
    assert capfd.readouterr() == ("", "")


def test_saved_bytes_of_one_product() -> None:
    a, b = (torch.randn(50, 50, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: a * b) == 2 * 50 * 50 * 4
    assert saved_bytes(lambda: a * a) == 50 * 50 * 4
    assert saved_bytes(lambda: a + b) == 0
    with torch.no_grad():
        assert saved_bytes(lambda: a * b) == 0


def test_saved_bytes_leaves_parameters_out_and_counts_storages_once() -> None:
    linear = nn.Linear(30, 70)
    x = torch.randn(10, 30)
    # The weight's gradient needs x; the weight itself is saved as a transposed view and does not count.
    assert saved_bytes(lambda: linear(x.requires_grad_())) == 10 * 30 * 4
    whole = torch.randn(10, 60, requires_grad=True)
    left, right = whole.chunk(2, dim=1)
    assert saved_bytes(lambda: left.square() + right.square()) == 10 * 60 * 4


def test_saved_bytes_grow_with_depth_when_everything_is_stored() -> None:
    x = torch.randn(20, 8)

    def saved(depth: int) -> int:
        net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(depth)))
        return saved_bytes(lambda: net(x))

    # Each tanh keeps its output, which the next linear keeps too; the first linear keeps x.
    assert [saved(depth) for depth in (1, 2, 10)] == [20 * 8 * 4 * (depth + 1) for depth in (1, 2, 10)]


def test_a_backward_may_run_while_saved_bytes_are_counted() -> None:
    x = torch.randn(20, 8, requires_grad=True)
    saved_bytes(lambda: x.exp().sum().backward())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, x.detach().exp(), rtol=0, atol=0)


def test_tensor_bytes_counts_views_once() -> None:
    x = torch.zeros(10, 10)
    assert tensor_bytes([x, x[0], x.T, torch.zeros(3, dtype=torch.int64)]) == 400 + 24
    assert tensor_bytes([]) == 0


def test_median_seconds() -> None:
    now, taken = 0.0, [200.0, 1.0, 30.0, 2.0]

    def work() -> None:
        nonlocal now
        now += taken.pop(0)

    assert median_seconds(work, repeats=3, warmup=1, clock=lambda: now) == 2.0
    assert not taken


def test_step_memory_counts_what_was_there_and_the_steps() -> None:
    weights = torch.zeros(25 * KB)
    meter = StepMemory("cpu", held=[weights, weights.view(-1)])
    assert meter() == 100 * KB
    block = _floats(200 * KB)
    del block
    meter.step()
    assert meter() == 300 * KB
    assert "first 1 training step" in meter.how


def test_step_memory_follows_what_stays_from_one_epoch_to_the_next() -> None:
    meter = StepMemory("cpu")
    meter()
    gradient, state = _floats(100 * KB), _floats(200 * KB)
    meter.step()
    assert meter() == 300 * KB
    evaluation = _floats(900 * KB)
    del evaluation
    meter()
    activation = _floats(50 * KB)
    del gradient
    gradient = _floats(100 * KB)
    meter.step()
    assert meter() == 350 * KB, "the old gradient was released before the new one came; the evaluation does not count"
    del activation, gradient, state


def test_step_memory_stops_after_a_few_steps() -> None:
    meter = StepMemory("cpu")
    meter()
    for step in range(20):
        block = _floats(100 * KB if step < StepMemory.RECORDED_STEPS else 900 * KB)
        del block
        meter.step()
    assert meter() == 100 * KB
    meter()
    more = _floats(900 * KB)
    del more
    assert meter() == 100 * KB, "later epochs are not recorded"
    unfinished = StepMemory("cpu")
    unfinished()
    unfinished.close()
    assert peak_memory(lambda: _floats(100 * KB)) == 100 * KB, "closing has ended the recording"


def test_step_memory_can_record_again_and_knows_what_is_still_there() -> None:
    meter = StepMemory("cpu")
    meter()
    state, gone = _floats(100 * KB), _floats(500 * KB)
    for _ in range(StepMemory.RECORDED_STEPS):
        meter.step()
    assert meter() == 600 * KB
    del gone
    meter.again()
    meter()
    solving = _floats(300 * KB)
    meter.step()
    del solving
    assert meter() == 600 * KB and max(meter.allocation_trace["step"][-2:])[0] == 400 * KB
    assert "first 4 training step(s) and 1 of another way" in meter.how
    del state


@pytest.mark.parametrize(
    ("first", "peak"),
    [
        # While the first batch is made nothing waits, and no step is taken.
        (500 * KB, 500 * KB + 10 * KB),
        # A step, its batch, the making of another, and what waits.
        (80 * KB, 100 * KB + 10 * KB + 30 * KB + 7 * KB),
    ],
)
def test_step_memory_sets_batches_that_another_thread_makes_beside_the_steps(first: int, peak: int) -> None:
    meter = StepMemory("cpu", waiting=lambda: 7 * KB)
    meter()
    for size in (first, 30 * KB):
        with meter.making():
            temporary = _floats(size)
            batch = _floats(10 * KB)
            del temporary
        activation = _floats(100 * KB)
        del activation, batch
        meter.step()
    assert meter() == peak
    assert meter.beside == 30 * KB + 7 * KB


def test_step_memory_of_a_training_step_is_its_parts() -> None:
    linear = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.Adam(linear.parameters())
    x = torch.randn(50, 100)
    meter = StepMemory("cpu", held=[linear.weight, x])
    for _ in range(2):
        meter()
        loss = linear(x).square().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        del loss
        meter.step()
        peak = meter()
    weight, activation = 100 * 100 * 4, 50 * 100 * 4
    # In the second step: weight, gradient, two moments, x and output at least; the work space of Adam besides at most.
    assert 4 * weight + 2 * activation <= peak <= 7 * weight + 4 * activation


@pytest.mark.gpu
def test_cuda_counts_by_its_allocator() -> None:
    def together() -> None:
        first, second = (torch.empty(2**20, device="cuda") for _ in range(2))
        del first, second

    assert peak_memory(together, "cuda") == 2 * 2**22
    assert held_memory(lambda: torch.empty(2**20, device="cuda"), "cuda") == 2**22
    meter = StepMemory("cuda")
    meter()
    together()
    assert meter() >= 2 * 2**22


_UNTOUCHED = """
import ctypes
import torch
from revgnn.measure import peak_memory

class MallInfo(ctypes.Structure):
    _fields_ = [(f"field_{place}", ctypes.c_size_t) for place in range(10)]

about = ctypes.CDLL(None).mallinfo2
about.restype = MallInfo

def allocate():
    before = about().field_3  # blocks that are mapped by themselves
    block = torch.empty(2**20, dtype=torch.uint8)
    print(about().field_3 - before)

def twice():
    allocate()
    allocate()

peak_memory(twice)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.skipif(any(name.startswith("MALLOC_") for name in os.environ), reason="the allocator was set from outside")
def test_recording_leaves_malloc_as_it_is() -> None:
    """A size that was mapped by itself once comes from the heap from then on, unless someone has set what is mapped."""
    done = subprocess.run([sys.executable, "-c", _UNTOUCHED], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split()[1] == "0"


def _adam_steps(meter: StepMemory, depth: int) -> int:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(100, 100), nn.Tanh()) for _ in range(depth)))
    optimizer, x = torch.optim.Adam(net.parameters(), weight_decay=0.1), torch.randn(50, 100)
    meter._holding = iter([*net.parameters(), x])
    meter()
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(net(x).square().sum())
        optimizer.step()
        meter.step()
    return meter()


@pytest.mark.parametrize("depth", [1, 12])
def test_an_update_that_is_not_recorded_is_counted(depth: int) -> None:
    """The state that it made stands beside later steps, and what it takes meanwhile is bounded from above."""
    recorded, counted = (_adam_steps(StepMemory("cpu", detailed=detailed), depth) for detailed in (True, False))
    # The numbers that Adam makes for each parameter are a few bytes.
    assert recorded - 1000 <= counted <= recorded + 2 * 100 * 100 * 4
    assert not _global_optimizer_pre_hooks, "nobody listens to updates any more"


def test_a_phase_begins_between_a_forward_and_its_backward() -> None:
    x = torch.randn(250, 100, requires_grad=True)
    meter = StepMemory("cpu")
    meter()
    y = x.exp().exp().sum()
    meter.phase("backward")
    y.backward()
    meter.close()
    assert max(meter.allocation_trace["step"])[0] >= 200 * KB
    assert max(meter.allocation_trace["backward"])[0] >= 300 * KB
    assert meter.allocation_trace["backward"][-1][0] <= 101 * KB, "the gradient alone is left"
    x.grad = None


def test_steps_that_are_not_cut_keep_their_peak_alone() -> None:
    meter = StepMemory("cpu", detailed=False)
    meter()
    block = _floats(100 * KB)
    del block
    meter.step()
    assert meter() == 100 * KB and meter.allocation_trace == {}
