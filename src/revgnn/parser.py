"""The parser of the command line: every command with its arguments and an example"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Parser, add_assignments, add_common, add_data_root, add_device, number, whole

if TYPE_CHECKING:
    from .arguments import Commands

_MODEL = "for a folder: revsage (default), revgcn, revgen or revgat; or package.module:Name, a class with build(info)"
_DEFAULTS = (
    "On a folder the default is RevSAGE: 4 layers, 64 channels, LayerNorm, dropout 0.2, up to 200 epochs at a rate "
    "of 0.01, fewer if 30 give no better valid score; docs/defaults.md compares it with others, --set changes it."
)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = Parser(
        prog="revgnn",
        description="Train graph neural networks of any depth in the memory of one layer.",
        example="  revgnn demo\n  revgnn recipes\n  revgnn train digits/revgnn",
    )
    parser.add_argument("--version", action="store_true", help="show versions, kernels and instruction set")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=["bash", "zsh", "tcsh"],
        help="print a script that completes commands for bash, zsh or tcsh",
    )
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for add in (
        _add_prepare, _add_train, _add_predict, _add_diagnose, _add_plan, _add_recipes, _add_demo, _add_report,
        _add_paper, _add_convert, _add_doctor,
    ):  # fmt: skip
        add(commands)
    return parser


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what works on this machine, and how to get the rest",
        description="Say what works on this machine (compiled kernels, threads, CUDA, a training step, optional "
        "packages), and how to get the rest.",
        example="  revgnn doctor\n  revgnn doctor --json",
    )
    add_common(parser)


def _add_prepare(commands: Commands) -> None:
    parser = commands.add_parser(
        "prepare",
        help="prepare a graph on disk from your own tables, of any size",
        description="Prepare a graph from tables (Parquet, CSV, Arrow), described by graph.yaml, or by flags for two "
        "files. One report lists all faults of the tables.",
        example=(
            "  revgnn prepare --init nodes.parquet edges.parquet\n"
            "  revgnn prepare graph.yaml --out graph/\n"
            "  revgnn prepare nodes.parquet edges.parquet --out graph/ \\\n"
            "    --label topic --parts 32"
        ),
    )
    parser.add_argument(
        "tables", metavar="FILE", nargs="+", help="graph.yaml; the nodes and the edges; or a folder of these"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="the folder to write (default: graph); of --init the file (graph.yaml)"
    )
    parser.add_argument("--init", action="store_true", help="write a first graph.yaml for two files, and stop")
    parser.add_argument("--like", metavar="FOLDER", type=Path, help="encode columns as this run or prepared graph does")
    for flag, text in (
        ("--id", "the column of node ids (default: id)"),
        ("--split", "the column with train, valid or test (default: split, masks, or fractions)"),
        ("--src", "the column of the edges' sources (default: src)"),
        ("--dst", "the column of their destinations (default: dst)"),
        ("--weight", "the column of the edges' weights (default: weight)"),
    ):
        parser.add_argument(flag, metavar="COLUMN", help=f"for two files: {text}")
    for flag, text in (
        ("--label", "columns of labels (default: label)"),
        ("--features", "columns of features (default: x, or all that can be)"),
        ("--edge-features", "columns of edge features (default: edge_attr)"),
    ):
        parser.add_argument(flag, metavar="COLUMN", nargs="+", help=f"for two files: {text}")
    for name, choices, text in (
        ("task", ("multiclass", "binary", "multilabel", "regression"), "the task (default: by the label)"),
        ("scale", ("none", "standard", "robust", "quantile"), "scale of numbers (default: standard)"),
        ("fill", ("mean", "median", "zero", "category"), "in place of missing values (default: a fault)"),
        ("statistics", ("train", "all"), "nodes from which scales, fills and categories are taken (default: train)"),
    ):
        parser.add_argument(f"--{name}", choices=choices, help=f"for two files: {text}")
    parser.add_argument("--unlabelled", metavar="VALUE", nargs="+", help="for two files: labels that mean unknown")
    parser.add_argument(
        "--csv",
        metavar="FIELD=VALUE",
        action="append",
        help="for two files: how CSV is written, such as delimiter=tab; a field is delimiter, decimal, thousands, "
        "units, encoding, spaces or null_words; repeatable (default: sniffed)",
    )
    parser.add_argument("--undirected", action="store_true", help="for two files: add reverse edges and drop repeats")
    parser.add_argument("--parts", metavar="P", type=whole(1), help="number of parts, overriding graph.yaml")
    parser.add_argument("--ray", metavar="ADDRESS", help="compute on this Ray cluster; local starts one")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing prepared graph")
    parser.add_argument("--drop-bad-edges", action="store_true", help="drop and count faulty edges")
    parser.add_argument("--drop-duplicate-nodes", action="store_true", help="keep the first row of an id")
    parser.add_argument("--drop-bad-nodes", action="store_true", help="drop and count faulty nodes")
    add_common(parser)


def _add_train(commands: Commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train a recipe, or on a graph of your own",
        description="Train a recipe, or a model on a folder with tables of nodes and edges, or on one that revgnn "
        "prepare wrote. " + _DEFAULTS,
        example=(
            "  revgnn train ogbn-arxiv/revgcn_deep --data-root data\n"
            "  revgnn train my_graph/ --model revsage \\\n"
            "    --set model.num_layers=112 --set train.epochs=50\n"
            "  revgnn train my_graph/ --time 10m --memory 2GB"
        ),
    )
    parser.add_argument("what", metavar="RECIPE|FOLDER", help="a name from `revgnn recipes`, or a folder")
    parser.add_argument("--model", metavar="NAME", help=_MODEL)
    add_assignments(parser)
    add_data_root(parser)
    parser.add_argument("--download", action="store_true", help="download missing data, if its source allows it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run folder (default: runs/NAME)")
    parser.add_argument(
        "--runs",
        metavar="R",
        type=whole(1),
        help="run R seeds, a folder each, and give their mean and standard deviation; where a data set has numbered "
        "splits, each seed takes the split of its number",
    )
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in the run folder")
    parser.add_argument(
        "--track",
        metavar="NAME",
        action="append",
        default=[],
        help="log to an experiment tracker too: tensorboard, wandb, mlflow or another of Accelerate's; repeatable",
    )
    parser.add_argument(
        "--time", metavar="TIME", help="for a folder: choose network and epochs to end within it, such as 10m or 2h"
    )
    parser.add_argument(
        "--memory", metavar="SIZE", help="for a folder: choose network, loader and budget to fit into it, such as 2GB"
    )
    parser.add_argument(
        "--plan", action="store_true", help="predict the memory, too, and print it beside the measured one"
    )
    on_ray = parser.add_argument_group("on a Ray cluster, whose machines share the folders under the same paths")
    on_ray.add_argument("--ray", metavar="ADDRESS", help="train on the workers of this cluster; local starts one")
    for flag, least, text in (
        ("--ray-workers", 1, "number of workers, one rank and one GPU (if any) each (default: 2)"),
        ("--ray-cpus", 1, "cores of a worker (default: 1)"),
        ("--ray-restarts", 0, "number of restarts from a checkpoint after a worker failed (default: 3)"),
    ):
        on_ray.add_argument(flag, metavar="N", type=whole(least), help=text)
    add_device(parser)
    add_common(parser)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="write the predictions of a finished run, with your own ids",
        description="Write the predictions of a finished run as one file: id, split, prediction and the probability of "
        "each class, for every node; numbers in the unit of the training labels.",
        example=(
            "  revgnn predict runs/first --out predictions.csv\n"
            "  revgnn predict runs/first --data other_graph/ --embeddings --out other.parquet"
        ),
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="file.parquet, .csv, .arrow or .feather"
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="another graph with the same features")
    parser.add_argument(
        "--split", choices=["all", "train", "valid", "test"], default="all", help="only rows of this one (default: all)"
    )
    parser.add_argument("--embeddings", action="store_true", help="add the last hidden state of every row")
    parser.add_argument(
        "--columns", action="store_true", help="a column for each probability, such as probability_red; always in CSV"
    )
    parser.add_argument("--parts", metavar="P", type=whole(1), help="number of parts, one in memory at a time")
    parser.add_argument("--views", metavar="V", type=whole(1), help="average over V random partitions; needs --parts")
    add_data_root(parser)
    add_device(parser)
    add_common(parser)


def _add_diagnose(commands: Commands) -> None:
    parser = commands.add_parser(
        "diagnose",
        help="look into the layers of a finished run: over-smoothing, gradients, reach",
        description="Show, layer by layer, how much neighbours still differ (Dirichlet energy) and how large gradients "
        "are, and from how many hops away features have a say; draw it as diagnosis.svg in the run folder.",
        example="  revgnn diagnose runs/minesweeper/revsage --data-root data",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=whole(0),
        default=8,
        help="number of nodes over which the reach is averaged; 0: no reach (default: 8)",
    )
    parser.add_argument("--hops", metavar="K", type=whole(1), help="farthest hop of the reach (default: 24)")
    add_data_root(parser)
    add_common(parser)


def _add_plan(commands: Commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="predict a run's memory and time without its data, and suggest settings that fit",
        description="Predict the peak memory of training and the time of a step from the sizes of the data, and "
        "search for settings that fit into a given memory. Only small trials are allocated.",
        example=(
            "  revgnn plan ogbn-proteins/revgnn_deep --memory 8GB\n"
            "  revgnn plan my_graph/ --model revgen --memory 16GB --set model.num_layers=56"
        ),
    )
    parser.add_argument("what", metavar="RECIPE|FOLDER", help="as in `revgnn train`; of a folder only sizes are read")
    parser.add_argument(
        "--memory", metavar="SIZE", help="memory limit of a step, such as 8GB (default: none, no search)"
    )
    parser.add_argument("--model", metavar="NAME", help=_MODEL)
    add_assignments(parser)
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where it trains; times of cuda are estimates (default: cpu)",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="with --device cuda: the GPU whose data sheet gives the times (default: h100)"
    )
    add_data_root(parser)
    add_common(parser)


def _add_recipes(commands: Commands) -> None:
    parser = commands.add_parser(
        "recipes",
        help="list the recipes, or show one",
        description="List the recipes, or show every field of one.",
        example="  revgnn recipes\n  revgnn recipes ogbn-arxiv/revgcn_deep",
    )
    parser.add_argument("name", metavar="RECIPE", nargs="?", help="show this one")
    add_common(parser)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="show in minutes what depth brings and what it takes",
        description="Train a network at 2, 8 and 32 layers, stored (ResGNN) and reversible (RevGNN), on a generated "
        "field of Minesweeper, and draw accuracy and memory over depth. Nothing is downloaded.",
        example="  revgnn demo --out runs/demo",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/demo"), help="the folder to write (default: runs/demo)"
    )
    add_common(parser)


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="write the report of a finished run again, and print its row",
        description="Write report.json and report.html of a finished run again, and print its row.",
        example="  revgnn report runs/digits/revgnn --markdown",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("--markdown", action="store_true", help="print the row as Markdown")
    add_common(parser)


def _add_paper(commands: Commands) -> None:
    parser = commands.add_parser(
        "paper",
        help="record runs of the paper's rows, measure their memory, show the tables",
        description="The paper's tables: record runs of recipes, measure the memory of rows without their data, and "
        "show the tables with both.",
        example=(
            "  revgnn paper record runs/ogbn-arxiv/revgcn_deep\n  revgnn paper table 3\n  revgnn paper bench --rows 3"
        ),
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    _add_record(actions)
    _add_table(actions)
    _add_bench(actions)


def _add_record(commands: Commands) -> None:
    parser = commands.add_parser(
        "record",
        help="append a finished run of a recipe to the results",
        description="Append a finished run of a recipe, or all seeds of one, to runs.jsonl in the folder of results.",
        example="  revgnn paper record runs/ogbn-arxiv/revgcn_deep",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a folder of --runs")
    _add_results(parser)
    add_common(parser)


def _add_table(commands: Commands) -> None:
    parser = commands.add_parser(
        "table",
        help="show a table of the paper with measured results",
        description="Show a table of the paper with the runs in the folder of results.",
        example="  revgnn paper table 3\n  revgnn paper table 1 --results benchmarks/results --markdown",
    )
    parser.add_argument("number", metavar="1|2|3|6", type=whole(1), choices=[1, 2, 3, 6], help="the table's number")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    _add_results(parser)
    add_common(parser)


def _add_bench(commands: Commands) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the memory of the paper's rows on synthetic graphs of the same size",
        description="Measure the peak memory of a training step of each row on a synthetic graph with the data set's "
        "exact counts. Rows that are too large or too slow for this machine are estimated by the planner and marked.",
        example="  revgnn paper bench --rows 3 --memory 6GB --seconds 120",
    )
    parser.add_argument(
        "--rows", metavar="TABLE", type=whole(1), choices=[1, 2, 3, 6], help="only rows of this table: 1, 2, 3 or 6"
    )
    parser.add_argument("--recipe", metavar="NAME", action="append", help="only this row; repeatable")
    parser.add_argument("--memory", metavar="SIZE", default="6GB", help="memory limit of a row (default: 6GB)")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=number(0, math.inf),
        default=120.0,
        help="time limit of a row's steps (default: 120)",
    )
    parser.add_argument("--max-nodes", metavar="N", type=whole(1), help="estimate rows whose step has more nodes")
    _add_results(parser)
    add_common(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        help="the folder of results (default: benchmarks/results in the current folder, if it exists)",
    )


def _add_convert(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint of the official code to a model of this package",
        description="Convert a checkpoint of the official ogbn-proteins RevGNN to model.safetensors and model.json, "
        "for revgnn.interop.load_converted. Only tensors are loaded from it, no code runs.",
        example="  revgnn convert RevGNN-Deep.pth --out revgnn-deep --dropout 0.1",
    )
    parser.add_argument("checkpoint", metavar="FILE", type=Path, help="a checkpoint of the official code")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to write (default: FILE without suffix)")
    parser.add_argument(
        "--aggr",
        choices=["max", "mean", "sum", "softmax", "softmax_sg", "power"],
        default="max",
        help="aggregation of messages, which no checkpoint contains (default: max, as published)",
    )
    parser.add_argument(
        "--dropout",
        metavar="P",
        type=number(0, 1),
        default=0.1,
        help="for further training (default: 0.1, as in RevGNN-Deep)",
    )
    add_common(parser)
