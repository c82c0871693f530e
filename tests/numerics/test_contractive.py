"""Maps that contract by construction: the bound against the SVD, Banach's theorem on random graphs, the gradient."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from revgnn import Graph, ModelConfig, build_model
from revgnn.data import GraphInfo
from revgnn.implicit.equilibrium import Equilibrium, Phantom, unrolled
from revgnn.implicit.solvers import SOLVERS, Solver
from revgnn.nn.contractive import SQUARINGS, BoundNorm, ContractiveBlock, bounded, spectral_bound
from revgnn.nn.equilibrium import EquilibriumOptions

CHANNELS = 5


def random_graph(nodes: int, edges: int, *, directed: bool) -> Graph:
    """A graph with repeated edges, self loops and isolated nodes."""
    edge_index = torch.randint(max(nodes - 2, 1), (2, edges))
    return Graph.from_edge_index(edge_index if directed else torch.cat([edge_index, edge_index.flip(0)], 1), nodes)


def random_block(bound: float, norm: BoundNorm, scale: float = 1.0) -> ContractiveBlock:
    """A block with random weights, which are far above the bound for a large scale."""
    block = ContractiveBlock(CHANNELS, bound=bound, norm=norm).double()
    for weight in block.parameters():
        nn.init.normal_(weight, std=scale)
    return block


def distance(a: Tensor, b: Tensor, graph: Graph, norm: BoundNorm) -> float:
    """The distance in which the map contracts: largest entry, or Euclidean with nodes weighed by degree."""
    if norm == "row":
        return float((a - b).abs().max())
    return float((graph.in_degree.clamp(min=1)[:, None] * (a - b).square()).sum().sqrt())


def problem(norm: BoundNorm, nodes: int = 17, bound: float = 0.8) -> tuple[ContractiveBlock, Tensor, Graph]:
    torch.manual_seed(3)
    graph = random_graph(nodes, 3 * nodes, directed=norm == "row")
    x = torch.randn(nodes, CHANNELS, dtype=torch.float64, requires_grad=True)
    return random_block(bound, norm), x, graph


# ---------------------------------------------------------------- the bound of the weights
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_bound_lies_just_above_the_largest_singular_value(size: int, scale: float) -> None:
    most = size**2.0 ** -(SQUARINGS + 2)
    orthogonal = torch.linalg.qr(torch.randn(size, size)).Q
    for weight in (torch.randn(size, size), orthogonal, torch.randn(size, 1) @ torch.randn(1, size)):
        exact = float(torch.linalg.matrix_norm(weight.double() * scale, 2))
        assert exact * (1 - 1e-5) <= float(spectral_bound(weight * scale)) <= exact * most * (1 + 1e-5)
    # A power iteration, which the bound is not, approaches from below.
    weight, v = torch.randn(size, size), torch.randn(size)
    for _ in range(3):
        v = weight.T @ (weight @ v)
        v /= v.norm()
    assert float((weight @ v).norm()) <= float(spectral_bound(weight)) * (1 + 1e-5)


def test_the_bound_is_differentiable_and_zero_weights_stay_finite() -> None:
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: bounded(w, 0.7), weight)
    zero = torch.zeros(3, 3, requires_grad=True)
    bounded(zero, 0.7).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()
    small = 0.01 * torch.randn(6, 6)
    assert torch.equal(bounded(small, 0.9), small)


# ---------------------------------------------------------------- the map contracts, and solves converge
@settings(max_examples=12, deadline=None)
@given(
    nodes=st.integers(1, 20),
    edges=st.integers(0, 60),
    bound=st.sampled_from([0.3, 0.9]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    norm=st.sampled_from(["spectral", "row"]),
    seed=st.integers(0, 2**31),
)
def test_every_solve_converges_at_the_rate_of_the_bound(
    nodes: int, edges: int, bound: float, scale: float, norm: BoundNorm, seed: int
) -> None:
    """Banach: distances shrink by the bound, so k steps from the start are within bound^k / (1 - bound) of the end."""
    torch.manual_seed(seed)
    graph, block = random_graph(nodes, edges, directed=norm == "row"), random_block(bound, norm, scale)
    x, a, b = (torch.randn(nodes, CHANNELS, dtype=torch.float64) for _ in range(3))
    with torch.no_grad():
        moved = distance(block(a, 0, x, graph), block(b, 0, x, graph), graph, norm)
        assert moved <= bound * distance(a, b, graph, norm) * (1 + 1e-9)
        zero = torch.zeros_like(x)
        steps = math.ceil(math.log(1e-4) / math.log(bound))
        z = unrolled(lambda state: block(state, 0, x, graph), zero, steps)
        first = distance(block(zero, 0, x, graph), zero, graph, norm)
        end = unrolled(lambda state: block(state, 0, x, graph), z, 2 * steps)
        assert distance(z, end, graph, norm) <= bound**steps / (1 - bound) * first * (1 + 1e-6) + 1e-12
        for solver in SOLVERS:
            found = Equilibrium(block, Solver(name=solver, max_iter=3 * steps, tol=1e-6)).eval()(x, graph)
            error = distance(found, end, graph, norm) / max(distance(end, zero, graph, norm), 1e-300)
            assert error <= 1e-3, (solver, error)


@pytest.mark.parametrize("norm", ["spectral", "row"])
def test_the_implicit_gradient_is_that_of_a_long_unrolling(norm: BoundNorm) -> None:
    config = ModelConfig(
        conv="sage", num_layers=2, hidden_channels=8, coupling="residual", backprop="implicit", weight_tied=True,
        norm="layer", dropout=0.2,
        equilibrium=EquilibriumOptions(
            contraction=0.7, contraction_norm=norm, solver="anderson", max_iter=90, tol=1e-13, backward_max_iter=90,
            pretrain_epochs=1, pretrain_steps=90,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(config, GraphInfo(in_channels=4, num_outputs=3)).double()
    x, graph, grads = torch.randn(15, 4, dtype=torch.float64), random_graph(15, 40, directed=norm == "row"), []
    for epoch in (1, 2):
        assert model.begin_epoch(epoch) == ("unroll", "solve")[epoch - 1]
        model.zero_grad()
        model(x, graph, seed=3).square().sum().backward()
        grads.append(nn.utils.parameters_to_vector([p.grad for p in model.parameters()]))
    assert float((grads[0] - grads[1]).norm()) < 1e-9 * float(grads[0].norm())
    assert model.observe()["backward residual"] < 1e-12


# ---------------------------------------------------------------- warm start
@pytest.mark.parametrize("norm", ["spectral", "row"])
def test_a_warm_start_changes_the_iterations_and_not_the_answer(norm: BoundNorm) -> None:
    block, x, graph = problem(norm)
    cold, warm = (Equilibrium(block, Solver(tol=1e-10, max_iter=300), warm_start=start) for start in (False, True))
    expected = cold(x, graph)
    assert torch.equal(warm(x, graph), expected)
    again = warm(x, graph)
    assert warm.forward_trace is not None and warm.forward_trace.iterations == 1
    torch.testing.assert_close(again, expected, rtol=1e-8, atol=1e-9)
    moved = x.detach() + 1e-3 * torch.randn_like(x)
    torch.testing.assert_close(warm(moved, graph), cold(moved, graph), rtol=1e-8, atol=1e-9)
    assert cold.forward_trace is not None and warm.forward_trace.iterations < cold.forward_trace.iterations
    with torch.no_grad():
        again.zero_()  # the result is the caller's: the next start is not what became of it
    torch.testing.assert_close(warm(x, graph), expected, rtol=1e-8, atol=1e-9)


def test_a_warm_start_needs_the_same_batch_in_training() -> None:
    block, x, graph = problem("spectral")
    model = Equilibrium(block, Solver(tol=1e-10, max_iter=300), warm_start=True)
    expected = model(x, graph).detach()
    twin = Graph.from_edge_index(graph.edge_index, graph.num_nodes)
    for changed in (lambda: model(x, twin), lambda: model.eval()(x, graph)):
        assert torch.equal(changed(), expected)
        assert model.forward_trace is not None and model.forward_trace.iterations > 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.train()(x, graph), expected)
    assert "warm_start=True" in repr(model)


# ---------------------------------------------------------------- phantom gradients and corrections
@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_the_phantom_gradient_approaches_the_implicit_one(damping: float) -> None:
    block, x, graph = problem("spectral")
    solver = Solver(tol=1e-12, max_iter=300)

    def gradient(phantom: Phantom | None) -> Tensor:
        model = Equilibrium(block, solver, backward=solver, phantom=phantom)
        out = model(x, graph, seed=0)
        if phantom is not None:
            assert model.backward_trace is None
        grads = torch.autograd.grad(out.square().sum(), [x, *block.parameters()])
        return torch.cat([grad.reshape(-1) for grad in grads])

    exact = gradient(None)
    errors = [float((gradient(Phantom(steps=k, damping=damping)) - exact).norm() / exact.norm()) for k in (1, 8, 90)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < (1e-8 if damping == 1.0 else 1e-3)


def test_corrections_are_steps_from_iterates_and_their_loss_is_weighed_by_age() -> None:
    block, x, graph = problem("spectral")
    model = Equilibrium(block, Solver(name="picard", tol=1e-9, max_iter=300), corrections=(2, 4, 1000))
    model(x, graph, seed=0)
    states, zero = model.take_intermediate(), torch.zeros_like(x)
    expected = [unrolled(lambda z: block(z, 0, x, graph), zero, steps) for steps in (2, 4)]
    assert len(states) == 2 and model.take_intermediate() == []
    for found, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.requires_grad
    with torch.no_grad():
        model(x, graph, seed=0)
    assert model.take_intermediate() == [] and model.eval()(x, graph, seed=0) is not None
    assert model.take_intermediate() == []
    options = EquilibriumOptions(contraction=0.5, solver="picard", corrections=(1, 3), correction_decay=0.5)
    config = ModelConfig(
        num_layers=2, hidden_channels=4, coupling="residual", backprop="implicit", weight_tied=True, equilibrium=options
    )
    net = build_model(config, GraphInfo(in_channels=CHANNELS, num_outputs=2))
    logits = net(x.detach().float(), graph, seed=1)
    losses: list[Tensor] = []

    def loss(values: Tensor) -> Tensor:
        assert values.shape == logits.shape
        losses.append(values.square().sum())
        return losses[-1]

    added = net.auxiliary_loss(loss)
    assert added is not None and net.auxiliary_loss(loss) is None
    torch.testing.assert_close(added, 0.5 * losses[0] + 0.25 * losses[1])  # the later state comes first
    added.backward()
    assert all(p.grad is not None for p in net.stack.parameters())


# ---------------------------------------------------------------- statistics and settings
def test_solves_are_counted_by_epoch() -> None:
    block, x, graph = problem("spectral", bound=0.95)
    model = Equilibrium(block, Solver(name="picard", max_iter=3, tol=1e-8), backward=Solver(max_iter=100, tol=1e-8))
    with pytest.warns(UserWarning, match="the forward solve did not converge"):
        model(x, graph).sum().backward()
    forward, backward = (model.statistics[direction].summary() for direction in ("forward", "backward"))
    assert (forward["solves"], forward["failures"], forward["iterations"]) == (1, 1, 3)
    assert (backward["solves"], backward["failures"]) == (1, 0) and backward["residual max"] <= 1e-8
    assert 1e-8 < forward["residual"] == forward["residual max"]
    model.begin_epoch()
    assert model.statistics["forward"].summary() == {} and model.failures["forward"] == 1


def test_weights_of_an_unrolled_epoch_stay_unrolled() -> None:
    block, x, graph = problem("spectral")
    model, other = (Equilibrium(block, Solver(tol=1e-8, max_iter=99), pretrain_steps=2) for _ in range(2))
    model.mode = "unroll"
    other.load_state_dict(model.state_dict())
    assert other.mode == "unroll" and torch.equal(other(x, graph), model(x, graph))
    model.mode = "solve"
    other.load_state_dict(model.state_dict())
    assert other.mode == "solve" and torch.equal(other(x, graph), model(x, graph))


def test_a_directed_graph_needs_the_row_norm() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)
    x = torch.randn(3, CHANNELS)
    with pytest.raises(ValueError, match=r"this one is directed; take the row norm"):
        ContractiveBlock(CHANNELS)(x, 0, x, graph)
    assert ContractiveBlock(CHANNELS, norm="row")(x, 0, x, graph).shape == x.shape


@pytest.mark.parametrize(
    ("make", "settings_", "message"),
    [
        (EquilibriumOptions, {"contraction": 1.0}, r"contraction=1.0 must lie in \(0, 1\)"),
        (EquilibriumOptions, {"phantom_steps": -1}, "must be 0 or more"),
        (EquilibriumOptions, {"correction_decay": 0.0}, "correction_decay=0.0 must lie"),
        (Phantom, {"steps": 0}, "phantom steps=0 must be at least 1"),
        (Phantom, {"damping": 0.0}, "phantom damping=0.0 must lie"),
        (Solver, {"name": "anderson", "beta": 0.0}, r"beta=0.0 must lie in \(0, 1\]"),
        (Solver, {"name": "anderson", "ridge": 0.0}, "ridge=0.0 must be above 0"),
        (Solver, {"name": "broyden", "beta": 0.5}, "are settings of anderson; leave them out for broyden"),
        (lambda **choices: ContractiveBlock(4, **choices), {"bound": 1.0}, "bound=1.0 must lie"),
        (lambda **choices: ContractiveBlock(4, **choices), {"norm": "max"}, "norm='max' is unknown"),
        (lambda **choices: ContractiveBlock(4, **choices), {"init": "zero"}, "init='zero' is unknown"),
    ],
)
def test_settings_are_checked(make: Any, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings_)


def test_options_reach_the_solvers() -> None:
    options = EquilibriumOptions(
        contraction=0.5, solver="anderson", memory=3, beta=0.7, ridge=1e-3, backward_solver="picard", backward_tol=0.1,
        phantom_steps=2, phantom_damping=0.5, warm_start=True, corrections=(4,),
    )  # fmt: skip
    model = options.build(nn.Identity())
    assert model.solver == Solver(name="anderson", max_iter=30, tol=1e-3, memory=3, beta=0.7, ridge=1e-3)
    assert model.backward_solver == Solver(name="picard", max_iter=40, tol=0.1)
    assert (model.phantom, model.warm_start, model.corrections) == (Phantom(steps=2, damping=0.5), True, (4,))
