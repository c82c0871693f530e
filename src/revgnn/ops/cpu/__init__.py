"""The compiled CPU kernels as functions on tensors: no autograd, results written into tensors that the caller gives.

Hides finding and loading the library, the C structs and raw pointers. These functions are the layer under the ops and
under fused steps that run in a work space of their own: `out=` is written, or added to with `accumulate=True`; nothing
is allocated. Rows may be strided (a column slice of a wider tensor), columns must be dense. `operands` looks at every
tensor before its address is taken; the public ops explain what a user can get wrong.
"""

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
from .norm import NO_DROP, Drop, batch_stats, keep_bits, norm_act_drop, norm_act_drop_backward
from .sums import edge_dot, neighbour_max, neighbour_max_backward, spmm

NODE_SCRATCH = True
"""Whether `gen_aggr` and `gen_aggr_backward` have a use for their ``scratch``."""

__all__ = [
    "AVAILABLE",
    "DTYPES",
    "NODE_SCRATCH",
    "NO_DROP",
    "NO_EDGES",
    "NO_EDGE_GRADS",
    "STATE",
    "Csr",
    "Drop",
    "EdgeGrads",
    "EdgeTerm",
    "attention",
    "attention_backward",
    "attention_scores",
    "attention_scores_backward",
    "batch_stats",
    "dense_columns",
    "edge_dot",
    "edge_max",
    "edge_max_backward",
    "forward_csr",
    "gen_aggr",
    "gen_aggr_backward",
    "inverse_degree",
    "isa",
    "keep_bits",
    "linear",
    "linear_backward",
    "neighbour_max",
    "neighbour_max_backward",
    "norm_act_drop",
    "norm_act_drop_backward",
    "reverse_csr",
    "reverse_weighted",
    "spmm",
    "sum_dtype",
    "summable",
    "use_isa",
]
