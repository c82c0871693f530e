"""How close is equal: one table for the whole suite, read by every comparison of floating-point results."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (2e-3, 2e-3),
}
"""dtype -> (rtol, atol); about 2^12 units in the last place for float64, 2^6 for float32, 4 for the half types."""


def assert_close(actual: Tensor, expected: Tensor, *, dtype: torch.dtype | None = None) -> None:
    """Compare by the table; ``dtype`` is the one that was computed in, where the results are held in a wider one."""
    rtol, atol = TOLERANCES[dtype or actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Euclidean norm of the difference over that of what was expected, in float64."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(torch.finfo(torch.float64).tiny))
