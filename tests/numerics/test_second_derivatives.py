"""Derivatives of derivatives through every op, and the transforms of `torch.func`: those of the reference, or an error.

The kernels differentiate once; whoever asks for more must not be given zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, hvp
from torch.fx.experimental.proxy_tensor import make_fx

from op_cases import CASES, calls, results
from revgnn import ModelConfig, build_model, ops
from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.nn import Block, GATConv, GCNConv, GENConv, NormActDrop, SAGEConv
from revgnn.nn.convs import GATOptions
from revgnn.ops import cpu, triton
from tolerances import assert_close

KERNELS = [
    pytest.param("native", marks=pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)),
    pytest.param("triton", marks=pytest.mark.skipif(not triton.interpreted(), reason="Triton's kernels are compiled")),
]
N, WIDTH = 7, 3
EDGES = torch.tensor([[0, 1, 1, 2, 4, 4, 5, 0, 3, 3, 1, 2], [1, 0, 2, 2, 1, 0, 5, 5, 4, 4, 4, 0]])


def _graph() -> Graph:
    """A graph that nothing has been derived of yet, node 6 without edges."""
    return Graph.from_edge_index(EDGES, N)


def _case(name: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A scalar function of a case's inputs, and the inputs; what is random of it is drawn before."""
    graph, case = _graph(), CASES[name]
    inputs = case.make(graph, WIDTH)
    weights = torch.randn(N, *inputs["x"].shape[1:], dtype=torch.float64)

    def function(*values: Tensor) -> Tensor:
        return (case.run(_graph(), WIDTH, **dict(zip(inputs, values, strict=True))) * weights).sin().sum()

    return function, list(inputs.values())


def _close(found: object, expected: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        scale = max(1.0, float(expected.abs().max()))
        assert_close(found.detach() / scale, expected.detach() / scale)
        return
    assert isinstance(expected, tuple | list)
    assert isinstance(found, tuple | list)
    for one, other in zip(found, expected, strict=True):
        _close(one, other)


# ---------------------------------------------------------------------- autograd, twice
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernels", KERNELS)
def test_second_derivatives_are_those_of_the_reference(name: str, kernels: ops.Choice) -> None:
    function, inputs = _case(name)
    vectors = tuple(torch.randn_like(value) for value in inputs)
    with ops.using("reference"):
        expected = hvp(function, tuple(inputs), vectors)
    with ops.using(kernels):
        _close(hvp(function, tuple(inputs), vectors), expected)


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("name", [name for name in CASES if "softmax_sg" not in name])
def test_second_derivatives_are_those_of_finite_differences(name: str) -> None:
    function, inputs = _case(name)
    leaves = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradgradcheck(function, leaves, check_batched_grad=False)


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
def test_the_gradient_of_a_maximum_is_constant_but_for_its_cotangent() -> None:
    graph, x, w = _graph(), torch.randn(N, WIDTH, requires_grad=True), torch.randn(N, WIDTH, requires_grad=True)
    for call in (
        lambda x: ops.spmm(x, graph, reduce="max"),
        lambda x: ops.gen_aggr(x, graph, torch.ones(12, 2), torch.ones(WIDTH, 2), reduce="max"),
    ):
        (grad,) = torch.autograd.grad((call(x) * w).sum(), x, create_graph=True)
        (again,) = torch.autograd.grad(grad.square().sum(), w)
        with ops.using("reference"):
            (other,) = torch.autograd.grad((call(x) * w).sum(), x, create_graph=True)
            (expected,) = torch.autograd.grad(other.square().sum(), w)
        assert_close(again, expected)


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("conv", ["gcn", "sage", "gen", "gat"])
def test_forces_are_matched_through_a_stored_network(conv: str) -> None:
    """A loss on the gradient of the input, as of energies and forces; and a gradient penalty beside a loss."""
    found = []
    for choice in ("reference", "native"):
        torch.manual_seed(0)
        config = ModelConfig(conv=conv, num_layers=3, hidden_channels=12, dropout=0.0, backprop="store")
        model = build_model(config, GraphInfo(in_channels=4, num_outputs=2)).double()
        x = torch.randn(N, 4, dtype=torch.float64, requires_grad=True)
        with ops.using(choice):
            energy = model(x, _graph())
            (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
            assert force.requires_grad
            (energy.square().sum() + force.square().sum()).backward()
        found.append([x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    _close(found[1], found[0])
    assert float(found[0][0].abs().max()) > 0


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
def test_half_precision_and_hessians() -> None:
    graph, x = _graph(), torch.randn(N, WIDTH)

    def energy(x: Tensor) -> Tensor:
        return ops.norm_act_drop(ops.spmm(x, graph, reduce="mean"), norm="batch").float().square().sum()

    with ops.using("reference"):
        expected = hessian(energy, x)
    assert_close(hessian(energy, x), expected)
    with ops.using("reference"):
        expected = hessian(energy, x.bfloat16())
    assert_close(hessian(energy, x.bfloat16()) / 30, expected / 30)


# ---------------------------------------------------------------------- custom ops
@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("name", ["spmm", "softmax", "attention", "layer", "edges max"])
def test_a_second_derivative_of_a_custom_op_is_refused(name: str) -> None:
    class Named(Tensor):
        """A subclass with memory, which takes the custom ops."""

    call, leaves = calls(_graph(), WIDTH)[name]
    inputs = [leaf.detach().as_subclass(Named).requires_grad_() for leaf in leaves]
    (first, *_) = torch.autograd.grad(call(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=r'revgnn\.ops\.using\("reference"\)'):
        torch.autograd.grad(first.square().sum(), inputs)


# ---------------------------------------------------------------------- transforms, forward mode, tracers
@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("attention", "layer, mask")])  # random inside
def test_function_transforms(name: str) -> None:
    function, inputs = _case(name)
    places = tuple(range(len(inputs)))
    leaves = [value.clone().requires_grad_() for value in inputs]
    expected = torch.autograd.grad(function(*leaves), leaves)
    _close(torch.func.grad(function, argnums=places)(*inputs), expected)

    directions = tuple(torch.randn_like(value) for value in inputs)
    along = sum(((a * b).sum() for a, b in zip(expected, directions, strict=True)), torch.zeros(()))
    _close(torch.func.jvp(function, tuple(inputs), directions)[1], along)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, b) for a, b in zip(inputs, directions, strict=True)]
        _close(forward_ad.unpack_dual(function(*duals)).tangent, along)

    many = [torch.stack([value, 2 * value]) for value in inputs]
    _close(torch.func.vmap(function)(*many), torch.stack([function(*(v[i] for v in many)) for i in range(2)]))
    _close(
        torch.func.hessian(lambda x: function(x, *inputs[1:]))(inputs[0]),
        hessian(lambda x: function(x, *inputs[1:]), inputs[0]),
    )


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("make", [
    lambda: GCNConv(4, 4), lambda: GCNConv(4, 2), lambda: SAGEConv(4, 4), lambda: GENConv(4, 4),
    lambda: GATConv(4, 4, options=GATOptions(heads=2)),
])  # fmt: skip
def test_a_block_over_an_ensemble_of_its_weights(make: Callable[[], nn.Module]) -> None:
    blocks = [Block(NormActDrop(4), make()) for _ in range(2)]
    graph, x = _graph(), torch.randn(N, 4)
    expected = torch.stack([block(x, 1, graph).detach() for block in blocks])
    parameters, buffers = torch.func.stack_module_state(blocks)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(blocks[0], (parameters, buffers), (x, 1, graph))
        return out

    assert_close(torch.func.vmap(call)(parameters, buffers).detach(), expected)


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
@pytest.mark.parametrize("name", ["spmm", "mean", "softmax", "edges softmax", "layer", "none"])
def test_a_tracer_sees_what_is_computed(name: str) -> None:
    """Traced with some values, a program gives the right result with others."""
    call, leaves = calls(_graph(), WIDTH)[name]
    others = [leaf.detach() * 2 for leaf in leaves]
    traced = make_fx(lambda *values: call(*values))(*(leaf.detach() for leaf in leaves))
    assert_close(traced(*others), call(*others))
    assert len(results(call, leaves)) == 1 + len(leaves)
