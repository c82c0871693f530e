"""``revgnn prepare``: prepare a graph from tables"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..console import progress_console
from ..data import GraphInfo, is_store
from ..data.ondisk.manifest import read_manifest
from ..data.prepare import DropFaulty, chosen_config, write_first
from ..data.prepare import prepare as prepare_graph
from ..run_file import read_schema
from .output import log_to, print_facts, print_json, print_lines


def run(arguments: Namespace) -> None:
    """Prepare a graph from tables, or write a first graph.yaml for them."""
    if arguments.init:
        path = write_first(arguments, arguments.out or Path("graph.yaml"))
        if arguments.json:
            print_json({"config": str(path)})
        else:
            print_lines([str(path)])
        return
    log_to(progress_console())
    like = None if arguments.like is None else _metadata(arguments.like)
    config, base = chosen_config(arguments, like)
    drop = DropFaulty(
        bad_edges=arguments.drop_bad_edges,
        duplicate_nodes=arguments.drop_duplicate_nodes,
        bad_nodes=arguments.drop_bad_nodes,
    )
    out = arguments.out or Path("graph")
    prepared = prepare_graph(config, base, out, drop=drop, overwrite=arguments.overwrite, ray=arguments.ray, like=like)
    if arguments.json:
        print_json(prepared.summary())
        return
    print_facts(prepared.facts())


def _metadata(folder: Path) -> GraphInfo:
    """Read the metadata of a prepared graph, or of the graph of a run."""
    if is_store(folder):
        return read_manifest(folder).info
    try:
        return read_schema(folder)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--like {folder} is neither the folder of a run nor a prepared graph; name one of them"
        ) from None
