"""Communication between the ranks of a run: sums, broadcasts, gradient exchange, and errors when a rank is lost.

A launcher (torchrun, accelerate launch) starts the same program W times and sets environment variables. Accelerate
opens the process group. Without a launcher there is one rank and no communication.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ...launcher import first_rank_speaks, is_writer, restarted, world_size
from ...run_lock import claimed
from ...stack.batch_norm import left_out, synchronised
from ...stack.rank_group import RankGroup
from ..model_hooks import LayerStack
from ..signals import Interrupts
from .batch_sharding import RankPosition
from .fsdp import Sharded

_T = TypeVar("_T")
ParallelName = Literal["ddp", "fsdp"]

TIMEOUT = timedelta(minutes=30)
"""Longest wait of one rank for another, which must cover an evaluation; gloo detects a dead rank at once."""

_SURVIVORS = 3.0
"""Seconds that a rank waits, after it lost another rank, for the remaining ranks to report."""


_SECONDS_FOR_THE_FIRST = 2.0
"""Seconds that another rank waits with its error message, in case the first rank reports the same error."""

_PATIENCE = 60.0
"""Seconds that a restarted rank waits for its predecessor to end."""


class LostRankError(ConnectionError):
    """Another rank ended or stopped responding during a run."""


@contextmanager
def one_run(out: Path | None) -> Iterator[None]:
    """Context of a run with one or more ranks: the first rank prints, and locks the run folder for all ranks.

    Args:
        out: the run folder, created if missing; ``None``: no folder.
    Raises: ClaimedError: another run writes to the folder.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import one_run
        >>> with one_run(Path("runs/locked")):
        ...     pass  # no other process trains into this folder meanwhile
    """
    with (
        first_rank_speaks(),
        claimed(out, patience=_PATIENCE if restarted() else 0.0) if out is not None and is_writer() else nullcontext(),
    ):
        yield


@dataclass(kw_only=True, eq=False)
class Ranks:
    """The ranks of a run, seen from this rank."""

    accelerator: Accelerator
    accumulate: int
    """Batches that each rank processes per step, one after the other."""
    parallel: ParallelName = "ddp"
    sharded: Sharded | None = None
    """The sharded model, after `wrap` with "fsdp"."""
    rows: RankGroup | None = None
    """The rank group over which BatchNorm shares its statistics."""

    @classmethod
    def open(cls, *, cpu: bool, bf16: bool, accumulate: int, parallel: ParallelName = "ddp") -> Ranks:
        """Open the process group if a launcher has started several ranks.

        Raises: ValueError: Accelerate cannot connect ranks on this accelerator.
        """
        # Accelerate keeps device and precision in process-wide singletons and refuses a second run that differs.
        AcceleratorState._reset_state(reset_partial_state=True)
        # Accelerate connects CPU ranks only if it is told to use the CPU; otherwise each rank would train alone.
        cpu = cpu or not torch.accelerator.is_available()
        _join(cpu=cpu)
        # Gloo's threads must end before the process, which is otherwise aborted.
        atexit.unregister(_leave)
        atexit.register(_leave)
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if bf16 else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
        if accelerator.num_processes != world_size():
            raise ValueError(
                f"{world_size()} ranks were started, and Accelerate joins {accelerator.num_processes} on "
                f"{accelerator.device.type}; start one rank, or compute on the CPU"
            )
        return cls(accelerator=accelerator, accumulate=accumulate, parallel=parallel)

    @property
    def size(self) -> int:
        """W, the number of ranks."""
        return int(self.accelerator.num_processes)

    @property
    def writes(self) -> bool:
        """Whether this rank writes and prints."""
        return bool(self.accelerator.is_main_process)

    @property
    def batches_per_step(self) -> int:
        """Batches per optimizer step, over all ranks."""
        return self.size * self.accumulate

    @property
    def place(self) -> RankPosition:
        """The position of this rank."""
        return RankPosition(rank=int(self.accelerator.process_index), size=self.size)

    def steps(self, batches: int) -> int:
        """Return the number of steps of an epoch of this many batches; the last step may have fewer batches."""
        return -(-batches // self.batches_per_step)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module that training calls; it averages gradients over the ranks during the backward.

        With "fsdp" this is the model itself, whose parameters become shards: make the optimizer after this call.
        """
        if self.size == 1:
            return model
        if self.parallel == "fsdp":
            self.sharded = Sharded.of(model, self.accelerator.device)
            return model
        devices = None if self.accelerator.device.type == "cpu" else [self.accelerator.device.index]
        return DistributedDataParallel(model, device_ids=devices)

    @contextmanager
    def sharing_rows(self, model: nn.Module, *, synchronise: bool) -> Iterator[None]:
        """Context in which BatchNorm uses all ranks' rows, if ``sync_batchnorm`` is set, or each rank's own rows."""
        if self.size == 1:
            yield
            return
        with synchronised(model, dist.group.WORLD if synchronise else None) as self.rows:
            yield

    def exchange(self, trained: nn.Module, *, last: bool, counts: bool) -> AbstractContextManager[object]:
        """Context of a forward and backward; gradients are exchanged in the last batch's backward only.

        Args:
            counts: whether the batch has a weight in the step and in BatchNorm's statistics.
        """
        if self.rows is not None:
            self.rows.counts = counts
        if self.sharded is not None:
            return self.sharded.exchange(last=last)
        return nullcontext() if last or not isinstance(trained, DistributedDataParallel) else trained.no_sync()

    def agree(self, stacks: Sequence[LayerStack]) -> None:
        """Set the ranges of all ranks to their maximum, so that one checkpoint is valid for all ranks."""
        for stack in stacks if self.size > 1 else ():
            ranges = stack.ranges()
            if ranges is not None:
                ranges = ranges.to(self.accelerator.device)
                dist.all_reduce(ranges, dist.ReduceOp.MAX)
                stack.widen(ranges)

    def total(self, *values: float) -> list[float]:
        """Sum numbers over the ranks."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def tell(self, value: _T | None) -> _T:
        """Broadcast a JSON value from the rank that writes; ``None`` on other ranks."""
        if self.size == 1:
            assert value is not None, "the only rank writes"
            return value
        text = json.dumps(value).encode() if self.writes else b""
        length = int(self.total(len(text))[0])
        content = torch.tensor(list(text.ljust(length)), dtype=torch.uint8, device=self.accelerator.device)
        dist.broadcast(content, 0)
        told: _T = json.loads(bytes(content.tolist()))
        return told

    def collect(self, counts: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Send pieces to the rank that writes, which receives those of all other ranks; other ranks receive nothing.

        Args:
            pieces: any number of pieces of this rank, each with at least one tensor.
        Cost: one piece of each rank is in memory at a time.
        """
        own: Iterator[dict[str, Tensor]] = iter(()) if self.writes else counts
        while self.size > 1:
            piece = next(own, None)
            content = b"" if piece is None else save({name: value.contiguous() for name, value in piece.items()})
            lengths = torch.zeros(self.size, dtype=torch.int64, device=self.accelerator.device)
            lengths[self.place.rank] = len(content)
            dist.all_reduce(lengths)
            if not bool(lengths.any()):
                return
            for rank, length in enumerate(lengths.tolist()):
                if length and self.writes:
                    received = torch.empty(length, dtype=torch.uint8, device=self.accelerator.device)
                    dist.recv(received, rank)
                    yield load(received.cpu().numpy().tobytes())
                elif length and rank == self.place.rank:
                    dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.accelerator.device), 0)

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Context in which every rank may call the model independently, with the state of the rank that writes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)
        with nullcontext() if self.sharded is None else self.sharded.whole():
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context that converts communication errors to `LostRankError`.

        Raises: LostRankError: instead of the backend's exception.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_of_an_exchange(error):
                raise
            # The launcher ends the others as soon as it has noticed, which must not come before the message.
            with Interrupts(patient=True):
                lost = self._lost()
            who = "another rank" if not lost else " and ".join(f"rank {rank}" for rank in lost)
            raise LostRankError(
                f"{who} of {self.size} ended or did not answer, and rank {self.place.rank} stops with it; its own "
                "message says why. The newest checkpoint is whole: resume the run (torchrun with --max-restarts does "
                f"so by itself). The exchange said: {str(error).splitlines()[0]}"
            ) from error

    def _lost(self) -> list[int]:
        """Return the ranks that do not report."""
        store = dist.distributed_c10d._get_default_store()
        names = [f"there-{rank}" for rank in range(self.size)]
        try:
            store.set(names[self.place.rank], "yes")
            until = time.monotonic() + _SURVIVORS
            while not store.check(names) and time.monotonic() < until:
                time.sleep(0.05)
            return [rank for rank, name in enumerate(names) if not store.check([name])]
        except RuntimeError:
            # The lost rank hosted the store.
            return []

    def wait(self) -> None:
        """Barrier: wait for all ranks."""
        if self.size > 1:
            self.total(0.0)

    def check(self, batches: int) -> None:
        """Check that every rank has a batch in an epoch.

        Raises: ValueError: an epoch has fewer batches than there are ranks.
        """
        if batches < self.size:
            raise ValueError(
                f"{self.size} ranks need at least as many batches in an epoch, got {batches}; start fewer ranks, or "
                "cut the graph, such as loader.kind=random with loader.num_parts"
            )


def _join(*, cpu: bool) -> None:
    """Open the process group of a torchrun job, which can be restarted; for other launchers Accelerate opens it.

    All attempts of such a job share one store; a new attempt must not read the addresses of an ended one.
    """
    cuda = not cpu and torch.cuda.is_available()
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ or not (cpu or cuda):
        return
    if dist.is_initialized():
        return
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    attempt = dist.distributed_c10d.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=TIMEOUT)


def _is_of_an_exchange(error: RuntimeError) -> bool:
    words = ("gloo", "NCCL", "onnection closed", "onnection reset", "imed out")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _leave() -> None:
    if dist.is_available() and dist.is_initialized():
        # Gloo's threads let go of the last exchange's tensors for which they need the interpreter, and are waited for.
        time.sleep(0.1)
        dist.destroy_process_group()


def is_first_to_say(error: BaseException) -> bool:
    """Whether this rank should report an error: no other rank has, and the first rank does not within a short wait."""
    try:
        store = _common_store()
        if store is None:
            return True
        # All remaining ranks report the same lost rank, with different texts.
        text = LostRankError.__name__ if isinstance(error, LostRankError) else str(error)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        said = f"said-{attempt}-{hashlib.sha256(text.encode()).hexdigest()}"
        until = time.monotonic() + (0.0 if is_writer() else _SECONDS_FOR_THE_FIRST)
        # The launcher ends the others as soon as it has noticed that one ended, which must not come before the message.
        with Interrupts(patient=True) as interrupts:
            while time.monotonic() < until and interrupts.signum is None and not store.check([said]):
                time.sleep(0.05)
            return bool(store.add(said, 1) == 1)
    except RuntimeError:
        # A rank that has ended hosted the store.
        return True


def _common_store() -> Store | None:
    """Return the store shared by all ranks: the process group's, or before it exists torchrun's; otherwise None."""
    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    store: Store | None
    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_SURVIVORS)))
    return store


def scale_gradients(parameters: Iterator[nn.Parameter], factor: float) -> None:
    """Multiply every gradient by a number, in place."""
    gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_mul_(gradients, factor)


def own_statistics(model: nn.Module, *, synchronise: bool) -> str | None:
    """Describe the batch statistics of a model that several ranks do not share, if there are any.

    Args:
        synchronise: whether statistics are shared where possible.

    Examples:
        >>> import torch
        >>> from revgnn.train import own_statistics
        >>> own_statistics(torch.nn.BatchNorm1d(4), synchronise=True) is None  # one rank: nothing to share
        True
    """
    left = {type(module).__name__ for module in left_out(model)} if synchronise else {"BatchNorm"}
    if world_size() == 1 or not left or not any("BatchNorm" in type(module).__name__ for module in model.modules()):
        return None
    why = "" if not synchronise else " (of another type than nn.BatchNorm1d, or inside an equilibrium)"
    return (
        f"{' and '.join(sorted(left))}{why} is not synchronised: each of the {world_size()} ranks normalises by the "
        "statistics of its own batch, as accumulation does, and the running statistics are those of rank 0."
    )
