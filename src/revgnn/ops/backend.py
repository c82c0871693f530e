"""The `Backend` class: the kernels of one implementation as methods; ops without a kernel run on the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Kernel = Callable[..., None]
"""A kernel writes its results into tensors of the caller; `revgnn.ops.cpu` documents the arguments of each kernel."""


class Backend:
    """The kernels of one device type: ``backend.spmm(x, csr, out=y)``.

    Args:
        name: name of the implementation, as in `REVGNN_OPS`.
        kernels: its kernels by name. A kernel may exist in one backend only.
        node_scratch: whether `gen_aggr` and `gen_aggr_backward` use their ``scratch``.
        narrow_rows: whether its kernels take bfloat16 rows beside float32 ones, as fused blocks do under autocast.

    ``names`` are the names of its kernels.

    Examples:
        >>> from revgnn.ops import Backend
        >>> mine = Backend("mine", {"double": lambda x, *, out: out.copy_(2 * x)})
        >>> sorted(mine.names)
        ['double']
    """

    attention: Kernel
    attention_backward: Kernel
    attention_scores: Kernel
    attention_scores_backward: Kernel
    batch_stats: Kernel
    edge_dot: Kernel
    edge_max: Kernel
    edge_max_backward: Kernel
    gen_aggr: Kernel
    gen_aggr_backward: Kernel
    keep_bits: Kernel
    keep_mask: Kernel
    linear: Kernel
    linear_backward: Kernel
    neighbour_max: Kernel
    neighbour_max_backward: Kernel
    norm_act_drop: Kernel
    norm_act_drop_backward: Kernel
    running_stats: Kernel
    spmm: Kernel

    def __init__(
        self,
        name: str,
        kernels: Mapping[str, Kernel] = {},
        *,
        node_scratch: bool = False,
        narrow_rows: bool = False,
    ) -> None:
        self.name, self.node_scratch, self.narrow_rows, self.names = name, node_scratch, narrow_rows, set[str]()
        for kernel in kernels:
            self.register(kernel, kernels[kernel])

    def register(self, name: str, kernel: Kernel) -> None:
        """Add or replace a kernel."""
        setattr(self, name, kernel)
        self.names.add(name)


REFERENCE = Backend("reference")
"""Has no kernels: every op runs in plain torch."""
