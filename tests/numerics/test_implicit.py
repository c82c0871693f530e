"""The implicit gradient against unrolling, gradcheck, exact solutions and torchdeq; what its Function holds on to."""

from __future__ import annotations

import gc
import weakref
from statistics import geometric_mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.functional import gelu

from revgnn.implicit.equilibrium import Equilibrium, unrolled
from revgnn.implicit.fixed_point import ConvergenceWarning, fixed_point, warn_unconverged
from revgnn.implicit.solvers import SOLVERS, Solver, SolverTrace

NODES, CHANNELS = 13, 6


class GraphBlock(nn.Module):
    """The DEQ-GNN block with mean aggregation, an edge term and a dropout mask that is a function of the seed.

    It is smooth: at the kink of a ReLU, which rows of zeros stand on, rounding would decide about the gradient.
    """

    def __init__(self, channels: int = CHANNELS, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, channels)
        # A variance of one beside that of the rows: where a row is nearly constant, the norm does not magnify it, and
        # the block is a contraction for any weights that are drawn.
        self.inner, self.outer = nn.LayerNorm(channels), nn.LayerNorm(channels, eps=1.0)
        self.dropout = dropout
        with torch.no_grad():
            self.first.weight *= 0.25

    def forward(self, z: Tensor, seed: int | None, x: Tensor, adjacency: Tensor, bias: Tensor | None = None) -> Tensor:
        def conv(state: Tensor, linear: nn.Linear) -> Tensor:
            return linear(state + adjacency.to(state.dtype) @ gelu(state))

        z1 = conv(z, self.first)
        z2 = gelu(self.inner(z1 + x if bias is None else z1 + x + bias))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            z2 = z2 * (torch.rand(z.shape, generator=generator) >= self.dropout) / (1 - self.dropout)
        return self.outer(gelu(conv(z2, self.second) + z1))


class Affine(nn.Module):
    """``tanh(z W + x)``: the smallest block; a contraction for a small weight."""

    def __init__(self, channels: int = CHANNELS, gain: float = 0.4) -> None:
        super().__init__()
        self.weight = nn.Parameter(gain * torch.eye(channels) + 0.05 * torch.randn(channels, channels))

    def forward(self, z: Tensor, seed: int, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.to(z.dtype) + x)


def graph_problem() -> tuple[GraphBlock, list[Tensor]]:
    """A block in float64 with its input, adjacency and bias; the input and the bias require grad."""
    adjacency = (torch.rand(NODES, NODES) < 0.3).double()
    adjacency /= adjacency.sum(1, keepdim=True).clamp(min=1)
    x = torch.randn(NODES, CHANNELS, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CHANNELS, dtype=torch.float64, requires_grad=True)
    return GraphBlock().double(), [x, adjacency, bias]


def gradients(output: Tensor, block: nn.Module, *others: Tensor) -> list[Tensor]:
    """Gradients of a fixed random functional of the output to every parameter and to the others."""
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return list(torch.autograd.grad((output * cotangent.to(output)).sum(), [*block.parameters(), *others]))


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest error of any tensor, relative to its norm, or to a thousandth of all norms where its own is less."""
    floor = 1e-3 * float(sum(b.norm() ** 2 for b in expected)) ** 0.5
    return max(float((a - b).norm() / b.norm().clamp(min=floor)) for a, b in zip(found, expected, strict=True))


# ---------------------------------------------------------------- the gradient
@pytest.mark.parametrize("backward_solver", SOLVERS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_implicit_gradient_is_that_of_a_long_unrolling(solver: str, backward_solver: str) -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(
        block,
        Solver(name=solver, max_iter=300, tol=1e-12),
        backward=Solver(name=backward_solver, tol=1e-12, max_iter=300),
    )
    z = model(x, adjacency, bias, seed=5)
    found = gradients(z, block, x, bias)
    reference = unrolled(lambda z: block(z, 5, x, adjacency, bias), torch.zeros_like(x), 300)
    torch.testing.assert_close(z, reference, rtol=0, atol=1e-9)
    assert relative_error(found, gradients(reference, block, x, bias)) < 1e-8
    assert model.forward_trace is not None and model.forward_trace.converged
    assert model.backward_trace is not None and model.backward_trace.converged
    assert (model.forward_trace.solver, model.backward_trace.solver) == (solver, backward_solver)


@pytest.mark.filterwarnings("ignore:the backward solve did not converge")
def test_gradient_improves_with_the_backward_iterations() -> None:
    errors = {1: 0.0, 4: 0.0, 16: 0.0}
    for _ in range(5):
        block, (x, adjacency, bias) = graph_problem()
        reference = unrolled(lambda z: block(z, 5, x, adjacency, bias), torch.zeros_like(x), 300)  # noqa: B023
        expected = gradients(reference, block, x, bias)
        for iterations in errors:
            model = Equilibrium(
                block, Solver(max_iter=100, tol=1e-12), backward=Solver(tol=0.0, name="picard", max_iter=iterations)
            )
            errors[iterations] += relative_error(gradients(model(x, adjacency, bias, seed=5), block, x, bias), expected)
    assert errors[1] > 2 * errors[4] > 8 * errors[16]


def test_gradcheck_of_a_small_contraction() -> None:
    block = Affine(3).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    exact = Solver(max_iter=100, tol=1e-13)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return fixed_point(block, torch.zeros_like(x), x, parameters=[weight], forward=exact, backward=exact)

    assert torch.autograd.gradcheck(function, (x, block.weight), atol=1e-6)


def test_same_gradient_as_torchdeq() -> None:
    torchdeq = pytest.importorskip("torchdeq")
    block, (x, adjacency, bias) = graph_problem()
    exact = {
        "f_tol": 1e-11,
        "b_tol": 1e-11,
        "f_stop_mode": "rel",
        "b_stop_mode": "rel",
        "f_max_iter": 200,
        "b_max_iter": 200,
    }
    oracle = torchdeq.get_deq(f_solver="broyden", b_solver="broyden", ift=True, **exact).train()
    # Dimension 0 is torchdeq's batch; one state needs a leading 1.
    states, _ = oracle(lambda z: block(z[0], 5, x, adjacency, bias)[None], torch.zeros_like(x)[None])
    expected = gradients(states[-1][0], block, x, bias)
    model = Equilibrium(block, Solver(max_iter=200, tol=1e-11), backward=Solver(tol=1e-11, max_iter=200))
    assert relative_error(gradients(model(x, adjacency, bias, seed=5), block, x, bias), expected) < 1e-7


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 8), rho=st.floats(0.0, 0.9), seed=st.integers(0, 10_000))
def test_gradient_of_random_linear_fixed_points(size: int, rho: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix *= rho / torch.linalg.matrix_norm(matrix, 2)
    b, cotangent = torch.randn(2, size, generator=generator, dtype=torch.float64)
    matrix.requires_grad_(), b.requires_grad_()
    exact = Solver(max_iter=200, tol=1e-12)
    z = fixed_point(
        lambda z, seed, b, matrix: matrix @ z + b, torch.zeros(size).double(), b, matrix, forward=exact, backward=exact
    )
    found = torch.autograd.grad(z @ cotangent, [b, matrix])
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, b)
    expected = torch.autograd.grad(solution @ cotangent, [b, matrix])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradient_is_linear_in_a_tiny_or_huge_incoming_gradient(scale: float) -> None:
    block = Affine()
    x = torch.randn(NODES, CHANNELS, requires_grad=True)
    z = Equilibrium(block, Solver(max_iter=60, tol=1e-06))(x)
    cotangent = torch.randn_like(z)
    (plain,) = torch.autograd.grad(z, x, cotangent, retain_graph=True)
    (scaled,) = torch.autograd.grad(z, x, cotangent * scale, retain_graph=True)
    torch.testing.assert_close(scaled / scale, plain, rtol=1e-4, atol=1e-6)
    (zero,) = torch.autograd.grad(z, x, torch.zeros_like(z))
    assert torch.equal(zero, torch.zeros_like(x))


def test_non_finite_incoming_gradient_reaches_the_parameters() -> None:
    # A gradient scaler looks for it there, and skips the step.
    block = Affine()
    z = Equilibrium(block, Solver(tol=1e-05, max_iter=60))(torch.randn(NODES, CHANNELS))
    with pytest.warns(ConvergenceWarning, match="not finite at iteration 1"):
        z.backward(torch.full_like(z, torch.inf))
    assert block.weight.grad is not None and not bool(torch.isfinite(block.weight.grad).any())


def test_only_what_needs_a_gradient_gets_one() -> None:
    block, (x, adjacency, bias) = graph_problem()
    block.inner.weight.requires_grad_(False)
    block.register_parameter("unused", nn.Parameter(torch.ones(3)))
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09))
    model(x.detach(), adjacency, bias, seed=5).sum().backward()
    assert bias.grad is not None and adjacency.grad is None and x.grad is None
    assert block.inner.weight.grad is None and block.unused.grad is None and block.first.weight.grad is not None


def test_block_that_ignores_its_state() -> None:
    weight = torch.randn(CHANNELS, requires_grad=True)
    z = fixed_point(lambda z, seed, w: w.tanh(), torch.zeros(CHANNELS), weight)
    z.sum().backward()
    torch.testing.assert_close(weight.grad, 1 - weight.detach().tanh() ** 2)
    z = fixed_point(lambda z, seed, w: torch.ones_like(z), torch.zeros(CHANNELS), weight)
    assert torch.autograd.grad(z.sum(), weight, allow_unused=True) == (None,)


# ---------------------------------------------------------------- ownership
def test_backward_twice_accumulates_and_second_derivative_is_refused() -> None:
    block = Affine().double()
    x = torch.randn(NODES, CHANNELS, dtype=torch.float64, requires_grad=True)
    loss = Equilibrium(block, Solver(max_iter=60, tol=1e-09))(x).square().sum()
    loss.backward(retain_graph=True)
    assert x.grad is not None
    once = x.grad.clone()
    with pytest.raises(RuntimeError, match="differentiated once: got create_graph=True; for second derivatives use"):
        torch.autograd.grad(loss, x, create_graph=True)
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once)


@pytest.mark.parametrize("written", ["parameter", "context"])
def test_write_between_forward_and_backward_is_refused(written: str) -> None:
    block = Affine()
    x = torch.randn(NODES, CHANNELS)
    z = Equilibrium(block, Solver(tol=0.0001, max_iter=60))(x)
    with torch.no_grad():
        (block.weight if written == "parameter" else x).mul_(0.5)
    with pytest.raises(RuntimeError, match="in place between the forward and|modified by an inplace operation"):
        z.sum().backward()


def test_context_values_pass_unchanged_and_hidden_tensors_are_refused() -> None:
    marker = object()

    def f(z: Tensor, seed: int, x: Tensor, a: object, b: dict[str, int], c: list[Tensor]) -> Tensor:
        assert a is marker and b == {"k": 1} and seed == 3
        return 0.5 * z + x + c[0]

    x = torch.ones(4, requires_grad=True)
    z = fixed_point(f, torch.zeros(4), x, marker, {"k": 1}, [torch.ones(4)], seed=3)
    torch.testing.assert_close(z, torch.full((4,), 4.0), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match="is inside a list among the context, where it would get no gradient"):
        fixed_point(f, torch.zeros(4), x, marker, {"k": 1}, [x], seed=3)
    with pytest.raises(ValueError, match="is inside a tuple among the context"):
        fixed_point(f, torch.zeros(4), x, marker, {"k": (x,)}, [torch.ones(4)], seed=3)


def test_saved_tensors_may_be_moved_by_hooks() -> None:
    block, (x, adjacency, bias) = graph_problem()
    model = Equilibrium(block, Solver(max_iter=60, tol=1e-09))
    expected = gradients(model(x, adjacency, bias, seed=5), block, x, bias)
    with save_on_cpu():
        z = model(x, adjacency, bias, seed=5)
    assert relative_error(gradients(z, block, x, bias), expected) < 1e-12


def test_result_may_be_changed_in_place_and_inputs_stay() -> None:
    block = Affine()
    x = torch.randn(NODES, CHANNELS, requires_grad=True)
    before = x.detach().clone()
    z = Equilibrium(block, Solver(tol=0.0001, max_iter=60))(x)
    (z * 1.0).relu_().sum().backward()
    assert torch.equal(x, before) and x.untyped_storage().nbytes() == before.nbytes
    changed = Equilibrium(block, Solver(tol=0.0001, max_iter=60))(x.detach())
    changed.relu_()


def test_nothing_outlives_its_step() -> None:
    block = Affine()
    model = Equilibrium(block, Solver(tol=0.0001, max_iter=60))
    gc.collect()
    gc.disable()
    try:
        x = torch.randn(NODES, CHANNELS, requires_grad=True)
        z = model(x)
        z.sum().backward()
        alive = weakref.ref(z), weakref.ref(x)
        del z, x
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


# ---------------------------------------------------------------- precision
def half_precision_problem() -> tuple[GraphBlock, list[Tensor]]:
    block, tensors = graph_problem()
    x, adjacency, bias = (tensor.detach().float() for tensor in tensors)
    return block.float(), [x.requires_grad_(), adjacency, bias.requires_grad_()]


def test_autocast_holds_in_the_backward_and_leaves_no_casts_behind() -> None:
    block, tensors = half_precision_problem()
    model = Equilibrium(block, Solver(max_iter=25, tol=0.02))
    dtypes: list[torch.dtype] = []
    block.first.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        z = model(tensors[0].bfloat16().float(), *tensors[1:], seed=5)
        after = block(z.detach(), 5, *tensors).float().sum()
        gradients(z, block, tensors[2])
    assert z.dtype == torch.float32 and set(dtypes) == {torch.bfloat16}
    assert all(gradient is not None for gradient in torch.autograd.grad(after, list(block.parameters())))
    with torch.autocast("cpu", torch.bfloat16):
        z = model(tensors[0], *tensors[1:], seed=5)
    count = len(dtypes)
    gradients(z, block, tensors[2])
    assert len(dtypes) == count + 1 and set(dtypes) == {torch.bfloat16}


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_under_autocast_are_near_those_without(inside: bool) -> None:
    """In the mean over problems, because one draw of the rounding to bfloat16 may be off by several times as much."""
    errors = []
    for _ in range(8):
        block, tensors = half_precision_problem()
        with torch.autocast("cpu", torch.bfloat16):
            z = Equilibrium(block, Solver(max_iter=25, tol=0.02))(*tensors, seed=5)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found = gradients(z, block, tensors[2])
        exact = Equilibrium(block, Solver(max_iter=60, tol=1e-05))
        errors.append(relative_error(found, gradients(exact(*tensors, seed=5), block, tensors[2])))
    assert geometric_mean(errors) < 0.1


# ---------------------------------------------------------------- reports
def test_function_warns_every_time_and_takes_a_report() -> None:
    weight, x = torch.full((3,), 1.5, requires_grad=True), torch.ones(3)
    plain = Solver(name="picard", max_iter=4)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="forward solve did not converge: picard"):
            fixed_point(_expand, torch.zeros(3), x, weight, forward=plain)
    seen: list[tuple[str, SolverTrace]] = []

    def report(direction: str, trace: SolverTrace) -> None:
        seen.append((direction, trace))

    fixed_point(_expand, torch.zeros(3), x, weight, forward=plain, report=report).sum().backward()
    assert [direction for direction, _ in seen] == ["forward", "backward"]
    assert [trace.solver for _, trace in seen] == ["picard", "broyden"]


def _expand(z: Tensor, seed: object, x: Tensor, weight: Tensor) -> Tensor:
    return weight * z + x


def test_converged_trace_is_silent() -> None:
    warn_unconverged("forward", SolverTrace(solver="picard", tol=0.1, residuals=(0.01,), best=0))


def test_map_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in the shape of z: got \[3\] for \[4, 3\]"):
        fixed_point(lambda z, seed: z[0], torch.zeros(4, 3))
