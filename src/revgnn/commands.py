"""What the command line does: one function per command, of the words that `cli` has understood."""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from .console import print_table, progress_console, results_console
from .demo import run_demo
from .interop import convert as convert_official
from .overrides import flatten, override
from .recipes import all_recipes, find_recipe, summary
from .recipes.tables import MODELS
from .report import MARKDOWN_HEADER, markdown_row
from .report.row import duration, integer, memory, metric_title, score, target
from .run import Run, execute, report_on
from .train import ProgressBar

_MOVES_NOTHING = {"train.seed", "train.checkpoint_every", "train.keep_checkpoints"}
"""Fields that leave a recipe the row of the paper that it is."""


def train(arguments: Namespace) -> None:
    """Train a recipe, or on a folder of tables."""
    name, run = _chosen(arguments.what, arguments.model)
    out = arguments.out or Path("runs", *Path(name).parts)
    run = override(run, arguments.assignments, fixed=frozenset({"paper"}))
    changes = [text for text in arguments.assignments if text.partition("=")[0].strip() not in _MOVES_NOTHING]
    if changes:
        name, run = f"{name} with {', '.join(changes)}", replace(run, paper=None)
    console = progress_console()
    _log_to(console)
    report = execute(
        run,
        out,
        name=name,
        data_root=arguments.data_root,
        device=arguments.device,
        resume=arguments.resume,
        download=arguments.download,
        progress=ProgressBar(label=out.name, console=console),
    )
    _show(report, out, as_json=arguments.json)


def recipes(arguments: Namespace) -> None:
    """List the recipes, or show one."""
    if arguments.name is not None:
        _show_recipe(arguments.name, as_json=arguments.json)
        return
    runs = {name: (summary(recipe), recipe()) for name, recipe in all_recipes().items()}
    if arguments.json:
        _print_json([{"name": name, "summary": text, **_plain(run)} for name, (text, run) in runs.items()])
        return
    console = results_console()
    rows = [[name, text] for name, (text, _) in runs.items()]
    print_table(console, ["recipe", "what it is"], rows, text=2)
    console.print(f"\nOn a graph of your own: revgnn train FOLDER --model {'|'.join(MODELS)}", markup=False)


def demo(arguments: Namespace) -> None:
    """Compare ResGNN and RevGNN on embedded data."""
    errors = progress_console()
    _log_to(errors)
    console = None if arguments.json else results_console()
    result = run_demo(arguments.out, results=console, progress=errors)
    if arguments.json:
        _print_json(result)


def report(arguments: Namespace) -> None:
    """Write the report of a finished run again."""
    facts = report_on(arguments.run)
    if arguments.markdown:
        sys.stdout.write(f"{MARKDOWN_HEADER}\n{markdown_row(facts)}\n")
        return
    _show(facts, arguments.run, as_json=arguments.json)


def convert(arguments: Namespace) -> None:
    """Turn a checkpoint of the official code into a model of this package."""
    source: Path = arguments.checkpoint
    if arguments.out is None and not source.suffix:
        raise ValueError(f"{source} has no end to leave out; name the folder to write with --out")
    out = arguments.out or source.with_suffix("")
    model = convert_official(source, out, aggr=arguments.aggr, dropout=arguments.dropout)
    if arguments.json:
        _print_json({"out": str(out), **asdict(model)})
        return
    console = results_console()
    for fact, value in asdict(model).items():
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)
    console.print(f"{'model':<22}{out}", markup=False, soft_wrap=True)


def _chosen(what: str, model: str | None) -> tuple[str, Run]:
    """The run that is meant, and its name."""
    folder = Path(what)
    if what in all_recipes():
        if model is not None:
            raise ValueError(f"--model goes with a folder of tables; the recipe {what} has its own: leave it out")
        return what, find_recipe(what)()
    if not folder.is_dir():
        try:
            find_recipe(what)
        except ValueError as unknown:
            raise ValueError(f"{unknown}; nor is there a folder {what}") from None
    kind = model or "revgcn"
    if kind not in MODELS:
        raise ValueError(f"--model {kind} is unknown; choose one of {', '.join(MODELS)}")
    return f"tables/{folder.resolve().name}-{kind}", MODELS[kind](folder)


def _show(report: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    console = results_console()
    facts = [
        ["run", str(report["name"])],
        [f"valid {metric_title(report)}", score(report, "valid")],
        [f"test {metric_title(report)}", score(report, "test")],
        ["paper", target(report)],
        ["best epoch", f"{report['result']['best_epoch']} of {report['result']['epochs']}"],
        ["parameters", integer(report["parameters"])],
        ["peak training memory", memory(report["memory"]["peak_bytes"])],
        ["time per step", duration(report["time"]["seconds_per_step_median"])],
        ["report", str(out / "report.html")],
    ]
    for fact, value in facts:
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"note: {warning}", markup=False, soft_wrap=True)


def _show_recipe(name: str, *, as_json: bool) -> None:
    recipe = find_recipe(name)
    run = recipe()
    if as_json:
        _print_json({"name": name, "summary": summary(recipe), **_plain(run)})
        return
    console = results_console()
    console.print(f"{name}: {summary(recipe)}", markup=False, soft_wrap=True)
    for field, value in flatten(run).items():
        console.print(f"  {field} = {'none' if value is None else value}", markup=False, soft_wrap=True)


def _plain(run: Run) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(run), default=str))
    return plain


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def _log_to(console: Console) -> None:
    """Show the package's own messages where its bars move, so that neither breaks the other; plain lines elsewhere."""
    handler: logging.Handler = logging.StreamHandler(console.file)
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    logger = logging.getLogger("revgnn")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
