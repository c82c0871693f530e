"""The choice of a device: an accelerator if there is one, or the CPU."""

from __future__ import annotations

from typing import Literal, get_args

Device = Literal["auto", "cpu"]


def check_device(device: str) -> None:
    """Raise ValueError for anything but a `Device`: another word would be read as "auto" and train elsewhere."""
    if device not in get_args(Device):
        raise ValueError(f"device={device!r}: choose auto, which takes an accelerator if there is one, or cpu")
