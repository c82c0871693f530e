"""Orders of a graph's nodes in which neighbours are near: METIS clusters, and reverse Cuthill-McKee (RCM).

A sum over neighbours reads one row per edge. Where neighbours are near, most of these rows are still in a cache.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
NodeOrder = Literal["auto", "quick", "clusters", "rcm", "given"]
"""How nodes are ordered: "clusters", METIS clusters with RCM inside; "rcm"; "given"; where an order is worth it, "auto"
takes clusters if pymetis is installed and the graph is not too large, else RCM; "quick" takes RCM."""

LEAST_NODES = 16_384
"""Nodes from which an order is worth it: the rows of fewer lie in a cache in any order."""
NEAR = 4_096
"""Distance up to which two nodes are near."""
NEAR_ENOUGH = 0.5
"""Share of edges between near nodes from which a graph keeps its order."""
NODES_PER_CLUSTER = 512
MOST_METIS_EDGES = 2**25
"""Edges up to which METIS is run without being asked for: it takes 2 to 4 us an edge."""


def chosen_order(order: NodeOrder, num_nodes: int, num_edges: int, near: float) -> Literal["clusters", "rcm", "given"]:
    """Choose the order of a graph: one that was asked for, or the best one if it is worth it.

    Args:
        near: the share of edges between nodes whose numbers differ by less than `NEAR`.
    """
    if order != "auto" and order != "quick":
        return order
    if num_nodes < LEAST_NODES or near >= NEAR_ENOUGH:
        return "given"
    has_metis = order == "auto" and num_edges <= MOST_METIS_EDGES and find_spec("pymetis") is not None
    return "clusters" if has_metis else "rcm"


def near_share(indptr: NDArray[np.integer], indices: NDArray[np.integer]) -> float:
    """Return the share of edges between nodes whose numbers differ by less than `NEAR`, of a million edges."""
    edges = np.arange(0, indices.size, indices.size // 2**20 + 1)
    destinations = np.searchsorted(indptr, edges, side="right") - 1
    return float((np.abs(indices[edges] - destinations) < NEAR).mean()) if edges.size else 1.0


def local_order(edge_index: Integers, num_nodes: int, *, clusters: bool) -> Integers:
    """Order nodes so that neighbours are near; direction, duplicate edges and self loops are ignored.

    Args:
        edge_index: [2, E] int64.
        num_nodes: N.
        clusters: whether METIS clusters of about `NODES_PER_CLUSTER` nodes come one after another, with RCM inside;
            otherwise RCM of the whole graph.
    Returns: [N] int64, the node at each place.
    Raises: ModuleNotFoundError: clusters without pymetis.
    Cost: RCM takes about 0.1 us an edge, METIS 2 to 4.
    Source: Cuthill and McKee 1969, through scipy.
    """
    if not clusters:
        return _rcm(edge_index, num_nodes)
    cluster = metis_clusters(edge_index, num_nodes, max(num_nodes // NODES_PER_CLUSTER, 1))
    order = _rcm(edge_index[:, cluster[edge_index[0]] == cluster[edge_index[1]]], num_nodes)
    return order[np.argsort(cluster[order], kind="stable")]


def _rcm(edge_index: Integers, num_nodes: int) -> Integers:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    if num_nodes == 0:
        return np.empty(0, np.int64)
    src, dst = edge_index
    matrix = coo_array((np.ones(len(src), np.int8), (dst, src)), shape=(num_nodes, num_nodes)).tocsr()
    order: Integers = reverse_cuthill_mckee(matrix).astype(np.int64)
    return order


def metis_clusters(edge_index: Integers, num_nodes: int, num_clusters: int) -> Integers:
    """Partition a graph into clusters of about equal size with few edges between them.

    Direction, duplicate edges and self loops are ignored. METIS uses its default seed: the same graph gives the same
    clusters with the same version of METIS.

    Args:
        edge_index: [2, E] int64.
        num_nodes: N.
        num_clusters: at least 1; if it is above N, some clusters are empty.
    Returns: [N] int64 in ``0..num_clusters-1``.
    Raises: ModuleNotFoundError: pymetis is not installed.
    Cost: a sort of 2E keys, and METIS itself: seconds for a million edges.
    Source: Karypis and Kumar 1998, METIS, through pymetis.
    """
    try:
        import pymetis
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "clusters are cut by METIS, which needs the package pymetis, and it is not installed: "
            "pip install 'revgnn[metis]', or choose kind='random' (node_order='rcm')"
        ) from missing
    n = num_nodes
    if num_clusters >= n:
        # METIS would combine nodes and leave other clusters empty.
        return np.arange(n)
    if num_clusters == 1:
        return np.zeros(n, np.int64)
    src, dst = edge_index
    src, dst = src[src != dst], dst[src != dst]
    key = np.unique(np.concatenate([dst * n + src, src * n + dst]))
    indptr = np.concatenate([[0], np.bincount(key // n, minlength=n).cumsum()])
    _, membership = pymetis.part_graph(num_clusters, pymetis.CSRAdjacency(indptr, key % n))
    return np.asarray(membership, np.int64)
