"""``revgnn convert``: convert a checkpoint of the official code to a model of this package"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from ..interop import convert as convert_official
from .output import print_facts, print_json


def run(arguments: Namespace) -> None:
    """Convert one checkpoint."""
    source: Path = arguments.checkpoint
    if arguments.out is None and not source.suffix:
        raise ValueError(f"{source} has no suffix to remove; name the folder to write with --out")
    out = arguments.out or source.with_suffix("")
    model = convert_official(source, out, aggr=arguments.aggr, dropout=arguments.dropout)
    if arguments.json:
        print_json({"out": str(out), **asdict(model)})
        return
    print_facts([*asdict(model).items(), ("model", out)])
