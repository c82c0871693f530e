"""What the command line does: one function per command, of the words that `cli` has understood."""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from .console import counted, print_table, progress_console, results_console, stages
from .data.prepare import DropFaulty, chosen_config, write_first
from .data.prepare import prepare as prepare_graph
from .demo import run_demo
from .experiment import Device, Experiment, report_on, run_experiment
from .files import read_object
from .interop import convert as convert_official
from .on_ray import Workers, on_ray
from .overrides import flatten, override
from .planner.estimate import predicted
from .planner.out_of_memory import out_of_memory_answered
from .planner.page import make_plan, show_plan
from .predict import Predicting, predict_run
from .recipes import all_recipes, find_recipe, summary
from .recipes.tables import MODELS
from .repeat import RUNS_FILE, run_repeats
from .report import MARKDOWN_HEADER, markdown_row
from .report.row import duration, integer, mean_and_std, memory, metric_title, resident, score, target
from .results import append_rows, build_table, find_results, markdown_table, read_rows, rows_of, table_lines
from .results.memory import append_memory, memory_row, read_memory, rows_of_tables
from .results.rows import MOVES_NOTHING, ROWS_FILE, USUAL
from .results.table import HEAD, notes
from .run_lock import claimed
from .stack.budget import parse_bytes
from .train import ProgressBar
from .train.tracking import Tracking, check_trackers


def prepare(arguments: Namespace) -> None:
    """Make a prepared graph of tables, or write a first graph.yaml for them."""
    if arguments.init:
        path = write_first(arguments.tables, arguments.out or Path("graph.yaml"))
        if arguments.json:
            _print_json({"config": str(path)})
        else:
            results_console().print(str(path), markup=False)
        return
    _log_to(progress_console())
    config, base = chosen_config(arguments)
    drop = DropFaulty(
        bad_edges=arguments.drop_bad_edges,
        duplicate_nodes=arguments.drop_duplicate_nodes,
        bad_nodes=arguments.drop_bad_nodes,
    )
    out = arguments.out or Path("graph")
    prepared = prepare_graph(config, base, out, drop=drop, overwrite=arguments.overwrite, ray=arguments.ray)
    if arguments.json:
        _print_json(prepared.summary())
        return
    for fact, value in prepared.facts():
        results_console().print(f"{fact:<22}{value}", markup=False, soft_wrap=True)


def train(arguments: Namespace) -> None:
    """Train a recipe, or on a folder of tables; here, or on the workers of a Ray cluster."""
    _, _, out = _asked(arguments)
    check_trackers(arguments.track)
    _log_to(progress_console())
    if arguments.ray is None:
        done = _trained(arguments, arguments.device, False)
    elif arguments.runs is not None:
        raise ValueError("--runs trains its seeds one after another in one process; leave out --runs or --ray")
    else:
        workers = Workers(
            address=arguments.ray,
            count=arguments.ray_workers,
            cpus=arguments.ray_cpus,
            restarts=arguments.ray_restarts,
        )
        done = on_ray(partial(_trained, arguments), workers, out, cpu=arguments.device == "cpu")
    if arguments.runs is not None:
        _show_runs(done, out, as_json=arguments.json)
    elif done:
        _show(done, out, as_json=arguments.json)


def _asked(arguments: Namespace) -> tuple[str, Experiment, Path]:
    """Which run is meant by the words of `train`: its name, itself, its folder."""
    name, run = _chosen(arguments.what, arguments.model)
    out = arguments.out or Path("runs", *Path(name).parts)
    run = override(run, arguments.assignments, fixed=frozenset({"paper"}))
    changes = [text for text in arguments.assignments if text.partition("=")[0].strip() not in MOVES_NOTHING]
    if changes:
        name, run = f"{name} with {', '.join(changes)}", replace(run, paper=None)
    return name, run, out


def _trained(arguments: Namespace, device: Device, again: bool) -> dict[str, Any]:
    """Train what `train` asks for, as one of its ranks; give the report, or the summary of several seeds.

    Args:
        arguments: the words.
        device: overrules theirs.
        again: go on from a checkpoint that an attempt before this one left.
    """
    name, run, out = _asked(arguments)
    console = progress_console()
    _log_to(console)
    said = {
        "name": name,
        "data_root": arguments.data_root,
        "device": device,
        "resume": arguments.resume or again,
        "download": arguments.download,
    }

    def shown(label: str, folder: Path, seed: int) -> Tracking:
        bar = ProgressBar(label=label, console=console)
        settings = {**flatten(replace(run, paper=None)), "train.seed": seed}
        return Tracking(bar, arguments.track, run=name, out=folder, settings=settings)

    with out_of_memory_answered(run, arguments.data_root, device=device):
        if arguments.runs is not None:
            return run_repeats(
                run,
                out,
                runs=arguments.runs,
                progress=lambda seed: shown(f"{out.name} seed {seed}", out / f"seed-{seed}", seed),
                **said,
            )
        return run_experiment(run, out, progress=shown(out.name, out, run.train.seed), predicted=predicted, **said)


def predict(arguments: Namespace) -> None:
    """Write the predictions of a finished run."""
    console = progress_console()
    _log_to(console)
    with counted(f"predict {arguments.run.name}", console) as progress:
        facts = predict_run(
            arguments.run,
            arguments.out,
            Predicting(
                split=arguments.split,
                embeddings=arguments.embeddings,
                parts=arguments.parts,
                views=arguments.views,
            ),
            data_root=arguments.data_root,
            data=arguments.data,
            device=arguments.device,
            progress=progress,
        )
    if arguments.json:
        _print_json(facts)
        return
    console = results_console()
    for fact, value in facts.items():
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)


def plan(arguments: Namespace) -> None:
    """Say what a run will take and what fits, before it runs."""
    name, run = _chosen(arguments.what, arguments.model)
    run = override(run, arguments.assignments, fixed=frozenset({"paper"}))
    console = progress_console()
    _log_to(console)
    memory_limit = None if arguments.memory is None else parse_bytes(arguments.memory)
    if arguments.json:
        _print_json(make_plan(name, run, memory_limit, device=arguments.device, gpu=arguments.gpu))
        return
    with stages("plan", console) as progress:
        made = make_plan(name, run, memory_limit, device=arguments.device, gpu=arguments.gpu, progress=progress)
    show_plan(made, results_console())


def bench(arguments: Namespace) -> None:
    """Measure, or estimate, the memory of the rows of the paper's tables on made-up data of their sizes."""
    names = rows_of_tables(arguments.rows, arguments.recipe)
    limit = parse_bytes(arguments.memory)
    console = progress_console()
    _log_to(console)
    results = arguments.results or find_results(None)
    found = []
    for name in names:
        row = memory_row(name, limit=limit, seconds=arguments.seconds, max_nodes=arguments.max_nodes)
        found.append(row)
        if results is not None:
            append_memory(row, results)
        console.print(f"{name}: {memory(row['peak_bytes'])}, {row['how']}", markup=False, soft_wrap=True)
    if arguments.json:
        _print_json(found)


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
    # Beside it, for an earlier demo is removed.
    with claimed(arguments.out, beside=True):
        result = run_demo(arguments.out, results=console, progress=errors)
    if arguments.json:
        _print_json(result)


def report(arguments: Namespace) -> None:
    """Write the report of a finished run again, or show the summary of several."""
    if (arguments.run / RUNS_FILE).is_file() and not arguments.markdown:
        summary = read_object(arguments.run / RUNS_FILE)
        _show_runs(summary, arguments.run, as_json=arguments.json)
        return
    facts = report_on(arguments.run)
    if arguments.markdown:
        sys.stdout.write(f"{MARKDOWN_HEADER}\n{markdown_row(facts)}\n")
        return
    _show(facts, arguments.run, as_json=arguments.json)


def record(arguments: Namespace) -> None:
    """Append a finished run to the results."""
    # A folder that is named is made where it is missing; the usual one is not, for it would be anywhere.
    results = arguments.results or find_results(None)
    if results is None:
        raise FileNotFoundError(f"there is no {USUAL} in the current folder; name a folder of results with --results")
    rows = rows_of(arguments.run)
    appended = append_rows(rows, results)
    if arguments.json:
        _print_json({"file": str(results / ROWS_FILE), "appended": appended, "rows": rows})
        return
    console = results_console()
    for row in rows:
        changed = "".join(f"; {name}={got} instead of {wanted}" for name, (wanted, got) in row["changed"].items())
        console.print(f"{row['recipe']}, seed {row['seed']}{changed}", markup=False, soft_wrap=True)
    there = "" if appended == len(rows) else f", {len(rows) - appended} stood there already"
    console.print(f"{appended} appended to {results / ROWS_FILE}{there}", markup=False, soft_wrap=True)


def table(arguments: Namespace) -> None:
    """Show a table of the paper beside what was measured."""
    results = find_results(arguments.results)
    built = build_table(
        arguments.number,
        [] if results is None else read_rows(results),
        [] if results is None else read_memory(results),
    )
    where = (
        f"results: none; there is no {USUAL} in the current folder, name a folder with --results"
        if results is None
        else f"results: {results}"
    )
    if arguments.json:
        _print_json({**built, "results": None if results is None else str(results)})
        return
    if arguments.markdown:
        sys.stdout.write(f"{markdown_table(built)}\n")
        return
    console = results_console()
    print_table(console, HEAD, table_lines(built), title=f"Table {built['table']}: {built['title']}")
    for line in (built["summary"], where, *(f"* {note}" for note in notes(built))):
        console.print(line, markup=False, soft_wrap=True)


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


def _chosen(what: str, model: str | None) -> tuple[str, Experiment]:
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
        *([["  predicted", memory(guess["peak_bytes"])]] if (guess := report["memory"].get("predicted")) else []),
        ["  growth of process", memory(resident(report))],
        ["time per step", duration(report["time"]["seconds_per_step_median"])],
        ["report", str(out / "report.html")],
    ]
    for fact, value in facts:
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"note: {warning}", markup=False, soft_wrap=True)


def _show_runs(summary: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        _print_json(summary)
        return
    console = results_console()
    selected = f"{len(summary['runs'])}, each with its best valid {summary['selected_by']}"
    facts = [["run", str(summary["name"])], ["runs", selected]]
    facts += [
        [f"{split} {metric_title({'result': summary})}", mean_and_std({"result": summary}, summary["scores"][split])]
        for split in ("valid", "test")
        if split in summary["scores"]
    ]
    facts += [
        ["paper", target(summary)],
        ["parameters", integer(summary["parameters"])],
        ["peak training memory", memory(summary["memory"]["peak_bytes"])],
        ["  growth of process", memory(resident(summary))],
        ["summary", str(out / RUNS_FILE)],
    ]
    for fact, value in facts:
        console.print(f"{fact:<22}{value}", markup=False, soft_wrap=True)
    for warning in summary["warnings"]:
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


def _plain(run: Experiment) -> dict[str, Any]:
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
