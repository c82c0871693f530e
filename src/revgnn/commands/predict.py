"""``revgnn predict``: write the predictions of a finished run"""

from __future__ import annotations

from argparse import Namespace

from ..console import counted, progress_console
from ..predict import Predicting, predict_run
from .output import log_to, print_facts, print_json


def run(arguments: Namespace) -> None:
    """Write the predictions of a finished run."""
    console = progress_console()
    log_to(console)
    with counted(f"predict {arguments.run.name}", console) as progress:
        facts = predict_run(
            arguments.run,
            arguments.out,
            Predicting(
                split=arguments.split,
                embeddings=arguments.embeddings,
                columns=arguments.columns,
                parts=arguments.parts,
                views=arguments.views,
            ),
            data_root=arguments.data_root,
            data=arguments.data,
            device=arguments.device,
            progress=progress,
        )
    if arguments.json:
        print_json(facts)
        return
    print_facts(facts.items())
