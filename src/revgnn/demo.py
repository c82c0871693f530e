"""The demo: train ResGNN and RevGNN of equal depth on the embedded digits graph, and measure memory over depth.

All figures are measured while it runs. It compares the cost of depth; the digits are too easy to show its benefit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from .console import print_table
from .data import load_dataset
from .experiment import Experiment, run_experiment, training_memory
from .paper.recipes import digits
from .planner.isolated import resident_in_isolation
from .report.row import duration, integer, memory, score
from .report.row import resident as resident_of
from .train import ProgressBar

MODELS = {"ResGNN": digits.resgnn, "RevGNN": digits.revgnn}
DEPTHS = (4, 8, 16, 28, 56, 112)
HEAD = (
    "model",
    "depth",
    "parameters",
    "valid [%]",
    "test [%]",
    "peak training memory",
    "growth of the process",
    "time per step",
)
NOTE = (
    "Equal depth and width: ResGNN stores every layer's activations; RevGNN keeps only the last layer's and recomputes "
    "the others from them. This compares memory; digits are easy at any depth, and the accuracies say nothing about "
    "depth."
)
MEANING = (
    "Memory is the peak of tensors during a training step. The process is the growth of its resident size, which "
    "includes memory that the allocator keeps and Python's own objects."
)
_RESULT = "demo.json"

PROCESSES = 3
"""Number of depths at which steps also run in a process of their own, which is slow to start."""

Curve = Mapping[str, Mapping[int, int]]
"""Model -> depth -> peak bytes."""


def run_demo(out: Path, *, results: Console | None, progress: Console) -> dict[str, Any]:
    """Train both networks, measure memory over depth, and write the results.

    Args:
        out: the folder for demo.json, index.html, pictures and one run folder per model; replaces an earlier demo.
        results: console for the tables; ``None``: print none.
        progress: console for progress.
    Returns: rows of the table, memory over depth, and the written files.
    Raises: FileExistsError: ``out`` contains something else than a demo.
    """
    _make_room(out)
    reports = {}
    with _one_thread():
        for name, recipe in MODELS.items():
            reports[name] = run_experiment(
                recipe(),
                out / name.lower(),
                name=f"{name} on digits",
                data_root=out,
                device="cpu",
                progress=ProgressBar(label=name, console=progress),
            )
        runs = {name: recipe() for name, recipe in MODELS.items()}
        curve = memory_over_depth(runs, DEPTHS, progress)
        resident = resident_over_depth(runs, _some(DEPTHS), progress)
    rows = [_row(name, report) for name, report in reports.items()]
    result: dict[str, Any] = {
        "rows": [dict(zip(HEAD, row, strict=True)) for row in rows],
        "memory_over_depth": {name: dict(points) for name, points in curve.items()},
        "resident_over_depth": {name: dict(points) for name, points in resident.items()},
        "files": [str(path) for path in _write(out, rows, curve, resident)],
        "note": NOTE,
    }
    (out / _RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if results is not None:
        _print(results, rows, curve, resident, result["files"])
    return result


def memory_over_depth(runs: Mapping[str, Experiment], depths: Sequence[int], progress: Console) -> Curve:
    """Measure the peak tensor memory of training steps of each run at each depth.

    Args:
        runs: name -> run, all on one embedded data set; their own depth is replaced.
        depths: numbers of layers.
        progress: console for a progress bar.
    Returns: name -> depth -> peak bytes.
    """
    dataset = load_dataset(next(iter(runs.values())).dataset, Path())
    curve: dict[str, dict[int, int]] = {name: {} for name in runs}
    for name, depth in _tracked(runs, depths, progress, "memory over depth"):
        curve[name][depth] = training_memory(_with_depth(runs[name], depth), dataset)
    return curve


def resident_over_depth(runs: Mapping[str, Experiment], depths: Sequence[int], progress: Console) -> Curve:
    """Measure the growth of a separate process in training steps of each run at each depth.

    Args: as `memory_over_depth`.
    Returns: name -> depth -> bytes; no points if the system does not report resident memory.
    """
    curve: dict[str, dict[int, int]] = {name: {} for name in runs}
    for name, depth in _tracked(runs, depths, progress, "growth of the process over depth"):
        found = resident_in_isolation(_with_depth(runs[name], depth), Path())
        if found is not None:
            curve[name][depth] = found.growth
    return curve


def draw(curve: Curve, path: Path, resident: Curve | None = None) -> None:
    """Plot memory over depth to an SVG or PNG file, by its suffix.

    Args:
        curve: bytes of tensors; dashed if ``resident`` has the model too.
        path: the file.
        resident: bytes of growth of the process; solid.
    Raises: ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Colours for colour-blind readers, and a fixed salt, so that the same figures give the same file.
    colours = ("#d55e00", "#0072b2", "#009e73")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "memory", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (name, points), colour in zip(curve.items(), colours, strict=False):
            process = (resident or {}).get(name)
            depths, peaks = list(points), [count / 2**20 for count in points.values()]
            style = "--" if process else "-"
            axes.plot(depths, peaks, style, color=colour, marker="o", markersize=4, linewidth=1.8, label="tensors")
            if process:
                grown = [count / 2**20 for count in process.values()]
                axes.plot(list(process), grown, color=colour, marker="o", markersize=4, linewidth=1.8, label="process")
                depths, peaks = list(process), grown
            axes.annotate(
                name,
                (depths[-1], peaks[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                fontweight="bold",
            )
        axes.set_xlabel("layers")
        axes.set_ylabel("peak training memory [MiB]")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.margins(x=0.15)
        if resident:
            # Only the first model's entries: the styles are the same for all models.
            axes.legend(*(one[:2] for one in axes.get_legend_handles_labels()), frameon=False)
        axes.grid(color="#dde3ea", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: a second one saves nothing at this size, and waits long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_room(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / _RESULT).exists():
        raise FileExistsError(f"{out} is not empty and has no earlier demo; name another folder with --out")
    for name in MODELS:
        shutil.rmtree(out / name.lower(), ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    # Written before the work begins, so that the next demo can replace an interrupted one.
    (out / _RESULT).write_text("{}\n", encoding="utf-8")


def _with_depth(run: Experiment, depth: int) -> Experiment:
    return replace(run, model=replace(run.model, num_layers=depth))


def _some(depths: Sequence[int]) -> Sequence[int]:
    """Return the first, the middle and the last depth."""
    return depths if len(depths) <= PROCESSES else (depths[0], depths[len(depths) // 2], depths[-1])


def _tracked(names: Iterable[str], depths: Sequence[int], progress: Console, what: str) -> Iterator[tuple[str, int]]:
    points = [(name, depth) for depth in depths for name in names]
    if progress.is_terminal:
        yield from track(points, description=what, console=progress)
        return
    progress.print(f"{what}: {len(points)} measurements", highlight=False)
    yield from points


def _row(name: str, report: Mapping[str, Any]) -> list[str]:
    return [
        name,
        str(report["config"]["model"]["num_layers"]),
        integer(report["parameters"]),
        score(report, "valid"),
        score(report, "test"),
        memory(report["memory"]["peak_bytes"]),
        memory(resident_of(report)),
        duration(report["time"]["seconds_per_step_median"]),
    ]


def _print(console: Console, rows: list[list[str]], curve: Curve, resident: Curve, files: list[str]) -> None:
    console.print()
    print_table(console, HEAD, rows, title="Equal depth on the digits graph")
    print_table(console, _depth_head(curve), _depth_rows(curve, resident), title=_OVER_DEPTH, text=0)
    console.print(NOTE, markup=False)
    for path in files:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    if len(files) == 1:
        console.print("no picture: matplotlib is not installed (pip install 'revgnn[plot]')", markup=False)


_OVER_DEPTH = "Peak training memory over depth"


def _depth_head(curve: Curve) -> list[str]:
    return ["layers", *curve, *(f"process, {name}" for name in curve)]


def _depth_rows(curve: Curve, resident: Curve) -> list[list[str]]:
    """Return a row per depth: tensor memory of each model, then growth of the process; a dash if not measured."""
    depths = next(iter(curve.values()))
    return [
        [
            str(depth),
            *(memory(points[depth]) for points in curve.values()),
            *(memory(resident.get(name, {}).get(depth)) for name in curve),
        ]
        for depth in depths
    ]


def _write(out: Path, rows: list[list[str]], curve: Curve, resident: Curve) -> list[Path]:
    """Write the page, and the pictures if matplotlib is installed; return the paths, the page first."""
    pictures = [out / "memory_over_depth.svg", out / "memory_over_depth.png"]
    try:
        for path in pictures:
            draw(curve, path, resident)
    except ModuleNotFoundError:
        pictures = []
    page = out / "index.html"
    page.write_text(_page(rows, curve, resident, has_picture=bool(pictures)), encoding="utf-8")
    return [page, *pictures]


def _page(rows: list[list[str]], curve: Curve, resident: Curve | None = None, *, has_picture: bool) -> str:
    picture = '<img src="memory_over_depth.svg" alt="Peak training memory over depth">' if has_picture else ""
    links = ", ".join(f'<a href="{name.lower()}/report.html">{escape(name)}</a>' for name in MODELS)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>revgnn demo</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; }}
h1 {{ font-size: 1.4rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #dde3ea; padding: .35rem .6rem; text-align: right; }}
th {{ vertical-align: bottom; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>ResGNN and RevGNN at equal depth on the digits graph</h1>
<p>{escape(NOTE)}</p>
{_html_table(HEAD, rows)}
<h1>{_OVER_DEPTH}</h1>
<p>{escape(MEANING)}</p>
{picture}
{_html_table(_depth_head(curve), _depth_rows(curve, resident or {}))}
<p>The two runs: {links}.</p>
</body>
</html>
"""


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
