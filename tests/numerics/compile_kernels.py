"""Compile every kernel that the cases of the ops start, forward and backward, for a device that is not here.

    python compile_kernels.py 90      prints {case: [kernels]} as JSON; a kernel that does not compile ends it

Calls run as always up to the launch of each kernel, which is then compiled to machine code instead of being launched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from op_cases import CASES, GRAPHS
from revgnn import ops
from revgnn.ops import triton
from revgnn.ops.triton import launch

# 63 and 300: with and without columns to spare; 1: integers that are 1 are constants to the compiler.
SHAPES = [("isolated", 63, torch.float32), ("one loop", 1, torch.float64), ("isolated", 300, torch.bfloat16)]


class _Driver:
    """The device that there would be."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


def main(capability: int) -> None:
    started: list[str] = []

    def compile_only(kernel: JITFunction, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*arguments: Any, **constants: Any) -> None:
            compiled = kernel.run(*arguments, grid=grid, warmup=True, **constants)
            assert compiled.asm["cubin"]
            started.append(kernel.__name__)

        return run

    driver.set_active(_Driver(capability))
    JITFunction.__getitem__ = compile_only
    triton.interpreted = lambda: True  # the CPU's tensors are let through; nothing reads them
    found = {}
    for name, case in CASES.items():
        started.clear()
        for graph, width, dtype in SHAPES:
            launch.LONG = 1 if width == 63 else 512  # the shape of programs for long rows, too
            parameters = torch.float32 if dtype == torch.bfloat16 else dtype
            inputs = {
                key: value.to(dtype if key == "x" else parameters).requires_grad_()
                for key, value in case.make(GRAPHS[graph], width).items()
            }
            with ops.using("triton"):
                case.run(GRAPHS[graph], width, **inputs).sum().backward()
        found[name] = sorted(set(started))
    started.clear()
    with ops.using("triton"):
        ops.keep_mask(7, 100, 0.5, torch.device("cpu"))
    found["keep mask"] = sorted(set(started))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
