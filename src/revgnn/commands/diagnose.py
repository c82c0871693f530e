"""Show what happens inside a trained network, layer by layer."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from ..console import print_table, results_console
from ..diagnose import diagnose_run, draw
from .output import print_json

PICTURE = "diagnosis.svg"


def run(arguments: Namespace) -> None:
    """Show what happens inside a trained network, layer by layer."""
    found = diagnose_run(arguments.run, data_root=arguments.data_root, hops=arguments.hops, nodes=arguments.nodes)
    picture = arguments.run / PICTURE
    try:
        draw(found, picture)
        where = f"written: {picture}"
    except ModuleNotFoundError:
        where = "no picture: matplotlib is not installed (pip install 'revgnn[plot]')"
    if arguments.json:
        print_json(asdict(found))
        return
    console = results_console()
    rows = [
        [
            str(facts.layer),
            f"{facts.energy:.3f}",
            f"{facts.stream_gradient:.3g}",
            "–" if facts.weight_gradient is None else f"{facts.weight_gradient:.3g}",
        ]
        for facts in found.layers
    ]
    head = ("layer", "Dirichlet energy", "gradient of the stream", "gradient of the weights")
    if rows:
        print_table(console, head, rows, title="Without dropout, of the training loss", text=0)
    else:
        console.print("The network has no stack of layers: only its reach is measured.", soft_wrap=True)
    if found.reach is not None:
        hops = [[str(hop), f"{share:.3g}"] for hop, share in enumerate(found.influence)]
        print_table(console, ("hops", "influence"), hops, title=f"Mean reach: {found.reach:.2f} hops", text=0)
    console.print(where, markup=False, soft_wrap=True)
