"""Diagnoses a trained network layer by layer: over-smoothing, gradient norms and the reach of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Batch, GraphInfo, LoaderConfig, load_dataset, make_batches
from .experiment import Experiment
from .graph import Graph
from .nn.gnn import GNN
from .stack import Stack, layer_states
from .train import Forward
from .train.objective import Objective
from .trained import load

MOST_HOPS = 24
"""Default limit on the hops of the reach."""
_EDGES_AT_ONCE = 2**16

ScalarLoss = Callable[[Tensor, Tensor], Tensor]
"""Of logits and labels of the training rows."""


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """Measurements of one layer."""

    layer: int
    """Counted from 1; 0: the input of the stack. An equilibrium is one layer, from its input to its fixed point."""
    energy: float
    """Dirichlet energy of the layer's output stream: see `dirichlet_energy`."""
    stream_gradient: float
    """Euclidean norm of the training loss's gradient with respect to the layer's output stream."""
    weight_gradient: float | None
    """The same with respect to the layer's weights; ``None`` for layer 0."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Measurements of a network."""

    layers: tuple[LayerFacts, ...]
    """From layer 0 to the last; empty for a network without a stack."""
    influence: tuple[float, ...]
    """Influence of the nodes at hop 0, 1, ... on a node's logits (L1 norm of the Jacobian), relative to hop 0, up to
    the farthest hop with any; empty if it was not requested."""
    reach: float | None
    """Mean hop distance, weighted by influence."""


def diagnose_run(folder: Path, *, data_root: Path, hops: int | None = None, nodes: int = 8) -> Diagnosis:
    """Diagnose the best weights of a finished run on its own graph, on the CPU and without dropout.

    Args:
        folder: the run folder.
        data_root: folder of the data, as in training.
        hops: largest hop of the reach; ``None``: `MOST_HOPS`.
        nodes: number of nodes over which the reach is averaged, drawn from seed 0; 0: no reach.
    Raises:
        FileNotFoundError: the folder has no finished run.
        ValueError: a number is below its least; the network reads labels, or has no stack and no reach is wanted; its
            features are categories, of which there is no reach; or the data is not one graph in memory.
    Cost: one step with every activation stored, L N D; and for each node as many backwards as there are outputs.
    """
    if nodes < 0 or (hops is not None and hops < 1):
        raise ValueError(f"nodes must be 0 or more and hops 1 or more, got nodes={nodes}, hops={hops}")
    trained = load(folder, device="cpu")
    run, info, model = trained.run.for_data(trained.info), trained.info, trained.module
    assert run.train.loss is not None, "the task of the data has one"
    _check(run, info)
    dataset = load_dataset(run.dataset, data_root)
    info.check_applies(dataset.info)
    if not isinstance(model, GNN) and not nodes:
        raise ValueError(f"{folder} holds a {type(model).__name__} without a stack of layers: it has a reach alone")
    if nodes and info.categories is not None:
        raise ValueError("the features are categories, which have no derivative: leave the reach out with --nodes 0")
    (batch,) = make_batches(dataset, loader=LoaderConfig(node_order="given")).evaluate()
    objective = Objective(loss=run.train.loss, metric=info.metric, scale=info.target_scale)
    layers: tuple[LayerFacts, ...] = ()
    if isinstance(model, GNN):
        look = look_into if isinstance(model.stack, Stack) else look_around
        layers = look(model, batch, objective.evaluation_loss)
    if not nodes:
        return Diagnosis(layers=layers, influence=(), reach=None)
    influence, reach = influence_by_hop(model, batch, MOST_HOPS if hops is None else hops, nodes)
    return Diagnosis(layers=layers, influence=influence, reach=reach)


def look_into(model: GNN, batch: Batch, loss: ScalarLoss) -> tuple[LayerFacts, ...]:
    """Measure the energy and the gradients of every layer of a stack.

    Args:
        model: in evaluation mode, with a stack.
        batch: the whole graph.
        loss: logits and labels of the training rows -> scalar.
    """
    stack = model.stack
    assert isinstance(stack, Stack), "an equilibrium is looked at from around"
    caught: list[tuple[Tensor, ...]] = []
    handle = stack.register_forward_pre_hook(lambda _, arguments: caught.append(arguments))
    with torch.no_grad():
        model(batch.x, batch.graph, batch.edge_attr, seed=0)
    handle.remove()
    x, *context = caught[0]
    model.zero_grad(set_to_none=True)
    states = layer_states(stack, x.detach().requires_grad_(), *context, seed=0)
    for state in states[1:]:
        state.retain_grad()
    rows = batch.rows["train"]
    torch.autograd.backward(loss(model.head(states[-1], batch.graph, 0)[rows], batch.y[rows]))
    return _facts(states, [stack.layer_at(layer) for layer in range(len(states) - 1)], batch.graph)


def look_around(model: GNN, batch: Batch, loss: ScalarLoss) -> tuple[LayerFacts, ...]:
    """Measure the input of an equilibrium and its fixed point, as layers 0 and 1; arguments as in `look_into`."""
    states: list[Tensor] = []

    def keep(state: Tensor) -> None:
        state.retain_grad()
        states.append(state)

    handles = [
        model.stack.register_forward_pre_hook(lambda _, arguments: keep(arguments[0])),
        model.stack.register_forward_hook(lambda _, arguments, result: keep(result)),
    ]
    model.zero_grad(set_to_none=True)
    rows = batch.rows["train"]
    torch.autograd.backward(loss(Forward(model)(batch)[0][rows], batch.y[rows]))
    for handle in handles:
        handle.remove()
    return _facts(states, [[model.stack]], batch.graph)


def _facts(states: Sequence[Tensor], layers: Sequence[Sequence[nn.Module]], graph: Graph) -> tuple[LayerFacts, ...]:
    """Return what backpropagation left at the states before, between and after layers, and at their parameters."""
    weights = [None, *(_norm([one.grad for block in layer for one in block.parameters()]) for layer in layers)]
    return tuple(
        LayerFacts(
            layer=depth,
            energy=dirichlet_energy(state.detach(), graph),
            stream_gradient=_norm([state.grad]),
            weight_gradient=weight,
        )
        for depth, (state, weight) in enumerate(zip(states, weights, strict=True))
    )


def influence_by_hop(model: nn.Module, batch: Batch, hops: int, nodes: int) -> tuple[tuple[float, ...], float]:
    """Measure how much the features of the nodes at each hop move a node's logits, in the mean over some nodes.

    ``I_k = sum_j sum_t sum_f |d logit_t / d x_jf|`` over the nodes j that are k hops away, against the direction of the
    edges.

    Args:
        model: in evaluation mode.
        batch: the whole graph, with features that are numbers.
        hops: largest hop.
        nodes: number of nodes, drawn from seed 0.
    Returns: I_0, I_1, ... relative to I_0, up to the last one above 0; and the mean hop, weighted by influence.
    Source: Liang et al. 2025 (arXiv:2503.09008); PyG's ``total_influence`` is the same of an induced subgraph, in which
        the nodes at its border lack neighbours, and without features of edges.
    """
    x = batch.x.clone().requires_grad_()
    logits, _ = Forward(model)(replace(batch, x=x))
    found = []
    draw = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for node in draw[:nodes].tolist():
        influence = torch.zeros(len(x), dtype=torch.float64)
        for logit in logits[node]:
            (gradient,) = torch.autograd.grad(logit, x, retain_graph=True)
            influence += gradient.double().abs().sum(1)
        distance = _hops_to(batch.graph, node, hops)
        found.append(torch.stack([influence[distance == hop].sum() for hop in range(hops + 1)]))
    each = torch.stack(found)
    by_hop = each.mean(0)
    last = int(by_hop.nonzero().max()) if by_hop.any() else 0
    relative = by_hop[: last + 1] / (by_hop[0] or by_hop.max() or 1.0)
    shares = each / each.sum(1, keepdim=True).clamp(min=torch.finfo(each.dtype).tiny)
    return tuple(relative.tolist()), float((shares @ torch.arange(hops + 1.0, dtype=each.dtype)).mean())


def _hops_to(graph: Graph, node: int, hops: int) -> Tensor:
    """Return the length of the shortest path from each node to one, -1 beyond some hops; [N]."""
    distance = torch.full((graph.num_nodes,), -1)
    distance[node] = 0
    src, dst = graph.edge_index
    for hop in range(1, hops + 1):
        sources = src[distance[dst] == hop - 1]
        distance[sources[distance[sources] < 0]] = hop
    return distance


def dirichlet_energy(x: Tensor, graph: Graph) -> float:
    """Measure the difference of neighbours relative to the difference of random nodes.

    ``mean_(i,j) |x_i - x_j|^2 / (2 mean_i |x_i - mean x|^2)`` over the edges: 0 if neighbours are equal
    (over-smoothed), 1 if they differ as much as random nodes, above 1 if they differ more.

    Args:
        x: [N, D].
        graph: E edges.
    Returns: the ratio; 0 for equal rows or no edges.
    """
    dst = torch.arange(graph.num_nodes).repeat_interleave(graph.in_degree)
    total = 0.0
    for low in range(0, dst.numel(), _EDGES_AT_ONCE):
        ends = graph.indices[low : low + _EDGES_AT_ONCE].long(), dst[low : low + _EDGES_AT_ONCE]
        total += float((x[ends[0]] - x[ends[1]]).double().square().sum())
    spread = float((x - x.mean(0)).double().square().sum(1).mean())
    return total / dst.numel() / (2 * spread) if spread and dst.numel() else 0.0


def draw(diagnosis: Diagnosis, path: Path) -> None:
    """Plot a diagnosis to a file: energy and gradients over layers and, if measured, influence over hops.

    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = [facts.layer for facts in diagnosis.layers]
    panels = 2 * bool(layers) + bool(diagnosis.influence)
    figure = Figure(figsize=(4.2 * panels, 3.2), layout="constrained")
    every = figure.subplots(1, panels, squeeze=False)[0]
    if layers:
        energy, gradient, *_ = every
        energy.plot(layers, [facts.energy for facts in diagnosis.layers], color="#0072b2")
        energy.set(xlabel="layer", title="Dirichlet energy", ylim=(0, None))
        streams = [facts.stream_gradient for facts in diagnosis.layers]
        gradient.semilogy(layers, streams, color="#d55e00", label="stream")
        by_weights = [facts.weight_gradient for facts in diagnosis.layers if facts.weight_gradient is not None]
        gradient.semilogy(layers[1:], by_weights, color="#009e73", label="weights")
        gradient.set(xlabel="layer", title="gradient norm")
        gradient.legend(frameon=False)
    if diagnosis.influence:
        reach = every[-1]
        reach.semilogy(range(len(diagnosis.influence)), diagnosis.influence, color="#7a5195", marker="o", markersize=3)
        reach.set(xlabel="hops", title="influence, hop 0 = 1")
    for axes in every:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dde3ea", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _check(run: Experiment, info: GraphInfo) -> None:
    if info.task_spec.has_many_graphs or run.dataset.name == "prepared":
        raise ValueError("diagnose looks at one graph in memory, not at many small ones nor at a graph on disk")
    if run.train.labels.reuse:
        raise ValueError("diagnose does not look at networks that read labels (train.labels.reuse=true)")


def _norm(gradients: list[Tensor | None]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients if each is not None))
