"""Estimates training time by the roofline model: required bytes and operations over the machine's rates.

``t = gathered / gather rate + flops / product rate + streamed / stream rate``. The rates of this machine are measured
in a second; those of a GPU that is not here come from its maker's data sheet. What the network alone does not tell (the
loss, the optimizer, Python) is left out, so small steps take longer than this says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from ..data import LoaderConfig
from ..experiment import Experiment
from ..measure import median_seconds
from ..nn.model import ModelConfig
from .model_size import size_of
from .step_size import kept_share, step_size, steps_of
from .synthetic import GraphShape

BYTES = 4
"""Of a float32."""
ROWS = 2**17
"""Rows of the tables that are gathered from and streamed through."""
WIDTH = 128
"""Numbers in such a row."""


@dataclass(frozen=True, kw_only=True)
class MachineRates:
    """Throughput of a machine per second."""

    gather: float
    """Bytes of whole rows read in random order."""
    stream: float
    """Bytes read and written in order."""
    products: float
    """Floating-point operations of a float32 matrix product."""
    source: str
    """Where the figures are from."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What they are of."""


GPUS = {
    "h200": (4.8e12, 67e12),
    "h100": (3.35e12, 67e12),
    "a100": (2.04e12, 19.5e12),
    "v100": (0.9e12, 15.7e12),
    "l4": (0.3e12, 30.3e12),
    "rtx4090": (1.008e12, 82.6e12),
}
"""Device -> bytes per second of its memory, and float32 operations per second without tensor cores.

Source: NVIDIA's data sheets (H100 SXM, A100 80 GB SXM, V100 SXM2)."""


def rates_of(device: str, gpu: str = "h100") -> MachineRates:
    """Return the rates of a device: measured on this CPU, or a GPU's from its data sheet.

    Args:
        device: "cpu" or "cuda".
        gpu: a key of `GPUS`, for "cuda".
    Raises: ValueError: an unknown GPU.
    """
    if device == "cpu":
        return measured_rates(torch.get_num_threads())
    if gpu not in GPUS:
        raise ValueError(f"the rates of {gpu!r} are not known; choose one of {', '.join(GPUS)}")
    memory, flops = GPUS[gpu]
    # A third of the memory's rate for rows in random order, three quarters of either peak else: assumptions.
    return MachineRates(
        gather=memory / 3,
        stream=0.75 * memory,
        products=0.75 * flops,
        source=f"data sheet of {gpu}, an estimate",
        device="cuda",
    )


@lru_cache(maxsize=4)
def measured_rates(threads: int, clock: Callable[[], float] = time.perf_counter) -> MachineRates:
    """Measure this CPU, with as many threads as torch uses now; about a second, once per process and clock."""
    table = torch.randn(ROWS, WIDTH)
    rows = torch.randint(ROWS, (ROWS,))
    target = torch.empty_like(table)
    square = torch.randn(1024, 1024)
    size = table.numel() * BYTES
    # A gathered row is written too, in order: half of its time is taken for the writing's at most.
    gather = median_seconds(lambda: torch.index_select(table, 0, rows, out=target), clock=clock)
    stream = median_seconds(lambda: target.copy_(table), clock=clock)
    product = median_seconds(lambda: table[:8192] @ square[:WIDTH], clock=clock)
    return MachineRates(
        gather=size / max(gather - stream / 2, gather / 2),
        stream=2 * size / stream,
        products=2 * 8192 * WIDTH * 1024 / product,
        source=f"measured, {threads} thread{'s' if threads > 1 else ''}",
    )


@dataclass(frozen=True)
class Work:
    """Required memory traffic and operations of a step."""

    gathered: float
    """Bytes of rows in random order."""
    streamed: float
    """Bytes in order."""
    flops: float
    """Of matrix products."""

    def seconds(self, rates: MachineRates) -> float:
        """Return the time at these rates."""
        return self.gathered / rates.gather + self.streamed / rates.stream + self.flops / rates.products


CONVOLUTIONS = {"gcn": (1, 1, 1), "sage": (1, 1, 2), "gen": (2, 2, 1), "gat": (1, 2, 2)}
"""Convolution -> times that it gathers a row for every edge, forward and backward, and its square products."""
PEER_GATHERS, PEER_STREAMS = 2, 6
"""Rows gathered per edge and direction, and passes over [E, D] messages, of PyG's modules."""
PRODUCTS = frozenset({"gcn", "sage", "gcn2", "gcnii", "dagnn"})
"""Peers that multiply by a sparse matrix: they gather a row for every edge once, and make no messages."""
ONCE = frozenset({"sgc", "sign"})
"""Peers whose propagation is made once for all steps."""
PASSES = 8
"""Over [N, D] in one evaluation of a block: norm, activation, dropout, residual, in and out."""


def run_seconds(run: Experiment, shape: GraphShape, rates: MachineRates) -> float:
    """Estimate the time of a run: the steps of all its epochs, and its evaluations.

    Args:
        run: the run; early stopping is not predicted.
        shape: shape of the whole data set.
        rates: of the machine.
    """
    train, loader = run.train, run.loader
    steps = train.epochs * steps_of(run, shape) * step_work(run, shape, *step_size(run, shape)).seconds(rates)

    def evaluation(parts: int, views: int) -> float:
        # Of random parts few edges are left; of clusters, or parts on disk, about those of a step.
        kept = 1.0
        if parts > 1:
            is_cut = loader.kind in ("clusters", "ondisk")
            kept = kept_share(loader if is_cut else LoaderConfig(kind="random", num_parts=parts), shape)
        return views * step_work(run, shape, shape.nodes, round(kept * shape.edges), trains=False).seconds(rates)

    found = steps + -(-train.epochs // train.eval_every) * evaluation(loader.eval_parts, loader.eval_views)
    return found if loader.final_parts is None else found + evaluation(loader.final_parts, loader.final_views)


def step_work(run: Experiment, shape: GraphShape, nodes: int, edges: int, *, trains: bool = True) -> Work:
    """Count the work of a step.

    Args:
        run: the run; its model decides the work.
        shape: widths of the data: input, output and edge features.
        nodes, edges: of the step.
        trains: whether the step is differentiated; False for an evaluation.
    """
    model = run.model
    layers, width, hops, kind = size_of(model)
    ends = (3 if trains else 1) * 2.0 * nodes * width * (shape.info.in_channels + shape.info.num_outputs)
    if not isinstance(model, ModelConfig):
        gathers, streams = (1, 0) if kind in PRODUCTS else (PEER_GATHERS, PEER_STREAMS)
        if kind in ONCE:
            gathers, streams = 0, 0
        # DAGNN propagates classes, not channels.
        across = shape.info.num_outputs if kind == "dagnn" else width
        both = 2.0 if trains else 1.0
        passes = 3.0 if trains else 1.0
        return Work(
            gathered=both * gathers * max(layers, hops) * edges * across * BYTES,
            streamed=BYTES * layers * (both * streams * edges * across + passes * PASSES * nodes * width),
            flops=ends + 2.0 * passes * layers * nodes * width**2,
        )
    groups = model.num_groups if model.coupling == "grouped" else 1
    forward, backward, products = CONVOLUTIONS.get(model.conv, CONVOLUTIONS["gen"])
    if model.conv == "gen":
        products = max(model.gen.mlp_layers, 1)
    # Evaluations of a block, and how often it is differentiated.
    evaluations, pulls = {"store": (1, 1), "checkpoint": (2, 1), "reversible": (2, 1)}.get(model.backprop, (0, 0))
    if model.backprop == "implicit":
        options = model.equilibrium
        convs = 1 if model.is_contractive else 2
        evaluations, pulls, layers = convs * options.max_iter, convs * options.backward_max_iter, 1
    if not trains:
        evaluations, pulls = (evaluations if model.backprop == "implicit" else 1), 0
    channels = sum(shape.info.edge_categories or (shape.info.edge_channels or 0,)) if model.conv == "gen" else 0
    return Work(
        gathered=BYTES * layers * edges * width * float(evaluations * forward + pulls * backward),
        streamed=BYTES * layers * width * nodes * PASSES * float(evaluations + 2 * pulls),
        flops=ends
        + 2.0 * layers * (evaluations + 2 * pulls) * (products * nodes * width**2 / groups + edges * width * channels),
    )
