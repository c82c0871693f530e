"""Computes the nodes and edges of a training step, and the number of steps per epoch."""

from __future__ import annotations

import math
from dataclasses import replace

from ..data import Batches, LoaderConfig
from ..data.sampling.saint import SaintOptions
from ..experiment import Experiment
from .synthetic import GraphShape

KEPT = 0.5
"""Share of the edges that batches of METIS clusters keep, where it is not known: 0.51 of ogbn-arxiv's, by 32 of 512."""
PARTS = ("random", "clusters", "ondisk")
"""Kinds of loader whose batches are parts of the graph."""
TRAINED = 0.6
"""Share of the rows to train on, where it is not known."""


def step_size(run: Experiment, shape: GraphShape) -> tuple[int, int]:
    """Return the expected numbers of nodes and edges of a training step."""
    step = step_shape(run, shape)
    return step.nodes, step.edges


def step_shape(run: Experiment, shape: GraphShape) -> GraphShape:
    """Return the shape of a data set of which one training step is the whole."""
    loader = run.loader
    if shape.info.task_spec.has_many_graphs:
        graphs = min(run.batch_size or shape.graphs, shape.graphs)
        share = graphs / shape.graphs
        nodes, edges = max(round(shape.nodes * share), 1), round(shape.edges * share)
        return shape.counted(nodes=nodes, edges=edges, graphs=graphs, train=graphs)
    if loader.kind == "full":
        return shape
    if loader.fanouts is not None:
        nodes, edges = _reached(loader, shape)
        train = min(loader.batch_size or nodes, nodes)
        return replace(shape.counted(nodes=nodes, edges=edges, train=train), kept=None)
    if loader.kind == "saint":
        nodes, edges = _sampled(loader.saint, shape)
        train = -(-shape.train * nodes // shape.nodes)
        return replace(shape.counted(nodes=nodes, edges=edges, train=train), kept=None)
    parts = steps_by_parts(loader, shape)
    nodes, loops = max(shape.nodes // parts, 1), shape.nodes if shape.info.self_loops else 0
    edges = loops // parts + round(kept_share(loader, shape) * (shape.edges - loops) / parts)
    return replace(shape.counted(nodes=nodes, edges=edges, train=-(-shape.train // parts)), parts=1, kept=None)


def steps_of(run: Experiment, shape: GraphShape) -> int:
    """Return the steps of an epoch."""
    rows = shape.train or round(TRAINED * shape.rows)
    batch = run.batch_size if shape.info.task_spec.has_many_graphs else run.loader.batch_size
    if shape.info.task_spec.has_many_graphs or run.loader.fanouts is not None:
        return -(-rows // (batch or rows))
    if run.loader.kind == "saint":
        return run.loader.saint.steps or max(round(shape.nodes / _sampled(run.loader.saint, shape)[0]), 1)
    return 1 if run.loader.kind == "full" else steps_by_parts(run.loader, shape)


def is_sampled(loader: LoaderConfig) -> bool:
    """Whether batches are sampled by numbers of nodes and edges, instead of being parts."""
    return loader.kind == "saint" or loader.fanouts is not None


def _reached(loader: LoaderConfig, shape: GraphShape) -> tuple[int, int]:
    """Return the nodes of sampled neighbourhoods and their drawn edges, for equal degrees and random neighbours.

    Real neighbourhoods overlap more, and nodes of low degree draw fewer edges, so both counts are upper estimates.
    """
    roots = shape.train or round(TRAINED * shape.rows)
    degree = shape.edges / shape.nodes
    drawn, newest = 0.0, min(loader.batch_size or roots, roots) / shape.nodes
    reached = newest
    for fanout in loader.fanouts or ():
        draws = newest * (degree if fanout == -1 else fanout if loader.with_replacement else min(fanout, degree))
        drawn += draws
        newest = (1 - reached) * -math.expm1(-draws)
        reached += newest
    return max(round(reached * shape.nodes), 1), round(drawn * shape.nodes)


def _sampled(saint: SaintOptions, shape: GraphShape) -> tuple[int, int]:
    """Return the nodes of a GraphSAINT subgraph and the edges between them, for equal degrees and random neighbours."""
    walked = saint.budget * {"node": 0, "edge": 1, "walk": saint.walk_length}[saint.sampler]
    share = -math.expm1(-(saint.budget * (saint.sampler != "node") + max(walked, saint.budget)) / shape.nodes)
    # Drawn edges are kept with their reverses, and of the others those with both ends among the nodes.
    drawn = -math.expm1(-2 * walked / max(shape.edges, 1))
    kept = drawn + (1 - drawn) * share**2
    return max(round(share * shape.nodes), 1), round(kept * shape.edges)


def kept_share(loader: LoaderConfig, shape: GraphShape) -> float:
    """Return the share of the edges, without self loops, that lie within a part of an epoch.

    Raises: ValueError: batches of this kind are not parts.
    """
    _check_parts(loader)
    if loader.kind == "random":
        return 1 / steps_by_parts(loader, shape)
    if loader.kind == "clusters":
        return KEPT if shape.kept is None else shape.kept
    within = 1 / shape.parts if shape.kept is None else shape.kept
    # Parts come together by chance: to the edges within each come those between them.
    return within + (1 - within) * ((loader.parts_per_batch or 1) - 1) / max(shape.parts - 1, 1)


def kept_by(batches: Batches, shape: GraphShape) -> float:
    """Count the share of the edges, without self loops, that the batches of an epoch keep.

    Cost: the batches of an epoch.
    """
    sizes = [(batch.graph.num_nodes, batch.graph.num_edges) for batch in batches.train(1)]
    nodes, edges = (sum(counts) for counts in zip(*sizes, strict=True))
    loops = (shape.nodes, nodes) if shape.info.self_loops else (0, 0)
    return float((edges - loops[1]) / max((shape.edges - loops[0]) * nodes / shape.nodes, 1))


def steps_by_parts(loader: LoaderConfig, shape: GraphShape) -> int:
    """Return the steps of an epoch by parts, which are drawn or read from disk.

    Raises: ValueError: batches of this kind are not parts.
    """
    _check_parts(loader)
    parts = shape.parts if loader.kind == "ondisk" else loader.num_parts
    assert parts is not None, "LoaderConfig has checked it"
    return -(-parts // (loader.parts_per_batch or 1))


def _check_parts(loader: LoaderConfig) -> None:
    if loader.kind not in PARTS or loader.fanouts is not None:
        raise ValueError(
            f"the size of a step is known for loader.kind=full, neighbor, saint, {', '.join(PARTS)}, got "
            f"{loader.kind}; plan with one of these, or measure a run"
        )
