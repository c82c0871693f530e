"""Validate an ``edge_index``: a dense integer tensor in memory, in range, not traced; and fingerprint its content"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

_T = TypeVar("_T")
_PLAIN = (Tensor, torch.nn.Parameter)
_FROM_SPARSE = (
    "take edge_index, edge_weight = torch_geometric.utils.to_edge_index(adj_t.t()) of an adj_t [destinations, sources]"
)


def is_memory(tensor: Tensor) -> bool:
    """Whether a tensor has real memory, and is no proxy of a tracer or of a function transform."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return type(tensor) in _PLAIN and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@contextmanager
def in_memory() -> Iterator[None]:
    """Compute ordinary tensors inside the context: no inference mode, autograd, function transforms or tracers."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if torch._C._functorch.peek_interpreter_stack() is not None:
            stack.enter_context(temporarily_clear_interpreter_stack())
        if torch._C._len_torch_dispatch_stack() or _len_torch_dispatch_stack_pre_dispatch():  # type: ignore[no-untyped-call]
            stack.enter_context(_disable_current_modes())  # its heavy imports are done already where a mode is active
        yield


def is_for_onnx() -> bool:
    """Whether `torch.onnx.export` traces a program, which may call torch's own operators alone."""
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def trace_csr(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return indptr, indices and edge_ids of a `Graph` from a traced ``edge_index``, without a branch on its values."""
    check_edge_index(edge_index)
    if not is_for_onnx():
        made: tuple[Tensor, Tensor, Tensor] = torch.ops.revgnn.csr(edge_index, num_nodes)
        return made
    src, dst = edge_index.long()
    order = torch.sort(dst * num_nodes + src).indices  # ONNX has no stable sort, and repeated edges may change places
    degree = dst.new_zeros(num_nodes).scatter_add(0, dst, torch.ones_like(dst))
    return torch.cat([degree.new_zeros(1), degree.cumsum(0)]), src[order], order


def trace_loops(indptr: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return indptr and indices of a traced graph with one self loop per node, from its own."""
    if not is_for_onnx():
        made: tuple[Tensor, Tensor] = torch.ops.revgnn.self_looped(indptr, indices)
        return made
    edges, nodes = torch.stack([indices, destinations_of(indptr, indices.numel())]), indptr.numel() - 1
    loops = torch.arange(nodes, device=indptr.device).expand(2, -1)
    return trace_csr(torch.cat([edges[:, edges[0] != edges[1]], loops], 1), nodes)[:2]


def destinations_of(indptr: Tensor, num_edges: int) -> Tensor:
    """Return [E] int64, the destination of each edge of a CSR, ascending."""
    if is_for_onnx():  # none of its operators repeats; at an edge, count the rows that have ended
        ends = indptr.new_zeros(num_edges + 1).scatter_add(0, indptr[1:], torch.ones_like(indptr[1:]))
        return ends.cumsum(0)[:-1].long()
    nodes = torch.arange(indptr.numel() - 1, device=indptr.device)
    return torch.repeat_interleave(nodes, indptr.diff().long(), output_size=num_edges)


def unwrapped(tensor: Tensor) -> Tensor:
    """Unwrap a tensor that `torch.func.grad` or `jvp` has wrapped, which has no effect on integers."""
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def plain(tensor: Tensor) -> Tensor:
    """Convert a tensor subclass to a plain tensor with readable memory; return anything else unchanged."""
    if isinstance(tensor, Tensor):
        tensor = unwrapped(tensor)
    if not isinstance(tensor, Tensor) or type(tensor) in _PLAIN:
        return tensor
    if hasattr(tensor, "as_tensor"):  # PyG's EdgeIndex and Index
        return plain(tensor.as_tensor())
    try:
        with torch._C.DisableTorchFunctionSubclass():
            alias = tensor.as_subclass(Tensor)
            if alias.layout != torch.strided or alias.is_meta or alias.data_ptr() or not alias.numel():
                return alias
        # A wrapper has no memory of its own; only its copy_ can read it.
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise TypeError(
            f"a {type(tensor).__name__} does not copy into a plain tensor ({error}); pass the tensor that it wraps"
        ) from error


def fingerprint(edge_index: Tensor) -> tuple[int, ...]:
    """Hash the content of an ``edge_index``, order included.

    Args:
        edge_index: [2, E] integers.
    Returns: E, and for every chunk of indices their sum modulo 2^64, weighted by odd factors of their positions.
    Cost: one pass; 1.5 ms for a million edges on one core.
    """
    factors = _factors(edge_index.device)
    sums = []
    for row in edge_index:
        for run in row.split(_RUN):
            run, weights = run.long().contiguous(), factors[: run.numel()]  # dot is slow on strides
            # Both give the same bits; CUDA has no integer dot product.
            sums.append(run.dot(weights) if run.device.type == "cpu" else (run * weights).sum())
    return edge_index.size(1), *torch.stack(sums).tolist()


class ByContent(Generic[_T]):
    """A cache of the value that was last derived from a tensor [E] or [N], kept while tensors are equal to that one.

    A change of any origin is noticed: through ``.data``, or by another owner of the memory. Copies and pickles are
    empty.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, object, _T] | None = None

    def get(self, tensor: Tensor, key: object, make: Callable[[Tensor], _T]) -> _T:
        """Return the cached value for this content and key, or ``make`` it of a copy, which the value may keep.

        Cost: one pass.
        """
        if not is_memory(tensor):
            return make(tensor)
        last = self._last  # read once, because another thread may replace it
        with in_memory():
            if last is not None and last[1] == key and _are_equal(last[0], tensor):
                return last[2]
            copy = tensor.clone()
            value = make(copy)
        self._last = copy, key, value
        return value

    def __reduce__(self) -> tuple[type[ByContent[_T]], tuple[()]]:
        return type(self), ()


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.device) == (other.dtype, other.device) and torch.equal(one, other)


_RUN = 2**17


@cache
def _factors(device: torch.device) -> Tensor:
    numbers = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, _RUN) | 1
    return torch.from_numpy(numbers).to(device)


def check_constant(edge_weight: Tensor | None) -> None:
    """Raise if the weights of a graph, which keeps what it derives from them, are to be differentiated or mapped over.

    Raises: ValueError: they need a gradient, or have a forward-mode tangent. RuntimeError: under `torch.func.vmap` over
        them.
    """
    if edge_weight is None or torch.compiler.is_dynamo_compiling():
        return
    tangent = forward_ad.unpack_dual(edge_weight).tangent  # type: ignore[no-untyped-call]
    if tangent is not None or (edge_weight.requires_grad and torch.is_grad_enabled()):
        raise ValueError(
            "a graph's edge weights are constants, and edge_weight needs a gradient; detach() it, or call "
            "revgnn.GCNConv(...)(x, edge_index, edge_weight), which differentiates them"
        )
    if torch._C._functorch.is_batchedtensor(edge_weight):
        raise RuntimeError(
            "torch.func.vmap cannot map over the edge weights of a graph, which are constants; loop over them, or call "
            "revgnn.GCNConv(...)(x, edge_index, edge_weight)"
        )


def refuse_typed(data: object) -> None:
    """Raise TypeError for PyG's ``HeteroData``."""
    if (types := getattr(data, "node_types", None)) is not None:
        raise TypeError(
            f"got a {type(data).__name__} with the node types {list(types)[:5]}: typed graphs are not here yet; "
            "data.to_homogeneous() makes one graph of them where their features have one width"
        )


def refuse_recording(structure: object, num_nodes: object) -> None:
    """Raise under tools that would record one graph as constants, or cannot depend on a graph.

    Args:
        structure: ``edge_index`` or a tensor of a graph; other objects pass, unless they are proxies.
        num_nodes: N.
    Raises: RuntimeError: under `torch.jit.trace`, `torch.fx.symbolic_trace` or `torch.func.vmap` over the edges.
    """
    if torch.compiler.is_dynamo_compiling():
        return
    recorder = _recorder(structure)
    if recorder is not None:
        tool, why = recorder, "it would record this one graph as constants"
    elif isinstance(structure, torch.fx.Proxy) or isinstance(num_nodes, torch.fx.Proxy):
        tool, why = "torch.fx.symbolic_trace", "what is computed depends on the graph"
    elif isinstance(structure, Tensor) and torch._C._functorch.is_batchedtensor(structure):
        raise RuntimeError(
            "torch.func.vmap cannot map over graphs, which differ in their edges; batch them into one "
            "(Graph.from_data of PyG's Batch), or loop over them"
        )
    else:
        return
    raise RuntimeError(
        f"{tool} cannot take a graph network: {why}; use torch.export.export after model.eval(), or torch.compile"
    )


def _recorder(structure: object) -> str | None:
    """Return the name of a tool that records operators on ordinary tensors, or None."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "torch.jit.trace"
    is_proxied = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    return "make_fx" if is_proxied and type(structure) in _PLAIN and not torch.compiler.is_exporting() else None


def check_edge_index(edge_index: Tensor) -> None:
    """Raise TypeError or ValueError unless ``edge_index`` is a dense [2, E] integer tensor with memory."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index must be a tensor [2, E], got {type(edge_index).__name__}{remedy(edge_index)}")
    if edge_index.layout != torch.strided:
        raise TypeError(f"edge_index must be a dense tensor [2, E], got {edge_index.layout}; {_FROM_SPARSE}")
    if edge_index.is_meta:
        raise ValueError("edge_index is on meta, where tensors have no values; make the graph from its real edges")
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"edge_index must be int64 or int32, got {edge_index.dtype}; convert it with .long()")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"edge_index must have shape [2, E], got {list(edge_index.shape)}; transpose it if its rows are edges"
        )


def remedy(value: object) -> str:
    """Return the remedy for a value that is no graph, if one is known, else an empty text."""
    if type(value).__name__ == "SparseTensor":
        return f"; {_FROM_SPARSE}"
    if hasattr(value, "edge_index"):
        return "; pass its edge_index, or Graph.from_data of it"
    return ""


def check_range(edge_index: Tensor, num_nodes: int) -> None:
    """Raise ValueError for an index out of range, naming the first edge."""
    bad = (edge_index < 0) | (edge_index >= num_nodes)
    if not bool(bad.any()):
        return
    edge = int(bad.any(0).nonzero()[0])
    row = int(bad[:, edge].nonzero()[0])
    raise ValueError(
        f"edge_index must lie in 0..{num_nodes - 1}: edge {edge} has {'source' if row == 0 else 'destination'} "
        f"{int(edge_index[row, edge])} ({int(bad.any(0).sum())} such edges); "
        "pass the right num_nodes or renumber the nodes"
    )


def check_batch(batch: Tensor, num_nodes: int, num_graphs: int | None) -> tuple[Tensor, int]:
    """Return a copy of ``batch`` as int64, and B; raise ValueError unless it is [N], ascending and below B."""
    batch = plain(batch)
    if batch.dim() != 1 or batch.numel() != num_nodes:
        raise ValueError(f"batch must have shape [{num_nodes}], got {list(batch.shape)}")
    batch = batch.to(torch.int64, copy=True)
    if num_nodes and (bool((batch.diff() < 0).any()) or int(batch[0]) < 0):
        raise ValueError("batch must be ascending and start at 0 or above: the nodes of a graph are contiguous")
    least = int(batch[-1]) + 1 if num_nodes else 0
    if num_graphs is not None and num_graphs < least:
        raise ValueError(f"num_graphs={num_graphs} but batch names graph {least - 1}; pass at least {least}")
    return batch, least if num_graphs is None else num_graphs
