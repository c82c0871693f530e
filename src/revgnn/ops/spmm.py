"""Sums, means and maxima of neighbours on the kernels, with their gradients.

Outside of torch.compile a lean autograd Function carries the call (a custom op costs several times its overhead, which
nets of a thousand small layers would feel); inside, and on tensor subclasses, the custom ops `revgnn::spmm` and
`revgnn::neighbour_max`. Both run the same code. Saved for the backward: the weights; x if the weights need a gradient;
the int32 positions of the maxima.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Graph
from . import double_backward, reference
from .backend import kernels
from .cpu import Csr, dense_columns, forward_csr, inverse_degree, reverse_csr, reverse_weighted, sum_dtype, summable
from .cpu.library import inverse_of
from .tracing import is_traced, reverse_tensors


def spmm(x: Tensor, graph: Graph, weight: Tensor | None, reduce: str) -> Tensor:
    """Aggregate neighbours; contract in `revgnn.ops.spmm`."""
    out: Tensor
    if reduce == "max":
        if is_traced(x):
            out, _ = _max_op(x, graph.indptr, graph.indices, *reverse_tensors(graph, x))
        else:
            out = _Max.apply(x, graph)  # type: ignore[no-untyped-call]
    elif is_traced(x):
        reverse = reverse_tensors(graph, x, weight)
        out = _spmm_op(x, weight, graph.indptr, graph.indices, *reverse, reduce == "mean")
    else:
        out = _Sum.apply(x, weight, graph, reduce == "mean")  # type: ignore[no-untyped-call]
    return out


# ---------------------------------------------------------------------- what both ways run
def _forward(x: Tensor, weight: Tensor | None, csr: Csr, mean: bool) -> Tensor:
    x = dense_columns(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    kernels(x).spmm(x, csr, out=out, weight=summable(weight, x), mean=mean)
    return out


def _grad_x(grad: Tensor, reverse: Csr, weight: Tensor | None, inverse_degree: Tensor | None) -> Tensor:
    grad = dense_columns(grad)
    dx = torch.empty_like(grad, memory_format=torch.contiguous_format)
    kernels(grad).spmm(grad, reverse, out=dx, weight=summable(weight, grad), src_scale=inverse_degree)
    return dx


def _grad_weight(grad: Tensor, x: Tensor, csr: Csr, mean: bool) -> Tensor:
    out = torch.empty(csr.indices.numel(), dtype=sum_dtype(x.dtype), device=x.device)
    kernels(x).edge_dot(dense_columns(x), dense_columns(grad), csr, out=out, mean=mean)
    return out


# ---------------------------------------------------------------------- the lean way
class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, graph: Graph, mean: bool) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.graph, ctx.mean = graph, mean
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _forward(x, weight, forward_csr(graph), mean)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        graph, mean, dx, dweight = ctx.graph, ctx.mean, None, None
        if double_backward.asks_reference(grad):
            dx, dweight = _followed(grad, x, weight, graph, mean, ctx.needs_input_grad[:2])
            return dx, dweight, None, None
        if ctx.needs_input_grad[0]:
            csr, weight = reverse_weighted(graph, weight)
            dx = _grad_x(grad, csr, weight, inverse_degree(graph, grad.dtype) if mean else None)
        if ctx.needs_input_grad[1]:
            dweight = _grad_weight(grad, x, forward_csr(graph), mean).to(weight.dtype)
        return dx, dweight, None, None


def _followed(
    grad: Tensor, x: Tensor | None, weight: Tensor | None, graph: Graph, mean: bool, needs: tuple[bool, bool]
) -> list[Tensor | None]:
    # Where no x was saved the gradient does not depend on it.
    x = torch.zeros_like(grad).requires_grad_() if x is None else x
    reduce: reference.Reduce = "mean" if mean else "sum"
    return double_backward.gradients(
        lambda x, w: reference.spmm(x, graph, w, reduce=reduce), (x, weight), (grad,), needs
    )


class _Max(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, graph: Graph) -> Tensor:  # type: ignore[no-untyped-def]
        out, arg = _max_forward(x, forward_csr(graph), ctx.needs_input_grad[0])
        ctx.graph = graph
        ctx.save_for_backward(arg)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (arg,) = ctx.saved_tensors
        if double_backward.asks_reference(grad):
            return double_backward.of_maximum(grad, arg, ctx.graph), None
        return max_backward(grad, arg, reverse_csr(ctx.graph)), None


def _max_forward(x: Tensor, csr: Csr, with_arg: bool) -> tuple[Tensor, Tensor | None]:
    x = dense_columns(x)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    arg = torch.empty(x.shape, dtype=torch.int32, device=x.device) if with_arg else None
    kernels(x).neighbour_max(x, csr, out=out, arg=arg)
    return out, arg


def max_backward(grad: Tensor, arg: Tensor, reverse: Csr) -> Tensor:
    """Send each gradient to the source of the edge that ``arg`` names."""
    grad = dense_columns(grad)
    dx = torch.empty_like(grad, memory_format=torch.contiguous_format)
    kernels(grad).neighbour_max_backward(grad, arg, reverse, dx=dx)
    return dx


# ---------------------------------------------------------------------- custom ops
@torch.library.custom_op("revgnn::spmm", mutates_args=(), device_types=("cpu", "cuda"))
def _spmm_op(
    x: Tensor,
    weight: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor | None,
    reverse_indices: Tensor | None,
    reverse_edge_ids: Tensor | None,
    mean: bool,
) -> Tensor:
    return _forward(x, weight, Csr(indptr, indices), mean)


@_spmm_op.register_fake
def _(x, weight, indptr, indices, reverse_indptr, reverse_indices, reverse_edge_ids, mean):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("revgnn::spmm_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _spmm_backward_op(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor,
    reverse_indices: Tensor,
    reverse_edge_ids: Tensor,
    mean: bool,
) -> tuple[Tensor, Tensor]:
    reverse = Csr(reverse_indptr, reverse_indices, reverse_edge_ids)
    dx = _grad_x(grad, reverse, weight, inverse_of(indptr, grad.dtype) if mean else None)
    if x is None or weight is None:
        return dx, grad.new_empty(0)
    return dx, _grad_weight(grad, x, Csr(indptr, indices), mean).to(weight.dtype)


@_spmm_backward_op.register_fake
def _(grad, x, weight, indptr, indices, reverse_indptr, reverse_indices, reverse_edge_ids, mean):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(grad, memory_format=torch.contiguous_format)
    return dx, grad.new_empty(0) if x is None or weight is None else torch.empty_like(weight)


def _spmm_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, *graph, mean = inputs
    ctx.mean = mean
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, *graph)


def _spmm_vjp(ctx, grad):  # type: ignore[no-untyped-def]
    dx, dweight = _spmm_backward_op(grad, *ctx.saved_tensors, ctx.mean)
    return dx, dweight if ctx.needs_input_grad[1] else None, None, None, None, None, None, None


_spmm_op.register_autograd(_spmm_vjp, setup_context=_spmm_setup)
double_backward.refuse_second(_spmm_backward_op)


@torch.library.custom_op("revgnn::neighbour_max", mutates_args=(), device_types=("cpu", "cuda"))
def _max_op(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    reverse_indptr: Tensor | None,
    reverse_indices: Tensor | None,
    reverse_edge_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    out, arg = _max_forward(x, Csr(indptr, indices), True)
    assert arg is not None
    return out, arg


@_max_op.register_fake
def _(x, indptr, indices, reverse_indptr, reverse_indices, reverse_edge_ids):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty(x.shape, dtype=torch.int32)


@torch.library.custom_op("revgnn::neighbour_max_backward", mutates_args=(), device_types=("cpu", "cuda"))
def max_backward_op(
    grad: Tensor, arg: Tensor, reverse_indptr: Tensor, reverse_indices: Tensor, reverse_edge_ids: Tensor
) -> Tensor:
    """Custom op of `max_backward`."""
    return max_backward(grad, arg, Csr(reverse_indptr, reverse_indices, reverse_edge_ids))


@max_backward_op.register_fake
def _(grad, arg, reverse_indptr, reverse_indices, reverse_edge_ids):  # type: ignore[no-untyped-def]
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _max_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[3:])


def _max_vjp(ctx, grad, _):  # type: ignore[no-untyped-def]
    return max_backward_op(grad, *ctx.saved_tensors), None, None, None, None, None


_max_op.register_autograd(_max_vjp, setup_context=_max_setup)
double_backward.refuse_second(max_backward_op)
