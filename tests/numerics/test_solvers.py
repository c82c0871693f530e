"""Solvers against scipy, torchdeq, dense textbook iterations and exact solutions of the same maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from revgnn.implicit.solvers import SOLVERS, Map, Solver, anderson, broyden, picard, solve
from tolerances import assert_close

SOLVER_NAMES = tuple(SOLVERS)


def linear_map(size: int, rho: float, seed: int) -> tuple[Map, Tensor]:
    """A map ``A z + b`` with ``||A||_2 = rho``, and its fixed point."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = matrix * (rho / torch.linalg.matrix_norm(matrix, 2))
    offset = torch.randn(size, generator=generator, dtype=torch.float64)
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, offset)
    return lambda z: matrix @ z + offset, solution


def tanh_map(size: int = 24, seed: int = 0, gain: float = 0.8) -> tuple[Map, Tensor]:
    """A contraction ``tanh(W z + b)`` and a zero start."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, size, generator=generator, dtype=torch.float64)
    weight = weight * (gain / torch.linalg.matrix_norm(weight, 2))
    bias = torch.randn(size, generator=generator, dtype=torch.float64)
    return lambda z: torch.tanh(weight @ z + bias), torch.zeros(size, dtype=torch.float64)


def graph_map(num_nodes: int = 30, channels: int = 7, seed: int = 0, eps: float = 1e-5) -> tuple[Map, Tensor]:
    """A block of two convolutions with injection, layer norms and a fixed mask on a random graph; no contraction.

    With a larger ``eps`` the norms magnify no row that is nearly constant, and there is one fixed point for any seed.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    adjacency = (torch.rand(num_nodes, num_nodes, generator=generator) < 0.15).double()
    adjacency /= adjacency.sum(1, keepdim=True).clamp(min=1)
    first, second = normal(channels, channels) / 20, normal(channels, channels) / 2.6
    x, mask = normal(num_nodes, channels), (torch.rand(num_nodes, channels, generator=generator) > 0.1).double() / 0.9

    def conv(z: Tensor, weight: Tensor) -> Tensor:
        return (z + adjacency @ torch.relu(z)) @ weight

    def norm(z: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(z, (channels,), eps=eps)

    def block(z: Tensor) -> Tensor:
        z1 = conv(z, first)
        return norm(torch.relu(conv(mask * torch.relu(norm(z1 + x)), second) + z1))

    return block, torch.zeros(num_nodes, channels, dtype=torch.float64)


MAPS: dict[str, Callable[[], tuple[Map, Tensor]]] = {
    "linear": lambda: (linear_map(20, 0.8, 3)[0], torch.zeros(20, dtype=torch.float64)),
    "tanh": tanh_map,
    "graph": lambda: graph_map(eps=0.1),
}


def as_root(f: Map, shape: torch.Size) -> Callable[[np.ndarray], np.ndarray]:
    """The map as the residual function that scipy takes."""

    def residual(flat: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(flat).view(shape)
        return (f(z) - z).numpy().reshape(-1)

    return residual


def assert_residuals(found: Sequence[float], expected: Sequence[float]) -> None:
    """Rounding moves a residual by units in the last place of the value that it is relative to, however small it is."""
    assert_close(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64))


# ---------------------------------------------------------------- exact solutions
@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12),
    rho=st.floats(0.0, 0.9),
    seed=st.integers(0, 10_000),
    solver=st.sampled_from(SOLVER_NAMES),
)
def test_random_contractions_within_the_error_bound(size: int, rho: float, seed: int, solver: str) -> None:
    f, solution = linear_map(size, rho, seed)
    z, trace = solve(f, torch.zeros_like(solution), solver=solver, max_iter=400, tol=1e-10)
    assert trace.converged
    # ||z - z*|| <= ||f(z) - z|| / (1 - rho) for every contraction.
    bound = 1e-10 * float(f(z).norm()) / (1 - rho)
    assert float((z - solution).norm()) <= 1.01 * bound + 1e-13


def test_broyden_ends_within_twice_the_dimension_on_a_linear_map() -> None:
    f, solution = linear_map(5, 4.0, 1)
    _, trace = broyden(f, torch.zeros_like(solution), max_iter=60, tol=1e-9)
    assert trace.converged and trace.iterations <= 2 * 5 + 2


def test_anderson_with_full_memory_ends_after_the_dimension_on_a_linear_map() -> None:
    f, solution = linear_map(5, 4.0, 1)
    z, trace = anderson(f, torch.zeros_like(solution), max_iter=20, tol=1e-7, memory=6, ridge=1e-14)
    assert trace.converged and trace.iterations <= 5 + 3
    torch.testing.assert_close(z, solution, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- independent implementations
@pytest.mark.parametrize("name", MAPS)
def test_broyden_iterates_are_those_of_the_dense_textbook_method(name: str) -> None:
    f, z0 = MAPS[name]()
    g = as_root(f, z0.shape)
    z = np.zeros(z0.numel())
    inverse, value = -np.eye(z.size), g(z)
    expected = []
    for _ in range(18):
        expected.append(np.linalg.norm(value) / np.linalg.norm(value + z))
        step = -inverse @ value
        z = z + step
        change, value = g(z) - value, g(z)
        image = inverse @ change
        inverse += np.outer(step - image, step @ inverse) / (step @ image)
    _, trace = broyden(f, z0, max_iter=18, tol=0.0)
    assert_residuals(trace.residuals, expected)


@pytest.mark.parametrize("beta", [1.0, 0.6])
@pytest.mark.parametrize("name", MAPS)
def test_anderson_iterates_are_those_of_the_constrained_least_squares(name: str, beta: float) -> None:
    f, z0 = MAPS[name]()
    g = as_root(f, z0.shape)
    states, residuals, expected = [np.zeros(z0.numel())], list[np.ndarray](), []
    for _ in range(15):
        residuals.append(g(states[-1]))
        expected.append(np.linalg.norm(residuals[-1]) / np.linalg.norm(residuals[-1] + states[-1]))
        last, moves = np.stack(states[-4:]), np.stack(residuals[-4:])
        ridge = 1e-4 * np.mean((moves**2).sum(1))
        kkt = np.block(
            [[moves @ moves.T + ridge * np.eye(len(moves)), np.ones((len(moves), 1))], [np.ones(len(moves)), 0]]
        )
        weights = np.linalg.solve(kkt, np.append(np.zeros(len(moves)), 1.0))[:-1]
        states.append(weights @ (last + beta * moves))
    _, trace = anderson(f, z0, max_iter=15, tol=0.0, memory=4, beta=beta)
    assert_residuals(trace.residuals, expected)


@pytest.mark.parametrize("method", ["hybr", "broyden1", "anderson"])
@pytest.mark.parametrize("solver", ["anderson", "broyden"])
@pytest.mark.parametrize("name", MAPS)
def test_same_fixed_point_as_scipy(name: str, solver: str, method: str) -> None:
    f, z0 = MAPS[name]()
    # scipy's alpha = 1 is the first Jacobian -I that the solvers here start from.
    options = {} if method == "hybr" else {"maxiter": 500, "jac_options": {"alpha": 1.0}}
    found = optimize.root(as_root(f, z0.shape), np.zeros(z0.numel()), method=method, tol=1e-10, options=options)
    assert found.success, found.message
    z, trace = solve(f, z0, solver=solver, max_iter=100, tol=1e-9)
    assert trace.converged
    np.testing.assert_allclose(z.numpy().reshape(-1), found.x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize("name", ["linear", "tanh"])
def test_same_fixed_point_as_torchdeq(name: str, solver: str) -> None:
    torchdeq = pytest.importorskip("torchdeq")
    f, z0 = MAPS[name]()
    z0 = z0.view(-1, 4)

    def rows(z: Tensor) -> Tensor:
        return f(z.reshape(-1)).view_as(z)

    oracle = torchdeq.get_deq(
        f_solver={"picard": "fixed_point_iter"}.get(solver, solver),
        f_max_iter=200,
        f_tol=1e-10,
        f_stop_mode="rel",
        ift=True,
    )
    # Dimension 0 is torchdeq's batch; one state needs a leading 1.
    expected = oracle(rows, z0[None])[0][-1][0]
    assert float((rows(expected) - expected).norm()) < 1e-8
    z, trace = solve(rows, z0, solver=solver, max_iter=200, tol=1e-10)
    assert trace.converged
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-7)


def test_state_is_one_vector_whatever_its_shape() -> None:
    f, z0 = graph_map()
    _, together = broyden(f, z0, max_iter=200, tol=1e-6)
    flat, trace = broyden(lambda z: f(z.view_as(z0)).reshape(-1), z0.reshape(-1), max_iter=200, tol=1e-6)
    assert together.converged
    assert_residuals(trace.residuals, together.residuals)
    deeper = z0.view(5, 6, 7)
    _, trace = broyden(lambda z: f(z.reshape(z0.shape)).view_as(z), deeper, max_iter=200, tol=1e-6)
    assert_residuals(trace.residuals, together.residuals)
    assert flat.shape == (210,)


def test_quasi_newton_beats_plain_iteration_on_the_graph_block() -> None:
    f, z0 = graph_map()
    best = {name: solve(f, z0, solver=name, max_iter=28, tol=0.0)[1].residual for name in SOLVER_NAMES}
    assert best["broyden"] < 0.2 * best["picard"] and best["anderson"] < 0.5 * best["picard"]


# ---------------------------------------------------------------- what is returned
@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_best_iterate_and_its_residual_are_returned(solver: str) -> None:
    f, z0 = graph_map(seed=4)
    z, trace = solve(f, z0, solver=solver, max_iter=23, tol=0.0)
    assert trace.iterations == len(trace.residuals) == 23 and not trace.converged
    assert trace.residual == min(trace.residuals) == trace.residuals[trace.best]
    value = f(z)
    assert_residuals([float((value - z).norm() / value.norm())], [trace.residual])


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize(
    "f", [lambda z: 3.0 * z + 1.0, lambda z: z * z + 2.0, torch.exp], ids=["expanding", "no root", "exponential"]
)
def test_map_without_reachable_fixed_point(f: Map, solver: str) -> None:
    z, trace = solve(f, torch.full((4,), 5.0, dtype=torch.float64), solver=solver, max_iter=40, tol=1e-14)
    assert bool(torch.isfinite(z).all()) and math.isfinite(trace.residual)
    if trace.converged:  # the quasi-Newton methods do find the fixed point -1/2 of the expanding map
        torch.testing.assert_close(z, torch.full_like(z, -0.5))
    else:
        assert trace.residual > trace.tol


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_divergence_ends_at_the_first_value_that_is_not_finite(solver: str) -> None:
    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return z + 1.0 / calls if calls < 6 else z / 0.0

    z, trace = solve(f, torch.ones(3), solver=solver, max_iter=30)
    assert calls == trace.iterations == 6 and math.isnan(trace.residuals[-1])
    assert not trace.converged and bool(torch.isfinite(z).all()) and trace.best < 5


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_a_map_that_is_never_finite_gives_nan(solver: str) -> None:
    """A finite start in its place would be read as an answer."""
    start = torch.ones(3)
    z, trace = solve(lambda z: z * math.nan, start, solver=solver)
    assert bool(z.isnan().all()) and trace.iterations == 1 and not trace.converged
    assert torch.equal(start, torch.ones(3))


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_constant_zero_and_identity_maps(solver: str) -> None:
    z, trace = solve(torch.zeros_like, torch.ones(2, 3), solver=solver)
    assert trace.residuals == (math.inf, 0.0) and torch.equal(z, torch.zeros(2, 3))
    z, trace = solve(lambda z: z, torch.ones(2, 3), solver=solver)
    assert trace.residuals == (0.0,) and torch.equal(z, torch.ones(2, 3))


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize("shape", [(0, 4), (), (1,), (65,)])
def test_odd_shapes(shape: tuple[int, ...], solver: str) -> None:
    z, trace = solve(lambda z: 0.5 * z.cos(), torch.zeros(shape, dtype=torch.float64), solver=solver, tol=1e-9)
    assert trace.converged and z.shape == shape
    torch.testing.assert_close(z, torch.full(shape, 0.45018361129487355, dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_start_is_untouched_and_result_is_a_tensor_of_its_own(solver: str) -> None:
    f, z0 = tanh_map()
    z0 = z0 + 0.1
    before = z0.clone()
    z, _ = solve(f, z0, solver=solver, max_iter=1)
    assert torch.equal(z, before) and torch.equal(z0, before)
    z.add_(1.0)
    assert torch.equal(z0, before) and not z._is_view()


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_same_bits_twice_and_no_graph(solver: str) -> None:
    f, z0 = graph_map()
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    first, second = (solve(lambda z: f(z) * weight, z0, solver=solver, max_iter=12, tol=0.0) for _ in range(2))
    assert torch.equal(first[0], second[0]) and first[1] == second[1] and not first[0].requires_grad


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_one_transfer_to_the_host_per_iteration(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, z0 = graph_map()
    transfers = 0
    original = Tensor.tolist

    def counted(self: Tensor) -> object:
        nonlocal transfers
        transfers += 1
        return original(self)

    def refused(self: Tensor) -> None:
        raise AssertionError("a hidden transfer to the host")

    monkeypatch.setattr(Tensor, "tolist", counted)
    for name in ("item", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, refused)
    _, trace = solve(f, z0, solver=solver, max_iter=15, tol=0.0)
    monkeypatch.undo()
    assert transfers == trace.iterations == 15


# ---------------------------------------------------------------- precision and memory
@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)]
)
def test_residual_reaches_the_precision_of_the_state(dtype: torch.dtype, tol: float, solver: str) -> None:
    f, z0 = tanh_map(gain=0.5)

    def rounded(z: Tensor) -> Tensor:
        assert z.dtype == dtype
        return f(z.double()).to(dtype)

    z, trace = solve(rounded, z0.to(dtype), solver=solver, max_iter=60, tol=tol)
    assert trace.converged and z.dtype == dtype


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_autocast_does_not_reach_the_inner_products(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.mv

    def checked(rows: Tensor, vector: Tensor) -> Tensor:
        # Only CUDA's autocast casts this product, so the state is what a test on the CPU can see.
        assert not torch.is_autocast_enabled("cpu")
        return product(rows, vector)

    monkeypatch.setattr(torch, "mv", checked)
    f, z0 = graph_map()
    f32 = z0.float()
    plain, trace = solve(lambda z: f(z.double()).float(), f32, solver=solver, max_iter=14, tol=0.0)
    with torch.autocast("cpu", torch.bfloat16):

        def outside(z: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return f(z.double()).float()

        cast, cast_trace = solve(outside, f32, solver=solver, max_iter=14, tol=0.0)
    assert torch.equal(plain, cast) and trace == cast_trace


@pytest.mark.parametrize(("solver", "memory"), [("anderson", 1), ("anderson", 2), ("broyden", 1), ("broyden", 3)])
def test_small_memory_still_converges_on_a_contraction(solver: str, memory: int) -> None:
    f, z0 = tanh_map(gain=0.9)
    z, trace = solve(f, z0, solver=solver, memory=memory, max_iter=300, tol=1e-10)
    expected, _ = picard(f, z0, max_iter=2000, tol=1e-13)
    assert trace.converged
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-8)


def test_anderson_of_memory_one_is_picard() -> None:
    f, z0 = graph_map()
    _, one = anderson(f, z0, memory=1, max_iter=12, tol=0.0)
    _, plain = picard(f, z0, max_iter=12, tol=0.0)
    assert_residuals(one.residuals, plain.residuals)


def test_broyden_starts_again_when_an_update_would_divide_by_nothing() -> None:
    # A shift has the Jacobian of the identity: g never changes, and the first update has denominator 0.
    z, trace = broyden(lambda z: z + 1.0, torch.zeros(3, dtype=torch.float64), max_iter=20, tol=1e-3)
    assert not trace.converged and bool(torch.isfinite(z).all())
    np.testing.assert_allclose(trace.residuals, [1 / (k + 1) for k in range(20)])


# ---------------------------------------------------------------- borders
@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"solver": "newton"}, "solver='newton' is unknown; choose one of picard, anderson, broyden"),
        ({"max_iter": 0}, "max_iter=0 must be at least 1"),
        ({"tol": -1.0}, "tol=-1.0 must be at least 0"),
        ({"tol": math.nan}, "tol=nan must be at least 0"),
        ({"memory": 0}, "memory=0 must be at least 1"),
        ({"solver": "picard", "memory": 4}, "memory=4 has no meaning for picard"),
    ],
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(torch.cos, torch.zeros(3), **settings_)  # type: ignore[arg-type]


def test_settings_are_checked_when_a_solver_is_made() -> None:
    with pytest.raises(ValueError, match="memory=4 has no meaning for picard"):
        Solver(name="picard", memory=4)
    with pytest.raises(ValueError, match="max_iter=-2 must be at least 1"):
        broyden(torch.cos, torch.zeros(3), max_iter=-2)
    with pytest.raises(ValueError, match=r"ridge=0\.0 must be above 0"):
        anderson(torch.cos, torch.zeros(3), ridge=0.0)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_integer_start_and_changed_shape_are_refused(solver: str) -> None:
    with pytest.raises(TypeError, match=r"z0 must be a floating tensor, got torch\.int64; convert it with \.float\(\)"):
        solve(torch.cos, torch.zeros(3, dtype=torch.int64), solver=solver)
    with pytest.raises(ValueError, match=r"in the shape of z: got \[4, 1\] for \[4, 3\]"):
        solve(lambda z: z[:, :1], torch.zeros(4, 3), solver=solver)


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_iterates_take_turns_in_two_buffers(name: str) -> None:
    """An iterate in memory of its own would lie among the temporaries of the map, and break the heap around it."""
    f, z0 = tanh_map()
    held: list[Tensor] = []

    def holding(z: Tensor) -> Tensor:
        held.append(z)
        return f(z)

    _, trace = Solver(name=name, max_iter=9, tol=0.0)(holding, z0)
    assert trace.iterations == len(held) == 9
    assert len({z.data_ptr() for z in held}) == 2
