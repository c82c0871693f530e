"""The choices of a `Stack` (coupling, backprop, state, schedule) and the rules between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypedDict

from .budget import parse_bytes
from .couplings import Coupling, GroupedAdditive, Residual
from .integer_state import WORDS

CouplingName = Literal["residual", "grouped"]
BackpropName = Literal["store", "checkpoint", "reversible"]
StateName = Literal["float", "exact", "exact64"]
ScheduleName = Literal["cycle", "head_repeat"]

COUPLINGS: dict[str, Callable[[int], Coupling]] = {"residual": lambda _: Residual(), "grouped": GroupedAdditive}
"""Couplings by name: each makes one for a number of groups.

Examples:
    >>> from revgnn.stack import COUPLINGS
    >>> sorted(COUPLINGS)
    ['grouped', 'residual']
    >>> COUPLINGS["grouped"](4).num_groups
    4
"""
BACKPROPS: tuple[str, ...] = ("store", "checkpoint", "reversible")
"""Ways to differentiate a stack.

Examples:
    >>> from revgnn.stack import BACKPROPS
    >>> BACKPROPS
    ('store', 'checkpoint', 'reversible')
"""
STATES: tuple[str, ...] = ("float", *WORDS)
"""Number formats of a reversible stack's state.

Examples:
    >>> from revgnn.stack import STATES
    >>> STATES
    ('float', 'exact', 'exact64')
"""

LAYERS_PER_SEGMENT = 32
"""Segment length of ``segments="auto"``: a float32 state drifts by less than 5e-6 over it, even with BatchNorm."""


class StackChoices(TypedDict):
    """The arguments of `Stack` that decide how it is evaluated and differentiated."""

    num_layers: int
    coupling: CouplingName
    num_groups: int
    backprop: BackpropName
    segments: int | Literal["auto"] | None
    weight_tied: bool
    num_distinct: int
    schedule: ScheduleName
    state: StateName
    memory_budget: int | str | None


def check_choices(
    channels: int, choices: StackChoices, *, drift_every: int = 0, channels_name: str = "channels"
) -> None:
    """Raise ValueError for an impossible combination of choices, naming the argument to change."""
    coupling, backprop, schedule = choices["coupling"], choices["backprop"], choices["schedule"]
    num_layers = choices["num_layers"]
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling={coupling!r} is not known; choose one of {', '.join(COUPLINGS)}")
    if backprop not in BACKPROPS:
        raise ValueError(f"backprop={backprop!r} is not known; choose one of {', '.join(BACKPROPS)}")
    if schedule not in ("cycle", "head_repeat"):
        raise ValueError(f"schedule={schedule!r} is not known; choose cycle or head_repeat")
    if num_layers < 0:
        raise ValueError(f"num_layers must be 0 or more, got {num_layers}")
    _check_coupling(channels, coupling, choices["num_groups"], backprop, channels_name)
    _check_layers(num_layers, backprop, choices["segments"], choices["weight_tied"], choices["num_distinct"])
    _check_reversible(backprop, choices["state"], choices["memory_budget"], drift_every)


def num_segments(segments: int | str | None, num_layers: int, backprop: str) -> int:
    """Return the number of segments for a value of ``segments``, at least 1."""
    if isinstance(segments, int):
        return segments
    if segments is None:
        return max(num_layers, 1) if backprop == "checkpoint" else 1
    # Reversible: the fewest saved states that bound the drift. Checkpoint: sqrt(L) gives the lowest peak.
    length = LAYERS_PER_SEGMENT if backprop == "reversible" else math.sqrt(num_layers)
    return max(math.ceil(num_layers / length), 1) if num_layers else 1


def _check_coupling(channels: int, coupling: str, num_groups: int, backprop: str, channels_name: str) -> None:
    if coupling == "residual" and backprop == "reversible":
        raise ValueError(
            "backprop='reversible' needs coupling='grouped': a residual layer has no inverse; "
            "change the coupling, or choose backprop='checkpoint'"
        )
    if coupling == "grouped":
        if num_groups < 2:
            raise ValueError(f"num_groups must be 2 or more for coupling='grouped', got {num_groups}")
        if channels % num_groups:
            below = channels - channels % num_groups
            choices = " or ".join(str(width) for width in (below, below + num_groups) if width)
            raise ValueError(
                f"{channels_name}={channels} must be divisible by num_groups={num_groups}; choose {choices}"
            )


def _check_layers(
    num_layers: int, backprop: str, segments: int | str | None, weight_tied: bool, num_distinct: int
) -> None:
    if segments is not None:
        if backprop == "store":
            raise ValueError("segments divides a stack that is recomputed; with backprop='store' leave it None")
        if isinstance(segments, str):
            if segments != "auto":
                raise ValueError(f"segments={segments!r} is not known; give a number, 'auto' or None")
        elif not 1 <= segments <= max(num_layers, 1):
            raise ValueError(f"segments must lie in 1..num_layers={num_layers}, got {segments}")
    if weight_tied and not 1 <= num_distinct <= max(num_layers, 1):
        raise ValueError(f"num_distinct must lie in 1..num_layers={num_layers}, got {num_distinct}")
    if not weight_tied and num_distinct != 1:
        raise ValueError(f"num_distinct={num_distinct} says how many layers are shared; set weight_tied=True")


def _check_reversible(backprop: str, state: str, memory_budget: int | str | None, drift_every: int) -> None:
    if state not in STATES:
        raise ValueError(f"state={state!r} is not known; choose one of {', '.join(STATES)}")
    if drift_every < 0:
        raise ValueError(f"drift_every must be 0 (never) or more, got {drift_every}")
    if memory_budget is not None:
        parse_bytes(memory_budget)
    if backprop == "reversible":
        return
    for name, value, default in (
        ("state", state, "float"),
        ("memory_budget", memory_budget, None),
        ("drift_every", drift_every, 0),
    ):
        if value != default:
            raise ValueError(
                f"{name}={value!r} applies to reconstructed states; set backprop='reversible', or leave {name} at "
                f"{default!r}"
            )
