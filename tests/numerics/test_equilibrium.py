"""The equilibrium module: warnings, seeds, statistics, saved bytes, pre-training, the penalty, copies, compilation."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from revgnn.implicit.equilibrium import Equilibrium, jacobian_penalty, unrolled
from revgnn.implicit.fixed_point import ConvergenceWarning
from revgnn.implicit.solvers import Solver
from revgnn.stack import is_recomputing, split

NODES, CHANNELS = 13, 6


class Diffusion(nn.Module):
    """``tanh(A z W * mask + x + bias)`` with a dropout mask that is a function of the seed; a contraction."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, CHANNELS, bias=False)

    def forward(self, z: Tensor, seed: int, x: Tensor, adjacency: Tensor, bias: Tensor) -> Tensor:
        mask = torch.rand(z.shape, generator=torch.Generator().manual_seed(seed)) < 0.8
        return torch.tanh(self.linear(adjacency @ z) * mask + x + bias)


class Affine(nn.Module):
    """``tanh(z W + x)``: the smallest block; a contraction for a small weight."""

    def __init__(self, channels: int = CHANNELS, gain: float = 0.4) -> None:
        super().__init__()
        self.weight = nn.Parameter(gain * torch.eye(channels) + 0.05 * torch.randn(channels, channels))

    def forward(self, z: Tensor, seed: int, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.to(z.dtype) + x)


class _Rotation(nn.Module):
    """A map that turns and stretches: plain iteration runs away from its fixed point."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1.2 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))

    def forward(self, z: Tensor, seed: int, x: Tensor) -> Tensor:
        return z @ self.weight + x


class _Counted(nn.Module):
    """Counts the evaluations that may change buffers, and remembers the state of the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.state = torch.empty(0)
        # A list, because a plain number is put back after an evaluation that repeats another one.
        self.with_grad: list[bool] = []

    def forward(self, z: Tensor, seed: int, x: Tensor) -> Tensor:
        self.with_grad.append(torch.is_grad_enabled())
        if not is_recomputing():
            self.seen += 1
            self.state = z.detach().clone()
        return torch.tanh(0.5 * z + x)


class _Masked(nn.Module):
    def forward(self, z: Tensor, seed: int, x: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(0.5 * z * mask + x)


def graph_problem() -> tuple[Diffusion, list[Tensor]]:
    """A block in float64 with its input, adjacency and bias; the input and the bias require grad."""
    adjacency = (torch.rand(NODES, NODES) < 0.3).double()
    adjacency /= adjacency.sum(1, keepdim=True).clamp(min=1)
    x = torch.randn(NODES, CHANNELS, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CHANNELS, dtype=torch.float64, requires_grad=True)
    return Diffusion().double(), [x, adjacency, bias]


def gradients(output: Tensor, block: nn.Module, *others: Tensor) -> list[Tensor]:
    """Gradients of a fixed random functional of the output to every parameter and to the others."""
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return list(torch.autograd.grad((output * cotangent.to(output)).sum(), [*block.parameters(), *others]))


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


# ---------------------------------------------------------------- warnings and traces
def test_unconverged_solves_warn_at_the_first_and_the_tenth() -> None:
    model = Equilibrium(_Rotation(), Solver(name="picard", max_iter=6), backward=Solver(name="picard", max_iter=5))
    x = torch.ones(3, 2)
    seen = []
    for _ in range(10):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(x).sum().backward()
        seen.append([str(warning.message) for warning in caught])
        assert all(warning.category is ConvergenceWarning for warning in caught)
    assert [len(messages) for messages in seen] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert model.failures == {"forward": 10, "backward": 10}
    trace, back = model.forward_trace, model.backward_trace
    assert trace is not None and back is not None and (trace.iterations, back.iterations) == (6, 5)
    forward, backward = seen[0]
    assert forward.startswith(
        f"the forward solve did not converge: picard reached relative residual {trace.residual:.2e}, not tol=1e-03, "
        "in 6 iterations; its best iterate is used. Remedy: raise max_iter"
    )
    assert backward.startswith("the backward solve did not converge") and "in 5 iterations" in backward
    assert seen[9][0].endswith("so far: 10.")


def test_broyden_solves_what_runs_away_from_picard() -> None:
    block = _Rotation()
    x = torch.ones(3, 2, requires_grad=True)
    z = Equilibrium(block, Solver(tol=1e-06))(x)
    expected = torch.linalg.solve((torch.eye(2) - block.weight).T, x.T).T
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)
    found = gradients(z, block, x)
    assert relative_error(found, gradients(expected, block, x)) < 1e-4


# ---------------------------------------------------------------- context, seeds, statistics
def test_split_argument_arrives_whole() -> None:
    mask = torch.ones(NODES, CHANNELS, requires_grad=True)
    model = Equilibrium(_Masked(), Solver(tol=1e-05, max_iter=60))
    model(torch.randn(NODES, CHANNELS), split(mask)).sum().backward()
    assert mask.grad is not None and mask.grad.shape == mask.shape


def test_seed_fixes_the_mask_and_none_draws_one_in_training() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-08))
    assert torch.equal(model(x, adjacency, bias, seed=1), model(x, adjacency, bias, seed=1))
    assert not torch.equal(model(x, adjacency, bias, seed=1), model(x, adjacency, bias, seed=2))
    assert not torch.equal(model(x, adjacency, bias), model(x, adjacency, bias))
    torch.manual_seed(3)
    first = model(x, adjacency, bias)
    torch.manual_seed(3)
    assert torch.equal(first, model(x, adjacency, bias))
    model.eval()
    assert torch.equal(model(x, adjacency, bias), model(x, adjacency, bias))


@pytest.mark.parametrize("mode", Equilibrium.MODES)
def test_statistics_move_once_per_training_step(mode: str) -> None:
    block = _Counted()
    model = Equilibrium(block, Solver(tol=1e-05, max_iter=60), mode=mode)
    z = model(torch.randn(NODES, CHANNELS, requires_grad=True))
    z.sum().backward()
    assert int(block.seen) == 1
    if mode == "solve":
        assert torch.equal(block.state, z) and sum(block.with_grad) == 1
        model.eval()(torch.randn(NODES, CHANNELS))
        assert int(block.seen) == 1


# ---------------------------------------------------------------- memory and precision
def _saved_bytes(model: Equilibrium, x: Tensor) -> int:
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        model(x)
    return sum(sizes)


def test_saved_bytes_do_not_depend_on_the_iterations() -> None:
    x = torch.randn(65, 2, requires_grad=True)
    block = _Rotation()
    saved = []
    for iterations in (5, 50):
        model = Equilibrium(block, Solver(name="picard", max_iter=iterations))
        with pytest.warns(ConvergenceWarning):
            saved.append(_saved_bytes(model, x))
        assert model.forward_trace is not None and model.forward_trace.iterations == iterations
    weights = sum(parameter.nbytes for parameter in block.parameters())
    assert saved == [2 * x.nbytes + weights] * 2
    unrolling = [_saved_bytes(Equilibrium(block, mode="unroll", pretrain_steps=steps), x) for steps in (5, 50)]
    assert unrolling[1] > 9 * unrolling[0]


def test_half_precision_input_under_autocast_is_held_in_float32() -> None:
    block = Affine()
    model = Equilibrium(block, Solver(tol=0.01, max_iter=60))
    x = torch.randn(NODES, CHANNELS).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.float32
    assert model(x).dtype == torch.bfloat16


# ---------------------------------------------------------------- pre-training and the penalty
def test_unroll_mode_is_the_repeated_block() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, mode="unroll", pretrain_steps=3)
    z = model(x, adjacency, bias, seed=5)
    expected = torch.zeros_like(x)
    for _ in range(3):
        expected = block(expected, 5, x, adjacency, bias)
    assert torch.equal(z, expected) and model.forward_trace is None
    assert relative_error(gradients(z, block, x, bias), gradients(expected, block, x, bias)) == 0.0
    model.mode = "solve"
    model(x, adjacency, bias, seed=5)
    assert model.forward_trace is not None


def test_penalty_is_an_unbiased_estimate_of_the_jacobian_norm() -> None:
    block, x = Affine().double(), torch.randn(3, CHANNELS, dtype=torch.float64)
    z = torch.randn(3, CHANNELS, dtype=torch.float64, requires_grad=True)
    jacobian: Any = torch.autograd.functional.jacobian(lambda z: block(z, 0, x), z)
    exact = float(jacobian.square().sum() / z.numel())
    generator = torch.Generator().manual_seed(1)
    value = block(z, 0, x)
    draws = torch.stack([jacobian_penalty(value, z, generator=generator).detach() for _ in range(2000)])
    assert float(draws.mean()) == pytest.approx(exact, abs=4 * float(draws.std()) / 2000**0.5)


def test_penalty_is_differentiable_and_repeatable() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09))
    z = model(x, adjacency, bias, seed=5)

    def penalty(weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        value: Tensor = torch.func.functional_call(block, {"linear.weight": weight}, (state, 5, x, adjacency, bias))
        return jacobian_penalty(value, state, generator=generator)

    state = z.detach().requires_grad_()
    assert torch.autograd.gradcheck(penalty, (block.linear.weight,), atol=1e-6)
    same = model.jacobian_penalty(z, x, adjacency, bias, seed=5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(same, penalty(block.linear.weight))
    same.backward()
    assert block.linear.weight.grad is not None and x.grad is not None and bias.grad is not None


def test_penalty_makes_the_block_easier_to_solve() -> None:
    hard = easy = 0
    for _ in range(4):
        block = Affine(gain=0.9)
        x = 0.1 * torch.randn(NODES, CHANNELS)
        model = Equilibrium(block, Solver(name="picard", max_iter=4000, tol=1e-05))
        before = model(x).detach()
        assert model.forward_trace is not None
        hard += model.forward_trace.iterations
        optimizer = torch.optim.SGD(block.parameters(), 0.5)
        for _ in range(10):
            optimizer.zero_grad()
            model.jacobian_penalty(before, x).backward()
            optimizer.step()
        model(x)
        easy += model.forward_trace.iterations
    assert easy < 0.7 * hard


# ---------------------------------------------------------------- the module
def test_deepcopy_pickle_and_state_dict() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09))
    z = model(x, adjacency, bias, seed=5)
    z.sum().backward()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x, adjacency, bias, seed=5), z) and other.backward_trace == model.backward_trace
    fresh = Equilibrium(Diffusion().double(), Solver(max_iter=60, tol=1e-09))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x, adjacency, bias, seed=5), z)


def test_inference_without_graph() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09)).eval()
    expected = model(x, adjacency, bias)
    with torch.no_grad():
        assert torch.equal(model(x, adjacency, bias), expected) and not model(x, adjacency, bias).requires_grad
    with torch.inference_mode():
        assert torch.equal(model(x, adjacency, bias), expected)


# Dynamo hides this warning of its own by a filter that an error filter comes before.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_model_and_compiled_block_are_the_same_function() -> None:
    block = Affine().double()
    x = torch.randn(NODES, CHANNELS, dtype=torch.float64, requires_grad=True)
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09))
    expected = gradients(model(x, seed=0), block, x)
    whole = torch.compile(model, backend="eager")
    inner = Equilibrium(torch.compile(block, backend="eager"), Solver(max_iter=60, tol=1e-09))
    for other in (whole, inner):
        assert relative_error(gradients(other(x, seed=0), block, x), expected) < 1e-12


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"corrections": (3, 0)}, "counted from 1"),
        ({"pretrain_steps": 0}, "pretrain_steps=0 must be at least 1"),
        ({"mode": "guess"}, "mode='guess' is unknown; choose one of solve, unroll"),
    ],
)
def test_settings_out_of_range(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Equilibrium(Affine(), **settings_)


def test_borders_of_the_functions() -> None:
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        unrolled(torch.tanh, torch.zeros(3), 0)
    with pytest.raises(ValueError, match=r"call z\.requires_grad_\(\) before evaluating"):
        jacobian_penalty(torch.ones(3), torch.ones(3))
