"""Every op, every implementation, every dtype, on graphs of every awkward shape: value and all gradients.

The cases stand in `op_cases`; Triton's, which the interpreter runs slowly, have tests of their own. Allocations are
poisoned with NaN.
"""

from __future__ import annotations

import pytest
import torch

from op_cases import CASES, DTYPES, GRAPHS, check
from revgnn import ops
from revgnn.ops import cpu

pytestmark = pytest.mark.usefixtures("poison")

IMPLEMENTATIONS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)),
]
WIDTHS = [1, 7, 16, 40, 63, 64, 90, 112, 128, 300]


def _every_case() -> list[tuple[str, str, int]]:
    """(case, graph, width): every graph at one width, and every width on one graph."""
    cases = []
    for name, case in CASES.items():
        cases += [(name, graph, 7) for graph in (GRAPHS if case.over_edges else ("no nodes", "isolated"))]
        # One channel minus its mean is rounding noise, times 1 / sqrt(eps): the norm over channels starts at two.
        cases += [(name, "isolated", width) for width in WIDTHS if width > name.startswith("layer") and width != 7]
    return cases


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "graph_name", "width"), _every_case())
def test_value_and_every_gradient(
    name: str, graph_name: str, width: int, implementation: ops.Choice, dtype: torch.dtype
) -> None:
    check(name, GRAPHS[graph_name], width, implementation, dtype)
