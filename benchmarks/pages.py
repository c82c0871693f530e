"""What every generated page says of where its figures come from."""

from __future__ import annotations

import torch

from .machine import facts


def measured_on(device: str) -> str:
    """Date, machine, threads, versions and implementation of the ops, as half a sentence."""
    found = facts(device)
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    commit = (found["commit"] or "unknown")[:9] + (" with changes" if found["dirty"] else "")
    return (
        f"{found['date'][:10]}, {machine.get('gpu', machine['cpu'])}, {torch.get_num_threads()} thread(s); {versions}; "
        f"commit {commit}; ops: {found['implementation']}" + (f" ({found['isa']})" if found["isa"] else "")
    )
