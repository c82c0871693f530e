"""Diagnoses a trained network layer by layer: over-smoothing, gradient norms and the reach of its outputs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Batch, Dataset, GraphInfo, LoaderConfig, load_dataset, make_batches
from .data.readers.pyg import quiet_pyg
from .experiment import Experiment
from .graph import Graph
from .nn.gnn import GNN
from .stack import Stack, layer_states
from .train.objective import Objective
from .trained import load

MOST_HOPS = 24
"""Default limit on the hops of the reach; PyG extracts a subgraph of this many hops around each node."""
_EDGES_AT_ONCE = 2**16


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """Measurements of one layer."""

    layer: int
    """Counted from 1; 0: the input of the stack."""
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
    """From layer 0 to the last."""
    influence: tuple[float, ...]
    """Influence of the nodes at hop 0, 1, ... on a node's logits (L1 norm of the Jacobian), relative to hop 0; empty
    if it was not requested."""
    reach: float | None
    """Mean hop distance, weighted by influence."""


def diagnose_run(folder: Path, *, data_root: Path, hops: int | None = None, nodes: int = 8) -> Diagnosis:
    """Diagnose the best weights of a finished run on its own graph, on the CPU and without dropout.

    Args:
        folder: the run folder.
        data_root: folder of the data, as in training.
        hops: largest hop of the reach; ``None``: the number of layers, at most `MOST_HOPS`.
        nodes: number of nodes over which the reach is averaged, drawn from seed 0; 0: no reach.
    Raises:
        FileNotFoundError: the folder has no finished run.
        ValueError: a number is below its least; the network has no stack of layers or reads labels, or the data is not
            one graph in memory.
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
    if not isinstance(model, GNN) or not isinstance(model.stack, Stack):
        raise ValueError(f"{folder} holds a {type(model).__name__} without a stack of layers; there is none to look at")
    (batch,) = make_batches(dataset, loader=LoaderConfig(node_order="given")).evaluate()
    objective = Objective(loss=run.train.loss, metric=info.metric, scale=info.target_scale)
    layers = look_into(model, model.stack, batch, objective.evaluation_loss)
    if not nodes:
        return Diagnosis(layers=layers, influence=(), reach=None)
    influence, reach = _influence(model, dataset, min(len(layers) - 1, MOST_HOPS) if hops is None else hops, nodes)
    return Diagnosis(layers=layers, influence=influence, reach=reach)


def look_into(
    model: GNN, stack: Stack, batch: Batch, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[LayerFacts, ...]:
    """Measure the energy and the gradients of every layer.

    Args:
        model: in evaluation mode.
        stack: the model's stack.
        batch: the whole graph.
        loss: logits and labels of the training rows -> scalar.
    """
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
    return tuple(
        LayerFacts(
            layer=depth,
            energy=dirichlet_energy(state.detach(), batch.graph),
            stream_gradient=_norm([state.grad]),
            weight_gradient=None if depth == 0 else _weights(stack.layer_at(depth - 1)),
        )
        for depth, state in enumerate(states)
    )


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

    layers = [facts.layer for facts in diagnosis.layers]
    figure = Figure(figsize=(4.2 * (3 if diagnosis.influence else 2), 3.2), layout="constrained")
    energy, gradient, *rest = figure.subplots(1, 3 if diagnosis.influence else 2)
    energy.plot(layers, [facts.energy for facts in diagnosis.layers], color="#0072b2")
    energy.set(xlabel="layer", title="Dirichlet energy", ylim=(0, None))
    gradient.semilogy(layers, [facts.stream_gradient for facts in diagnosis.layers], color="#d55e00", label="stream")
    by_weights = [facts.weight_gradient for facts in diagnosis.layers if facts.weight_gradient is not None]
    gradient.semilogy(layers[1:], by_weights, color="#009e73", label="weights")
    gradient.set(xlabel="layer", title="gradient norm")
    gradient.legend(frameon=False)
    for axes in rest:
        axes.semilogy(range(len(diagnosis.influence)), diagnosis.influence, color="#7a5195", marker="o", markersize=3)
        axes.set(xlabel="hops", title="influence, hop 0 = 1")
    for axes in (energy, gradient, *rest):
        axes.grid(color="#dde3ea", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _check(run: Experiment, info: GraphInfo) -> None:
    if info.task_spec.has_many_graphs or run.dataset.name == "prepared":
        raise ValueError("diagnose looks at one graph in memory, not at many small ones nor at a graph on disk")
    if run.train.labels.reuse:
        raise ValueError("diagnose does not look at networks that read labels (train.labels.reuse=true)")


def _influence(model: nn.Module, dataset: Dataset, hops: int, nodes: int) -> tuple[tuple[float, ...], float]:
    with quiet_pyg():
        from torch_geometric.data import Data
        from torch_geometric.utils import total_influence

        data = Data(x=dataset.x, edge_index=dataset.edge_index)
        # PyG uses the global random generator and shows a progress bar.
        with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):
            torch.manual_seed(0)
            by_hop, reach = total_influence(model, data, max_hops=hops, num_samples=nodes, vectorize=False)
    return tuple(by_hop.tolist()), float(reach)


def _weights(blocks: Sequence[nn.Module]) -> float:
    return _norm([parameter.grad for block in blocks for parameter in block.parameters()])


def _norm(gradients: list[Tensor | None]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients if each is not None))
