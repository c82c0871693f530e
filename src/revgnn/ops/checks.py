"""Checks arguments before kernels run: raises errors for invalid ones, and selects the reference for others.

A kernel reads raw memory and does not validate its arguments. The ops check everything that a user can get wrong
(`check_features`, `check_operand`), for all implementations, and run valid tensors without plain memory on the
reference (`is_readable`). Each kernel then checks every operand against its contract (`dense`, `rows`, in `operands`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_TRACED = (FakeTensor, FunctionalTensor)


# ---------------------------------------------------------------------- what goes the plain way
def is_transformed() -> bool:
    """Whether a transform that must see torch's own operators is active, to which a kernel is invisible: a transform of
    `torch.func`, forward-mode differentiation, `torch.jit.trace` or ``make_fx``."""
    if torch.compiler.is_compiling():
        return False
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._is_tracing()
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    )


def is_readable(*tensors: Tensor | None) -> bool:
    """Whether all tensors are plain memory, or are traced by a tracer that supports custom ops: not wrappers of other
    tensors, many cotangents as one (``is_grads_batched``), zeros without memory, or lazily negated views."""
    for tensor in tensors:
        if tensor is None or type(tensor) is Parameter:
            continue
        if type(tensor) is Tensor:
            if tensor.is_neg() or tensor._is_zerotensor() or is_legacy_batchedtensor(tensor):
                return False
        elif type(tensor) not in _TRACED and type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return False
    return True


def fits(tensor: Tensor | None, like: Tensor, *shape: int) -> bool:
    """Whether a kernel accepts a dense tensor of this shape together with ``like``; ``None`` is always accepted.

    Examples:
        >>> import torch
        >>> from revgnn import ops
        >>> x = torch.randn(3, 4)
        >>> ops.fits(torch.randn(4), x, 4), ops.fits(torch.randn(4).double(), x, 4)
        (True, False)
    """
    return tensor is None or (
        (type(tensor) is Parameter or type(tensor) is Tensor)
        and tensor.dtype is like.dtype
        and tensor.device == like.device
        and tensor.shape == shape
        and tensor.is_contiguous()
        and is_readable(tensor)
    )


# ---------------------------------------------------------------------- what a user can get wrong
def check_features(x: Tensor, dims: str, num_nodes: int | None = None, device: torch.device | None = None) -> None:
    """Check that node features are floating point, with one row per node of the graph and on its device.

    Args:
        x: the argument.
        dims: names of its dimensions, such as ``N, D``; empty: any number of dimensions.
        num_nodes, device: of the graph; ``None``: there is no graph.
    Raises: TypeError, ValueError, RuntimeError: the message names the expected and the actual value.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must have a floating-point type, got {x.dtype}; convert it with .float()")
    if x.layout is not torch.strided:
        raise TypeError(f"x must be a dense tensor, got one of layout {x.layout}; convert it with .to_dense()")
    if dims and x.dim() != dims.count(",") + 1:
        raise ValueError(f"x must be [{dims}], got {list(x.shape)}")
    if num_nodes is not None and x.size(0) != num_nodes:
        raise ValueError(f"x must have one row per node: got {x.size(0)} rows for {num_nodes} nodes")
    if device is not None and x.device != device:
        raise RuntimeError(f"x is on {x.device} but the graph on {device}; move it with graph.to({str(x.device)!r})")


def check_operand(value: Tensor | None, name: str, x: Tensor, *shape: int, any_width: bool = False) -> None:
    """Check the shape, device and dtype of an operand.

    Args:
        value: the operand; ``None`` is accepted.
        name: the argument's name.
        x: the node features of the same call.
        shape: the required shape.
        any_width: whether a dtype wider than that of sums over x is accepted, to be converted.
    Raises: TypeError, ValueError, RuntimeError: the message names the expected and the actual value.
    """
    if value is not None:
        check_place(value, name, x, *shape)
        if value.dtype is not x.dtype:
            check_dtype(value, name, x, any_width=any_width)


def check_place(value: Tensor, name: str, x: Tensor, *shape: int) -> None:
    """Check that a tensor has the required shape and is on x's device."""
    if value.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, as x is {list(x.shape)}; got {list(value.shape)}")
    if value.device != x.device:
        raise RuntimeError(f"{name} is on {value.device}, but x is on {x.device}; move it with .to({str(x.device)!r})")


def check_dtype(value: Tensor, name: str, x: Tensor, *, any_width: bool = False) -> None:
    """Check that a tensor is floating point and not wider than the sums over x."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating-point type, as x {x.dtype}; got {value.dtype}")
    if value.dtype == torch.float64 and x.dtype != torch.float64 and not any_width:
        raise TypeError(
            f"{name} is {value.dtype}, wider than the sums over x, which is {x.dtype}; convert one of them with .to()"
        )


# ---------------------------------------------------------------------- what a kernel relies on
def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums over values of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dense(tensor: Tensor | None, name: str, dtype: torch.dtype, device: torch.device, *shape: int) -> int:
    """Check that an operand of a kernel is dense memory of this dtype, device and shape.

    Returns: its address; 0 for ``None``.
    Raises: ValueError, TypeError, RuntimeError: the message names the operand.
    """
    if tensor is None:
        return 0
    if tensor.dtype is dtype and tensor.shape == shape and tensor.device == device and tensor.is_contiguous():
        address = tensor.data_ptr()
        if address or 0 in shape:
            return address
    raise _fault(tensor, name, dtype, device, shape)


def rows(tensor: Tensor | None, name: str, dtype: torch.dtype, device: torch.device, *shape: int) -> tuple[int, int]:
    """Check an operand as `dense` does, but allow a row stride, as in a column slice of a wider tensor.

    Returns: its address, and the elements from one row to the next; 0, 0 for ``None``.
    """
    if tensor is None:
        return 0, 0
    if tensor.dtype is dtype and tensor.shape == shape and tensor.device == device:
        strides = tensor.stride()
        if strides[1:] == (1,) or _has_dense_rows(strides, shape):
            address = tensor.data_ptr()
            if address or 0 in shape:
                return address, strides[0]
    raise _fault(tensor, name, dtype, device, shape)


def _has_dense_rows(strides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    expected = 1
    for place in range(len(shape) - 1, 0, -1):
        if strides[place] != expected and shape[place] > 1:
            return False
        expected *= shape[place]
    return True


def _fault(
    tensor: Tensor, name: str, dtype: torch.dtype, device: torch.device, shape: tuple[int, ...]
) -> ValueError | TypeError | RuntimeError:
    if tensor.shape != shape:
        return ValueError(f"a kernel needs {name} of shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.device != device:
        return RuntimeError(f"a kernel needs {name} on {device}, where its other operands are, got {tensor.device}")
    if tensor.dtype is not dtype:
        return TypeError(f"a kernel needs {name} of type {dtype}, got {tensor.dtype}")
    if tensor.data_ptr():
        return ValueError(f"a kernel needs {name} dense, got strides {tensor.stride()}; use .contiguous()")
    return ValueError(f"a kernel needs {name} in memory, got a {type(tensor).__name__} without any")
