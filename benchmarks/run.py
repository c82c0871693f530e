"""Measure cases and keep their results.

    python -m benchmarks.run                                     everything, on every graph that it is declared for
    python -m benchmarks.run --case revgcn --graph arxiv8        one case
    python -m benchmarks.run --threads 1 --clock cpu             on a machine that others use too
    python -m benchmarks.run --device cuda --memory-gb 70        on a GPU: the paper's depths and widths too

Runs the numerics tests that a case needs and refuses where one fails; then measures in a process of its own, and
appends one line of JSON to the results. `benchmarks.table` shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import gate
from .needs import needs
from .registry import CASES, ENTRANTS, GRAPHS, cases_on

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}
"""glibc, told to keep pages that it has: by default it hands large blocks back, and PyG's steps take 2.5 times as long
faulting them in again. All entrants get it, since it is the best that a user of PyG can have."""


class MeasurementError(Exception):
    """A case could not be measured."""


def measure_apart(name: str, graph: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in a process of its own; a peer that ends it is noted as failed, and the others are measured.

    Args:
        name: of the case.
        graph: a name in `GRAPHS`.
        settings: fields of `benchmarks.trial.Settings`.
    Returns: the result.
    Raises: MeasurementError: if the process ended and no peer was to blame.
    """
    excluded: dict[str, str] = {}
    while True:
        lines, status, errors = _ask({"name": name, "graph": graph, "settings": {**settings, "excluded": excluded}})
        results = [line["result"] for line in lines if "result" in line]
        if status == 0 and results:
            found: dict[str, Any] = results[-1]
            return found
        tried = [line["trying"] for line in lines if "trying" in line]
        reason = _ending(status)
        if not tried or tried[-1] is None or tried[-1] in excluded or tried[-1].partition(" ")[0] in _OURS:
            raise MeasurementError(f"{name} on {graph}: the process {reason}\n{errors[-2000:]}")
        excluded[tried[-1]] = f"the process {reason}"


_OURS = [name for name, entrant in ENTRANTS.items() if not entrant.peer]


def _ask(request: dict[str, Any]) -> tuple[list[dict[str, Any]], int, str]:
    threads = str(request["settings"]["threads"])
    # Waiting threads that spin would take time from others, ours or not.
    quiet = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", json.dumps(request)]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **HEAP, **quiet}, capture_output=True, text=True, check=False
    )  # fmt: skip
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return lines, run.returncode, run.stderr


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


_FIGURES = ("over_store", "of_ceiling", "largest", "exponent", "peak_gb", "paper_gb", "gain")


def brief(row: dict[str, Any]) -> str:
    """One line about a result."""
    parts = [f"{name} {ratio:.2f}x" for name, ratio in row.get("ratios", {}).items()]
    parts += [f"{name} {row[name]:.2f}" for name in _FIGURES if name in row]
    for name, run in row.get("runs", {}).items():
        parts += [f"{name} {state}: {run[state]}" for state in ("failed", "skipped") if state in run]
    return f"{row['case']} on {row['graph']} ({row['implementation']}): " + ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 where a case was refused or could not be measured."""
    options = _parser().parse_args(arguments)
    if options.clock == "cpu" and options.threads > 1:
        print("--clock cpu adds up the time of all threads; use it with --threads 1", file=sys.stderr)
        return 2
    settings = {
        name: getattr(options, name)
        for name in ("device", "threads", "repeats", "clock", "budget", "memory_gb", "layers")
    }
    out = options.out or RESULTS / f"{options.device}.jsonl"
    failures = 0
    for name in options.case or cases_on(options.device):
        for graph in [options.graph] if options.graph else CASES[name].graphs:
            try:
                passed = gate.check(needs(name, options.device))
                row = {**measure_apart(name, graph, settings), "numerics": passed}
            except (gate.RedGateError, MeasurementError) as error:
                print(f"{name} on {graph} refused: {error}", file=sys.stderr, flush=True)
                failures += 1
                continue
            append(out, row)
            print(json.dumps(row) if options.json else brief(row), flush=True)
    return int(failures > 0)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one result to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="NAME", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--graph", choices=GRAPHS, help="instead of those that a case is declared for")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every entrant")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which every entrant runs once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for machines that others use too"
    )
    parser.add_argument("--budget", type=float, default=0.0, metavar="SECONDS", help="per case; 0: none")
    parser.add_argument("--memory-gb", type=float, default=10.0, help="peers that need more are left out")
    parser.add_argument("--layers", type=int, help="depth of the networks, instead of the graph's own")
    parser.add_argument("--json", action="store_true", help="print results as JSON lines")
    parser.add_argument("--out", type=Path, help="where results are appended (benchmarks/results/DEVICE.jsonl)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
