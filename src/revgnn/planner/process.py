"""Estimates the memory of a CPU process from its tensors: interpreter, data, and malloc's overhead.

``process = interpreter + FIXED + data + max(MADE E, whole graph + slack peak)``. The interpreter is measured in this
process; the numbers below are from processes that were measured (docs/planner.md says how well they fit).
"""

from __future__ import annotations

from ..experiment import Experiment
from ..meter import interpreter_bytes
from ..nn.model import ModelConfig
from ..node_order import chosen_order
from .model_size import size_of
from .step_size import step_size
from .synthetic import GraphShape

FLOAT, INDEX = 4, 8
"""Bytes of a float32; of an int64, as which edges, classes and rows of splits are read."""
FIXED = 14_000_000
"""Bytes that training takes whatever the size: threads, work spaces of libraries, notes of a recording."""
KEPT = 12
"""Bytes of an edge of a sorted graph, where steps take parts of it."""
MADE = {"given": 40, "rcm": 70, "clusters": 165}
"""Bytes of an edge while a graph is sorted, and while its nodes are ordered too, by the order that is chosen."""
MAPPED = 2**25
"""Bytes from which glibc's malloc gives a block back to the system as soon as it is free."""
SLACK, STORED_SLACK, MAPPED_SLACK = 1.3, 1.8, 1.1
"""Times the peak of tensors that malloc takes for them: where layers are rebuilt or solved; where activations of all
layers are stored, so that the heap breaks around what outlives them; and where activations are mapped by themselves."""


def process_bytes(run: Experiment, shape: GraphShape, peak: int) -> int:
    """Return the peak bytes of the process.

    Args:
        run, shape: as in `estimate`.
        peak: bytes of tensors.
    """
    in_parts = not shape.info.task_spec.has_many_graphs and run.loader.kind not in ("full", "ondisk")
    is_sorted = not shape.info.task_spec.has_many_graphs and run.loader.kind != "ondisk"
    making = MADE[_order(run, shape)] * shape.edges if is_sorted else 0
    training = (KEPT * shape.edges if in_parts else 0) + round(slack(run, shape) * peak)
    return interpreter_bytes() + FIXED + data_bytes(run, shape) + max(making, training)


def _order(run: Experiment, shape: GraphShape) -> str:
    """Return the order of the nodes where steps take a whole graph, whose neighbours are assumed to be far apart."""
    if shape.info.task_spec.has_many_graphs or run.loader.kind != "full":
        return "given"
    return chosen_order(run.loader.node_order, shape.nodes, shape.edges, near=0.0)


def slack(run: Experiment, shape: GraphShape) -> float:
    """Return the ratio of malloc's memory to the tensors' peak for a run."""
    nodes, _ = step_size(run, shape)
    if isinstance(run.model, ModelConfig) and run.model.backprop != "store":
        return SLACK
    return MAPPED_SLACK if nodes * size_of(run.model).width * FLOAT >= MAPPED else STORED_SLACK


def data_bytes(run: Experiment, shape: GraphShape) -> int:
    """Return the bytes of a data set in memory that are not among a step's tensors; 0 for a graph on disk."""
    if run.loader.kind == "ondisk":
        return 0
    by_row = 2 * INDEX if shape.info.task_spec.has_classes else INDEX + shape.info.num_outputs * FLOAT
    edge_columns = len(shape.info.edge_categories or ()) or (shape.info.edge_channels or 0) * FLOAT
    is_shared = not shape.info.task_spec.has_many_graphs and run.loader.kind == "full" and shape.info.categories is None
    is_shared = is_shared and _order(run, shape) == "given"
    node_columns = 0 if is_shared else len(shape.info.categories or ()) or shape.info.in_channels * FLOAT
    return shape.edges * (2 * INDEX + edge_columns) + shape.nodes * node_columns + shape.rows * by_row
