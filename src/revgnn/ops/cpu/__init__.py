"""The compiled CPU kernels as functions without autograd that write results into the caller's tensors.

This package finds and loads the library and handles C structs and raw pointers. The ops and fused steps with their own
work space call the kernels: `out=` is written, or added to with `accumulate=True`; nothing is allocated. Rows may be
strided (a column slice of a wider tensor), columns must be dense. `operands` checks every tensor before its address is
taken; the public ops raise the errors for users.
"""

from ..backend import Backend
from ..checks import sum_dtype
from ..operands import Csr
from .attention import attention, attention_backward, attention_scores, attention_scores_backward
from .library import (
    AVAILABLE,
    DTYPES,
    STATE,
    dense_columns,
    forward_csr,
    inverse_degree,
    isa,
    reverse_csr,
    reverse_weighted,
    summable,
    use_isa,
)
from .linear import linear, linear_backward
from .messages import (
    NO_EDGE_GRADS,
    NO_EDGES,
    EdgeGrads,
    EdgeTerm,
    edge_max,
    edge_max_backward,
    gen_aggr,
    gen_aggr_backward,
)
from .norm import NO_DROP, Drop, batch_stats, keep_bits, norm_act_drop, norm_act_drop_backward, running_stats
from .sums import edge_dot, neighbour_max, neighbour_max_backward, spmm

_KERNELS = (
    attention,
    attention_backward,
    attention_scores,
    attention_scores_backward,
    batch_stats,
    edge_dot,
    edge_max,
    edge_max_backward,
    gen_aggr,
    gen_aggr_backward,
    keep_bits,
    linear,
    linear_backward,
    neighbour_max,
    neighbour_max_backward,
    norm_act_drop,
    norm_act_drop_backward,
    running_stats,
    spmm,
)
BACKEND = Backend("native", {kernel.__name__: kernel for kernel in _KERNELS}, node_scratch=True, narrow_rows=True)
"""The kernels for the CPU."""

__all__ = [
    "AVAILABLE",
    "BACKEND",
    "DTYPES",
    "NO_DROP",
    "NO_EDGES",
    "NO_EDGE_GRADS",
    "STATE",
    "Csr",
    "Drop",
    "EdgeGrads",
    "EdgeTerm",
    "dense_columns",
    "forward_csr",
    "inverse_degree",
    "isa",
    "reverse_csr",
    "reverse_weighted",
    "sum_dtype",
    "summable",
    "use_isa",
]
