"""Measure one operation in turns with PyG's and torch's, and with the machine's own random row gather.

The gather is the ceiling of whatever must read a row per edge: E rows of D floats at uniformly random places, each
written to a buffer that stays in the cache. Where the compiled kernels run, their sum over random rows is tried too,
and the faster of both is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import SimpleConv
from torch_geometric.nn.aggr import SoftmaxAggregation
from torch_geometric.utils import scatter, softmax

from revgnn import ops
from revgnn.measure import peak_memory
from revgnn.ops import cpu
from revgnn.ops.backend import kernels

from .graphs import Task, make_task
from .registry import OWN, Op
from .steps import size
from .trial import Experiment, Settings, attempt, timed

LEAST_ROUNDS = 9
"""An operation takes milliseconds: more rounds than a step."""
_EPS = 1e-7  # of a GEN message


@dataclass(frozen=True)
class Runs:
    """The operation by everybody; each takes nothing and returns its output."""

    own: Callable[[], Tensor]
    peers: dict[str, Callable[[], Tensor]]
    inputs: tuple[Tensor, ...]
    """What the backward computes gradients of."""


def measure_op(case: Op, graph: str, settings: Settings) -> dict[str, Any]:
    """Time and peak of one operation, forward or forward and backward."""
    torch.manual_seed(0)
    task = make_task(graph, device=settings.device)
    made = _OPS[case.op](case, task)
    need = case.edge_tensors * case.width * task.num_edges * 4
    alive: dict[str, Callable[[], object]] = {}
    runs: dict[str, Experiment] = {}
    for name, forward in {OWN: made.own, **made.peers}.items():
        make = partial(_first_runs, forward, case, made, settings)
        runs[name], run = attempt(
            name, make, settings, peer=name != OWN, need=need if name.startswith("pyg") else 0.0
        )  # fmt: skip
        if run is not None:
            alive[name] = run
    settings.announce(None)
    ceilings = _gathers(case.width, task) if case.op == "spmm" else {}
    found: dict[str, Experiment] = {**runs, **{name: {} for name in ceilings}}
    times = timed({**alive, **ceilings}, found, settings, ours=[OWN, *ceilings], least_rounds=LEAST_ROUNDS)
    own = runs[OWN]["median_s"]
    result: dict[str, Any] = {
        **size(task),
        "width": case.width,
        "heads": case.heads,
        "backward": case.backward,
        "repeats": len(times[OWN].wall),
        "runs": runs,
        "ratios": {name: runs[name]["median_s"] / own for name in alive if name in times and name != OWN},
    }
    if ceilings:
        seconds = {name: found[name]["median_s"] for name in ceilings}
        gathered = task.num_edges * case.width * 4 / 1e9
        result["gather_gb_s"] = {name: gathered / taken for name, taken in seconds.items()}
        result["gb_s"] = gathered / own
        result["of_ceiling"] = min(seconds.values()) / own
    return result


def _first_runs(
    forward: Callable[[], Tensor], case: Op, made: Runs, settings: Settings, found: Experiment
) -> Callable[[], object]:
    run = _whole(forward, made.inputs, backward=case.backward)
    run()
    found["peak_bytes"] = peak_memory(run, settings.device)
    return run


def _whole(forward: Callable[[], Tensor], inputs: tuple[Tensor, ...], *, backward: bool) -> Callable[[], object]:
    """The forward alone, or with the gradients of one random cotangent."""
    if not backward:
        return torch.no_grad()(forward)
    with torch.no_grad():
        cotangent = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, cotangent)


def _spmm(case: Op, task: Task) -> Runs:
    x = torch.randn(task.num_nodes, case.width, device=task.x.device)
    conv, rows, cached = SimpleConv(aggr="sum"), task.form("csr"), task.form("EdgeIndex")
    return Runs(
        lambda: ops.spmm(x, task.graph),
        {
            "pyg": lambda: conv(x, task.edge_index),
            "pyg-csr": lambda: conv(x, rows),
            "pyg-EdgeIndex": lambda: EdgeIndex.matmul(cached, x, transpose=True),
            "torch-csr": lambda: rows @ x,
        },
        (),
    )


def _gen_softmax(case: Op, task: Task) -> Runs:
    return _gen(case, task, None)


def _gen_edges(case: Op, task: Task) -> Runs:
    if task.edge_attr is None:
        raise ValueError("gen_edges needs a graph with edge features; choose proteins or tiny")
    return _gen(case, task, task.edge_attr)


def _gen(case: Op, task: Task, edge_attr: Tensor | None) -> Runs:
    x = torch.randn(task.num_nodes, case.width, device=task.x.device, requires_grad=True)
    t = torch.tensor(1.0, device=x.device, requires_grad=True)
    aggr = SoftmaxAggregation(t=1.0, learn=True).to(x.device)
    weight = bias = None
    inputs: tuple[Tensor, ...] = (x,)
    if edge_attr is not None:
        weight = torch.randn(case.width, edge_attr.size(1), device=x.device, requires_grad=True)
        bias = torch.zeros(case.width, device=x.device, requires_grad=True)
        inputs = (x, weight, bias)
    src, dst = task.edge_index
    ptr = task.graph.indptr.long()

    def messages() -> Tensor:
        sources = x.index_select(0, src)
        if edge_attr is not None:
            assert weight is not None, "edge features come with a map"
            sources = sources + F.linear(edge_attr, weight, bias)
        return sources.relu() + _EPS

    return Runs(
        lambda: ops.gen_aggr(x, task.graph, edge_attr, weight, bias, reduce="softmax", t=t),
        {
            "pyg": lambda: aggr(messages(), dst, dim_size=task.num_nodes),
            "pyg-csr": lambda: aggr(messages(), ptr=ptr),
        },
        inputs,
    )


def _attention(case: Op, task: Task) -> Runs:
    n, per_head = task.num_nodes, case.width // case.heads
    x = torch.randn(n, case.heads, per_head, device=task.x.device, requires_grad=True)
    a, b = (torch.randn(n, case.heads, device=x.device, requires_grad=True) for _ in range(2))
    src, dst = task.edge_index
    ptr = task.graph.indptr.long()

    def peer(ptr: Tensor | None) -> Tensor:
        alpha = F.leaky_relu(a.index_select(0, src) + b.index_select(0, dst), 0.2)
        alpha = softmax(alpha, dst, ptr=ptr, num_nodes=n)
        values: Tensor = scatter(x.index_select(0, src) * alpha.unsqueeze(-1), dst, dim=0, dim_size=n, reduce="sum")
        return values

    return Runs(
        lambda: ops.attention(x, task.graph, a, b),
        {"pyg": lambda: peer(None), "pyg-csr": lambda: peer(ptr)},
        (x, a, b),
    )


def _norm_act_drop(case: Op, task: Task) -> Runs:
    x = torch.randn(task.num_nodes, case.width, device=task.x.device, requires_grad=True)
    weight = torch.ones(case.width, device=x.device, requires_grad=True)
    bias = torch.zeros(case.width, device=x.device, requires_grad=True)
    mask = torch.rand_like(x) < 0.5
    scaled = mask.float() * 2.0
    return Runs(
        lambda: ops.norm_act_drop(x, weight, bias, norm="layer", p=0.5, mask=mask),
        {"torch": lambda: F.layer_norm(x, (case.width,), weight, bias).relu() * scaled},
        (x, weight, bias),
    )


_OPS: dict[str, Callable[[Op, Task], Runs]] = {
    "spmm": _spmm,
    "gen_softmax": _gen_softmax,
    "gen_edges": _gen_edges,
    "attention": _attention,
    "norm_act_drop": _norm_act_drop,
}


# ---------------------------------------------------------------------- the machine's own ceiling
_BLOCK = 2048  # rows of the buffer: 1 MB at 128 channels, which stays in the cache of one core
_ROW = 64  # random rows per sum


def _gathers(width: int, task: Task) -> dict[str, Callable[[], object]]:
    """Ways to read as many random rows as the graph has edges."""
    table = torch.randn(task.num_nodes, width, device=task.x.device)
    places = torch.randint(task.num_nodes, (task.num_edges,), device=table.device)
    blocks = torch.split(places, _BLOCK)
    buffer = torch.empty(_BLOCK, width, device=table.device)

    def copy() -> None:
        for block in blocks:
            torch.index_select(table, 0, block, out=buffer[: block.numel()])

    found: dict[str, Callable[[], object]] = {"index_select": copy}
    if ops.implementation(table.device) != "reference":
        # As many rows as the table has, the last of them empty.
        row = max(_ROW, -(-task.num_edges // task.num_nodes))
        bounds = (torch.arange(task.num_nodes + 1, device=table.device) * row).clamp(max=task.num_edges)
        rows = cpu.Csr(bounds.int(), places.int())
        sums = torch.empty(bounds.numel() - 1, width, device=table.device)
        found["kernel"] = lambda: kernels(table).spmm(table, rows, out=sums)
    return found
