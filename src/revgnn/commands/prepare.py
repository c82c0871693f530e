"""``revgnn prepare``: prepare a graph from tables"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..console import progress_console
from ..data.prepare import DropFaulty, chosen_config, write_first
from ..data.prepare import prepare as prepare_graph
from .output import log_to, print_facts, print_json, print_lines


def run(arguments: Namespace) -> None:
    """Prepare a graph from tables, or write a first graph.yaml for them."""
    if arguments.init:
        path = write_first(arguments.tables, arguments.out or Path("graph.yaml"))
        if arguments.json:
            print_json({"config": str(path)})
        else:
            print_lines([str(path)])
        return
    log_to(progress_console())
    config, base = chosen_config(arguments)
    drop = DropFaulty(
        bad_edges=arguments.drop_bad_edges,
        duplicate_nodes=arguments.drop_duplicate_nodes,
        bad_nodes=arguments.drop_bad_nodes,
    )
    out = arguments.out or Path("graph")
    prepared = prepare_graph(config, base, out, drop=drop, overwrite=arguments.overwrite, ray=arguments.ray)
    if arguments.json:
        print_json(prepared.summary())
        return
    print_facts(prepared.facts())
