"""The map and the tree of the package, as the README and docs/architecture.md show them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .rows import ROOT

PACKAGE = ROOT / "src" / "revgnn"
_ROOMS = {
    "commands/": "one file for each command; parser.py describes the words, cli.py runs the command",
    "experiment.py": "Experiment and run_experiment: data -> model -> training -> report, on one page",
    "predict.py": "writes the predictions of a finished run as a table with the user's ids",
    "graph.py": "one immutable graph: CSR by destination, and by source for the backward",
    "ops/": "message passing and a block's head as pure functions: plain torch, C++, Triton",
    "stack/": "depth: couplings; stored, checkpointed and reversible backpropagation",
    "implicit/": "equilibria: fixed-point solvers and their gradient",
    "nn/": "convolutions, norms, encoders, heads, and the model (ModelConfig, build_model)",
    "data/": "readers, samplers, graphs on disk, and the preparation of tables",
    "train/": "the training loop, losses, metrics, optimizers, checkpoints, several processes",
    "planner/": "predicts peak memory and step time before a run, and suggests what fits",
    "report/": "report.json, the HTML page and the Markdown row of a finished run",
    "interop/": "a drop-in for PyG's GroupAddRev, and checkpoints of the official code",
    "paper/": "the paper's recipes, baselines and printed figures, and the recorded runs",
    "demo/": "what depth brings and costs, in minutes, on a generated field of Minesweeper",
}
"""Every folder of the package, and the modules to know first -> what is in it, in few words."""


_COLUMNS = 100


def _map() -> str:
    """One short line for each room of the package."""
    for name in _ROOMS:
        if not (PACKAGE / name).exists():
            raise ValueError(f"src/revgnn/{name} does not exist; change _ROOMS")
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    if missing := sorted(folders - _ROOMS.keys()):
        raise ValueError(f"_ROOMS lacks {', '.join(missing)}; add a short line for each")
    text = _fenced(list(_ROOMS.items()))
    if long := [line for line in text.splitlines() if len(line) > _COLUMNS]:
        raise ValueError(f"a line of the map has more than {_COLUMNS} columns; shorten {long[0]!r}")
    return text


def tree() -> str:
    return _fenced(_rows(PACKAGE))


def _rows(folder: Path, *, indent: str = "") -> list[tuple[str, str]]:
    rows = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            rows.append((f"{indent}{path.name}/", _first_sentence(path / "__init__.py")))
            rows += _rows(path, indent=f"{indent}  ")
        elif path.suffix == ".py" and not (indent and path.name == "__init__.py"):
            rows.append((f"{indent}{path.name}", _first_sentence(path)))
    return rows


def _first_sentence(path: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    # A sentence ends in a full stop before a capital, or with the text; "sha256.py" and "e.g. this" do not end one.
    return re.split(r"(?<=[a-z0-9)`])\.(?= [A-Z`]|$)", text, maxsplit=1)[0]


def _fenced(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    lines = (f"{name:<{width}}  {text}" for name, text in rows)
    return "\n".join(["```", "src/revgnn/", *(f"  {line}" for line in lines), "```"])


BLOCKS = {"map": _map, "tree": tree}
