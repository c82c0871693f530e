"""Reads road networks; a node's label is its decile of eccentricity, by road length within 16 hops.

The file is an ``.npz`` with an edge list and lengths; the labels follow from them by the rule of City-Networks.
"""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset import Dataset
from ..info import GraphInfo
from .npz import read_npz

HOPS, CLASSES = 16, 10
_EDGES = ("src", "dst", "length")

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def read_roads(path: Path) -> Dataset:
    """Read a road network and label it.

    Args:
        path: an ``.npz`` with ``src``, ``dst`` (E integers, every road in both directions) and ``length`` (E numbers,
            above 0); and, to spare their computation, ``ecc`` (N numbers, what `eccentricities` gives) and ``x`` (N x
            F, what `road_features` gives, or other features).
    Returns: the network; features standardised, a tenth of the nodes to train, a tenth to select, the others to test.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, lacks an array, or has invalid roads.
    Cost: without ``ecc`` a shortest-path search per node, a minute or less for 100,000.
    Source: Liang et al. 2025 (arXiv:2503.09008).
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; name the folder below which it lies with --data-root")
    arrays = read_npz(path, _EDGES, ("x", "ecc"))
    src, dst = (arrays[key].astype(np.int64) for key in _EDGES[:2])
    length = arrays["length"].astype(np.float32)
    if not len(src) == len(dst) == len(length) or not len(src) or min(src.min(), dst.min()) < 0:
        raise ValueError(f"{path}: src, dst and length must be one for each of at least one road, numbers from 0")
    if not bool((length > 0).all()):
        raise ValueError(f"{path}: length must be above 0; road {int(np.argmin(length > 0))} is not")
    nodes = len(arrays["x"]) if "x" in arrays else int(max(src.max(), dst.max())) + 1
    ecc = arrays["ecc"] if "ecc" in arrays else eccentricities(src, dst, length, nodes)
    x = (arrays["x"] if "x" in arrays else road_features(src, length, nodes)).astype(np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    order = torch.from_numpy(np.random.RandomState(0).permutation(nodes))
    tenth = nodes // 10
    return Dataset(
        info=GraphInfo(name=path.stem, num_outputs=CLASSES),
        x=torch.from_numpy(x.astype(np.float32)),
        edge_index=torch.from_numpy(np.stack([src, dst])),
        y=torch.from_numpy(equal_chunks(ecc, CLASSES)),
        splits={
            "train": order[:tenth].sort().values,
            "valid": order[tenth : 2 * tenth].sort().values,
            "test": order[2 * tenth :].sort().values,
        },
    )


def eccentricities(src: Integers, dst: Integers, length: Floats, num_nodes: int, hops: int = HOPS) -> Floats:
    """Find how far the farthest of the nodes within some hops is, by the roads between those nodes.

    ``e_i = max_j d_S(i, j)`` over S, the nodes that i reaches in at most ``hops`` steps, with d_S the length of the
    shortest path inside S.

    Args:
        src, dst, length: E directed edges, each with its reverse.
        num_nodes: N.
        hops: the radius of S.
    Returns: [N], in the unit of ``length``; 0 for a node without roads.
    """
    near: list[list[tuple[int, float]]] = [[] for _ in range(num_nodes)]
    for one, other, weight in zip(src.tolist(), dst.tolist(), length.tolist(), strict=True):
        near[one].append((other, weight))
    return np.array([_farthest(near, node, hops) for node in range(num_nodes)], np.float32)


def _farthest(near: list[list[tuple[int, float]]], start: int, hops: int) -> float:
    inside, front = {start}, {start}
    for _ in range(hops):
        front = {other for node in front for other, _ in near[node]} - inside
        inside |= front
    reached: set[int] = set()
    queue, distance = [(0.0, start)], 0.0
    while queue:
        so_far, node = heapq.heappop(queue)
        if node in reached:
            continue
        reached.add(node)
        distance = so_far
        for other, weight in near[node]:
            if other in inside and other not in reached:
                heapq.heappush(queue, (so_far + weight, other))
    return distance


def road_features(src: Integers, length: Floats, num_nodes: int) -> Floats:
    """Describe every node by its own roads: their number, mean and largest length; [N, 3]."""
    degree = np.bincount(src, minlength=num_nodes)
    total = np.bincount(src, weights=length, minlength=num_nodes)
    largest = np.zeros(num_nodes)
    np.maximum.at(largest, src, length)
    return np.stack([degree, total / np.maximum(degree, 1), largest], axis=1).astype(np.float32)


def equal_chunks(values: NDArray[np.generic], chunks: int) -> Integers:
    """Give each value the number of its chunk in ascending order, chunks of N // chunks + 1 values and a smaller last.

    Source: as City-Networks cuts its labels.
    """
    labels = np.empty(len(values), np.int64)
    labels[np.argsort(values, kind="stable")] = np.arange(len(values)) // (len(values) // chunks + 1)
    return labels
