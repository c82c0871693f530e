"""The kernels of one implementation, each a method of one object. What it has none for runs on the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Kernel = Callable[..., None]
"""Writes its results into tensors that the caller gives; `revgnn.ops.cpu` says which arguments each kernel takes."""


class Backend:
    """The kernels that run on one kind of device: ``backend.spmm(x, csr, out=y)``.

    Args:
        name: of the implementation, as `REVGNN_OPS` says it.
        kernels: what it has, by name. A kernel may exist for one backend alone.
        node_scratch: whether `gen_aggr` and `gen_aggr_backward` have a use for their ``scratch``.

    ``names`` are those of the kernels that it has.
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
    spmm: Kernel

    def __init__(self, name: str, kernels: Mapping[str, Kernel] = {}, *, node_scratch: bool = False) -> None:
        self.name, self.node_scratch, self.names = name, node_scratch, set[str]()
        for kernel in kernels:
            self.register(kernel, kernels[kernel])

    def register(self, name: str, kernel: Kernel) -> None:
        """Add a kernel, or put another in its place."""
        setattr(self, name, kernel)
        self.names.add(name)


REFERENCE = Backend("reference")
"""Has no kernels: every op runs in plain torch."""
