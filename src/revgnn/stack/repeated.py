"""Evaluate layers that are alike: the first one block by block, the others by its kernel calls, without Python a layer.

The calls write into the state, its gradient and the work space, which all layers share, and into the gradients of
parameters. So the values have the same bits as block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol, Self, TypeGuard, runtime_checkable

from torch import Tensor, nn

from .couplings import Coupling
from .gradients import GradientSums
from .state import State


class LayerRecording(Protocol):
    """Records the kernel calls that are made in its context, and repeats them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def begin(self) -> None:
        """Begin the evaluation of a block."""
        ...

    def repeat(
        self,
        rounds: int,
        parameters: Sequence[Tensor],
        seeds: Sequence[int],
        *,
        buffers: Sequence[Tensor] = (),
        grads: Sequence[Tensor] | None = None,
    ) -> bool:
        """Repeat all calls with other parameters, gradients and seeds, unless these are not like the recorded ones.

        Args:
            rounds: R, with the recorded evaluation as the first; with ``grads`` as the last, and blocks and rounds go
                from the last to the first.
            parameters, seeds, buffers: of every block of every round in order.
            grads: where the gradient of every parameter is written; ``None``: the calls write none.
        Returns: whether it was done.
        """
        ...


@runtime_checkable
class RecordableBlock(Protocol):
    """A `FusedBlock` whose fused evaluation may consist of kernel calls alone."""

    def recording(self, x: Tensor, *context: object) -> LayerRecording | None:
        """Return what records an evaluation that `fuses`; ``None``: it does more than call kernels."""
        ...


def recording_of(
    block: nn.Module, coupling: Coupling, state: State, arguments: Sequence[object]
) -> LayerRecording | None:
    """Return what records the evaluation of a layer of blocks that are alike, to be repeated for others; ``None``: each
    block must be evaluated on its own.

    Args:
        block: the first one of the layer.
        coupling: of the layer.
        state: the state before it.
        arguments: the block's context arguments.
    """
    groups = range(coupling.num_groups)
    # A sum of parts, and a value that is not added in place, take more than kernels.
    are_alone = all(len(coupling.inputs(i)) == 1 and state.target(i) is not None for i in groups)
    if not are_alone or not _may_record(block):
        return None
    return block.recording(state.read(coupling.inputs(0)[0]), *arguments)


def repeat_backward(
    recording: LayerRecording, rounds: int, values: Sequence[Tensor], seeds: Sequence[int], sums: GradientSums
) -> bool:
    """Invert the layers before the recorded one by its calls.

    Args:
        recording: of the last layer.
        rounds: number of layers.
        values, seeds: parameters and seeds of all blocks, from the first layer on.
        sums: of the gradients of the parameters; ``shares`` has those that were recorded.
    Returns: whether it was done.
    """
    each = len(values) // rounds
    first = len(values) - each
    shares, buffers = sums.shares, sums.to_write(first)
    if buffers is None or shares is None or shares.keys() != set(range(first, len(values))):
        return False
    recorded = [shares[k] for k in range(first, len(values))]
    # A gradient that is not needed goes where the recorded layer's went.
    grads = [recorded[k % each] if buffer is None else buffer for k, buffer in enumerate(buffers)]
    done = recording.repeat(rounds, values, seeds, grads=[*grads, *recorded])
    if done:
        sums.mark(first)
    return done


def _may_record(block: nn.Module) -> TypeGuard[RecordableBlock]:
    kind: type = type(block)
    return _offers_recording(kind)


@cache
def _offers_recording(kind: type) -> bool:
    return issubclass(kind, RecordableBlock)
