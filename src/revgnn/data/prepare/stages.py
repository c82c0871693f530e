"""Prepare a graph from tables in stages: resolve columns, partition nodes, join edges, write parts.

Every stage continues after faults where it can, so that one report has all of them. The output folder appears only
after the last stage.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...files import versions_of
from ...run_lock import claimed
from ..hashing import HASH_NAME
from ..info import GraphInfo
from ..ondisk.folder import is_store, new_store
from ..ondisk.manifest import Manifest, PartFacts, read_manifest, write_manifest
from ..ondisk.part import PartArrays, write_part
from ..readers.parquet import Faults
from .arrow_engine import ArrowEngine
from .config import GraphConfig
from .daft_engine import DaftEngine
from .engine import DAMAGED, Engine
from .finish import (
    ELSEWHERE,
    TWICE,
    Edges,
    FaultyEdges,
    NodeParts,
    RowCounts,
    matrix,
    read_edges,
    with_self_loops,
    without_repeats,
)
from .inputs import Table, describe, open_table
from .metis import metis_parts
from .resolve import Plan, resolve

Facts = dict[str, object]
"""JSON of a manifest."""
_logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0
_WRITERS = 2
"""Maximum number of parts that are sorted and written at the same time, each in memory."""


@dataclass(frozen=True, kw_only=True)
class DropFaulty:
    """The faulty rows that are dropped and counted instead of reported as faults."""

    bad_edges: bool = False
    """Edges with a missing or unknown id, or with faulty features."""
    duplicate_nodes: bool = False
    """Rows with the id of an earlier row."""
    bad_nodes: bool = False
    """Nodes without an id, or with a faulty feature, label or split. Their edges become bad edges."""


@dataclass(frozen=True)
class Prepared:
    """A prepared graph."""

    folder: Path
    manifest: Manifest
    skipped: bool
    """Whether the folder already had this graph from the same inputs."""
    seconds: float
    """Wall-clock time of the preparation."""

    def summary(self) -> dict[str, object]:
        """Return the summary for programs, as JSON values."""
        manifest = self.manifest
        return {
            "graph": str(self.folder),
            "skipped": self.skipped,
            "seconds": self.seconds,
            "num_nodes": manifest.info.counts.nodes,
            "num_edges": manifest.info.counts.edges,
            "num_parts": manifest.num_parts,
            "num_bytes": manifest.num_bytes,
            "splits": dict(manifest.splits),
            "num_outputs": manifest.info.num_outputs,
            "dropped": dict(manifest.dropped),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return the summary for readers, as (name, value)."""
        manifest = self.manifest
        splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
        dropped = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest.dropped.items())
        return [
            ("graph", str(self.folder)),
            ("nodes", f"{manifest.info.counts.nodes:,} ({splits})"),
            ("edges", f"{manifest.info.counts.edges:,}"),
            ("parts", f"{manifest.num_parts}, {manifest.num_bytes / 1e6:,.1f} MB"),
            ("dropped", dropped or "nothing"),
            ("time", "was there already" if self.skipped else f"{self.seconds:.1f} s"),
        ]


def prepare(
    config: GraphConfig,
    base: Path,
    out: Path,
    *,
    drop: DropFaulty | None = None,
    overwrite: bool = False,
    ray: str | None = None,
    like: GraphInfo | None = None,
) -> Prepared:
    """Prepare a graph from tables.

    Args:
        config: the content of graph.yaml.
        base: the folder that its files are relative to.
        out: the folder to write. During preparation a temporary folder beside it takes about the size of the tables.
        drop: the faulty rows to drop; ``None``: none.
        overwrite: whether to replace a prepared graph in ``out``.
        ray: the address of a Ray cluster that sees ``base`` and the folder of ``out``, or ``local``.
        like: metadata of a graph whose encodings and classes are taken over; ``None``: they are fitted.
    Returns: the prepared graph.
    Raises:
        FileExistsError: ``out`` contains something else.
        ClaimedError: another process prepares a graph there.
        ModuleNotFoundError: Daft, Ray or pymetis is not installed.
        ValueError: all faults of the tables.
    Cost: two or three streamed passes over the nodes and one over the edges. In memory: a hash table of the ids of all
        nodes; then two parts at a time.
    """
    started, drop = time.monotonic(), drop or DropFaulty()
    faults = Faults()
    nodes, edges = (open_table(side.files, base, faults, side.csv) for side in (config.nodes, config.edges))
    if nodes is None or edges is None:
        faults.raise_if_any(base)
        raise AssertionError("a table without files is a fault")
    taken = {} if like is None else {"like": asdict(like.without_counts())}
    settings = json.loads(json.dumps({**asdict(config), "drop": asdict(drop), **taken}))
    inputs = describe(nodes) + describe(edges)
    existing = _existing(out, inputs, settings, overwrite)
    if existing is not None:
        _logger.info("%s has these tables already; nothing to do", out)
        return Prepared(out, existing, True, time.monotonic() - started)
    engine = ArrowEngine() if ray is None else DaftEngine(ray)
    with claimed(out, beside=True), _work_folder(out) as work:
        preparation = _Preparation(config, drop, (nodes, edges), engine, work, faults)
        preparation.resolve(base, like)
        preparation.sort_rows(base)
        manifest = preparation.write(out, inputs, settings)
    _logger.info(
        "%s: %s nodes, %s edges, %d parts",
        out,
        f"{manifest.info.counts.nodes:,}",
        f"{manifest.info.counts.edges:,}",
        manifest.num_parts,
    )
    return Prepared(out, manifest, False, time.monotonic() - started)


class _Preparation:
    """The stages of a preparation and the state between them."""

    def __init__(
        self,
        config: GraphConfig,
        drop: DropFaulty,
        tables: tuple[Table, Table],
        engine: Engine,
        work: Path,
        faults: Faults,
    ) -> None:
        self.config, self.drop, self.tables, self.engine = config, drop, tables, engine
        self.work, self.faults = work, faults
        self.dropped: Counter[str] = Counter()
        self._lock = threading.Lock()

    def resolve(self, base: Path, like: GraphInfo | None) -> None:
        """Find the columns.

        Raises: ValueError: all faults so far, if too much is missing to continue.
        """
        _logger.info("reading the columns of %s", _files(self.tables))
        plan = resolve(self.config, *self.tables, self.faults, like)
        if plan is None:
            self.faults.raise_if_any(base)
            raise AssertionError("a column that cannot be read is a fault")
        self.plan: Plan = plan

    def sort_rows(self, base: Path) -> None:
        """Sort nodes and edges into parts.

        Raises: ValueError: all faults of all rows.
        """
        plan, work, engine = self.plan, self.work, self.engine
        assigned = None
        if self.config.parts.method == "metis":
            with _stage("metis"):
                assigned = metis_parts(engine, plan, work, self.config.parts.count)
        self.nodes = NodeParts(
            engine,
            work / "nodes",
            self.config.parts.count,
            self.config.nodes.id,
            RowCounts(plan.node_checks),
            self.drop.bad_nodes,
            self.dropped,
        )
        with _stage("nodes"):
            engine.split_nodes(plan.nodes, work / "nodes", assigned, self.nodes.add_faulty)
            self.nodes.place(work / "places")
        _logger.info("%s nodes are sorted into parts", f"{self.nodes.num_nodes:,}")
        if self.config.parts.method == "column" and self.nodes.num_nodes:
            self._count_ids_of_two_parts()
        faulty = FaultyEdges(RowCounts(plan.edge_checks), (self.config.edges.src, self.config.edges.dst))
        if self.nodes.num_nodes:
            with _stage("edges"):
                engine.split_edges(plan.edges, work / "places", work / "edges", faulty.add)
                if self.config.direction == "undirected":
                    engine.reverse_edges(work / "edges", work / "reversed")
            if self.drop.bad_edges:
                self.dropped["bad_edges"] += faulty.count
        else:
            self.faults.add(self.tables[0].names[0], None, "has no row that can be a node; a graph needs at least one")
        self._report(faulty.row_faults)
        self.faults.raise_if_any(base)

    def _report(self, edge_faults: RowCounts) -> None:
        node_names, edge_names = (table.names for table in self.tables)
        # Always faults: rows lost in a damaged file cannot be counted, and a node's part cannot be guessed.
        never = {TWICE, ELSEWHERE, DAMAGED}
        dropped = {text for _, text in self.plan.node_checks.known} - never if self.drop.bad_nodes else set()
        dropped |= {TWICE} if self.drop.duplicate_nodes else set()
        self.nodes.row_faults.report(node_names, self.faults, without=frozenset(dropped))
        dropped = {text for _, text in self.plan.edge_checks.known} - never if self.drop.bad_edges else set()
        edge_faults.report(edge_names, self.faults, without=frozenset(dropped))
        split = self.config.split
        if split is not None and self.nodes.num_nodes and not self.nodes.splits["train"]:
            self.faults.add(node_names[0], split.column, "no row says train; at least one labelled node must")

    def _count_ids_of_two_parts(self) -> None:
        table = self.engine.repeated_ids(self.work / "places")
        if len(table):
            check = self.plan.node_checks.number(self.config.nodes.id, ELSEWHERE)
            files, rows = (np.asarray(table.column(name)) for name in ("file", "row"))
            self.nodes.row_faults.add(check, files, rows, table.column("id").combine_chunks())

    def write(self, out: Path, inputs: list[Facts], settings: Facts) -> Manifest:
        """Write the parts one by one, then move the graph to ``out``.

        Args:
            out: the folder of the graph.
            inputs: the facts of the input files, for the manifest.
            settings: what made the graph, for the manifest.
        """
        config, plan = self.config, self.plan
        replaced = out.with_name(f".old-{out.name}-{os.getpid()}") if is_store(out) else None
        with _stage("parts"), new_store(out if replaced is None else self.work / "graph") as folder:
            parts: list[PartFacts] = []
            logged_at = time.monotonic()
            with ThreadPoolExecutor(min(_WRITERS, os.cpu_count() or 1)) as pool:
                for facts in pool.map(partial(self._write_part, folder), range(config.parts.count)):
                    parts.append(facts)
                    if time.monotonic() - logged_at >= _SECONDS_BETWEEN_LINES:
                        logged_at = time.monotonic()
                        edges = f"{sum(one.edges for one in parts):,}"
                        _logger.info("part %d of %d: %s edges so far", len(parts), config.parts.count, edges)
            manifest = Manifest(
                info=replace(
                    plan.info(config, config.name or out.resolve().name),
                    undirected=config.direction == "undirected",
                    self_loops=config.self_loops,
                ),
                splits=self.nodes.splits,
                partition={
                    "method": config.parts.method,
                    "seed": config.parts.seed,
                    "hash": HASH_NAME,
                    "column": config.parts.column,
                },
                parts=tuple(parts),
                dropped={name: count for name, count in sorted(self.dropped.items()) if count},
                versions={**versions_of("revgnn", *self.engine.packages), "hash": HASH_NAME},
                inputs=tuple(inputs),
                config=settings,
            )
            write_manifest(folder, manifest)
        if replaced is not None:
            os.replace(out, replaced)
            os.replace(self.work / "graph", out)
            shutil.rmtree(replaced)
        return manifest

    def _write_part(self, folder: Path, part: int) -> PartFacts:
        nodes, rows = self.nodes.read(part), self.plan.node_rows
        edges = self._edges(part, 0 if nodes is None else len(nodes))
        if nodes is None:
            nodes = rows.schema.empty_table()
        y = nodes.column("y")
        labels = matrix(y, rows.num_targets) if rows.num_targets else np.asarray(y).astype(np.int64)
        if not rows.num_targets and not self.config.spec.has_classes:
            labels = np.empty((len(labels), 0), np.float32)
        return write_part(
            folder,
            part,
            PartArrays(
                ids=nodes.column("id").combine_chunks(),
                x=matrix(nodes.column("x"), rows.width),
                y=labels,
                split=np.asarray(nodes.column("split")).astype(np.int8),
                src_part=edges.src_part,
                src=edges.src,
                dst=edges.dst,
                edge_attr=edges.edge_attr,
            ),
            num_parts=self.config.parts.count,
        )

    def _edges(self, part: int, nodes: int) -> Edges:
        """Read the edges into a part of some nodes.

        A directed graph keeps repeated edges. In an undirected graph each direction has the features of its first edge,
        or those of the reverse edge if only that exists.
        """
        folders = [self.work / "edges", self.work / "reversed"]
        undirected = self.config.direction == "undirected"
        edges = read_edges(self.engine, folders[: 1 + undirected], part, self.plan.edge_rows.width)
        if undirected:
            count = len(edges.src)
            edges = without_repeats(edges)
            self._count_dropped("repeated_edges", count - len(edges.src))
        if self.config.self_loops:
            edges, replaced = with_self_loops(edges, part, nodes)
            self._count_dropped("replaced_self_loops", replaced)
        return edges

    def _count_dropped(self, name: str, count: int) -> None:
        with self._lock:
            self.dropped[name] += count


def _existing(out: Path, inputs: list[Facts], settings: Facts, overwrite: bool) -> Manifest | None:
    """Return the manifest of a graph in ``out`` from the same inputs and settings; ``None``: write a new graph."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_store(out):
        raise FileExistsError(f"{out} exists and is no prepared graph; choose another --out, or remove it")
    if overwrite:
        return None
    manifest = read_manifest(out)
    same = [dict(one) for one in manifest.inputs] == inputs and dict(manifest.config) == settings
    if not same:
        raise FileExistsError(
            f"{out} is a graph of other tables or settings; choose another --out, or --overwrite replaces it"
        )
    return manifest


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Make a temporary folder for intermediate files beside ``out``, on the same file system."""
    work = Path(tempfile.mkdtemp(prefix=f".preparing-{out.name}-", dir=out.resolve().parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.monotonic()
    _logger.info("%s: started", name)
    yield
    _logger.info("%s: done in %.1f s", name, time.monotonic() - started)


def _files(tables: tuple[Table, Table]) -> str:
    counts = [f"{len(table.paths)} {'file' if len(table.paths) == 1 else 'files'}" for table in tables]
    size = sum(table.num_bytes for table in tables)
    return f"{counts[0]} of nodes and {counts[1]} of edges, {size / 1e6:,.1f} MB"
