"""Show what has been reached beside the marks, from the newest result of every case.

    python -m benchmarks.table            print the table
    python -m benchmarks.table --write    fill the blocks of docs/performance.md and draw its picture too

No figure is written by hand: what has no result is "not measured yet".
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from revgnn.console import print_table, results_console
from revgnn.demo.picture import DARK, LIGHT
from revgnn.report.row import memory

from .marks import CUDA_MARKS, MARKS, Mark
from .picture import draw_steps
from .registry import BLOCKS as KINDS
from .registry import (
    CASES,
    ENTRANTS,
    GROWTHS,
    INFERENCES,
    NARROW,
    OPS,
    OTHER_PEERS,
    OVER_DEPTH,
    OWN,
    STEPS,
    WORK_SPACES,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
PICTURES = {ROOT / "docs" / "performance.svg": LIGHT, ROOT / "docs" / "performance-dark.svg": DARK}
"""What docs/performance.md opens with."""
UNKNOWN = "not measured yet"

Row = dict[str, Any]
Key = tuple[str, str]

_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def newest(folder: Path = RESULTS, device: str = "cpu") -> dict[Key, Row]:
    """Read the newest result of each (case, graph) on a device; cases that are declared no more are left out."""
    found: dict[Key, Row] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (row.get("case"), row.get("graph"))
            if row.get("device") != device or key[0] not in CASES:
                continue
            if key not in found or row["date"] >= found[key]["date"]:
                found[key] = row
    return found


# ---------------------------------------------------------------------- the marks
MARK_HEAD = ("case", "graph", "against", "reached", "to reach", "")


def mark_rows(results: dict[Key, Row], marks: Sequence[Mark] = MARKS) -> list[tuple[str, ...]]:
    """Every mark with what has been reached, as text."""
    return [_mark_row(mark, results.get((mark.case, mark.graph))) for mark in marks]


def _mark_row(mark: Mark, row: Row | None) -> tuple[str, ...]:
    goal = "–"
    if mark.at_least is not None:
        goal = f"≥ {mark.at_least:g}"
    elif mark.at_most is not None:
        goal = f"≤ {mark.at_most:g}"
    reached, verdict = UNKNOWN, ""
    if row is not None:
        value = _figure(row, mark.figure)
        reached = _absent(row, mark.figure) if value is None else f"{value:.2f} {mark.unit}".strip()
        verdict = "" if value is None else _verdict(mark, value)
    return mark.text, mark.graph, mark.against, reached, goal, verdict


def _figure(row: Row, keys: Sequence[str]) -> float | None:
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def _absent(row: Row, keys: Sequence[str]) -> str:
    """Why a result has no figure for an entrant."""
    return _state(next((row["runs"][key] for key in keys if key in row.get("runs", {})), {})) or UNKNOWN


def _verdict(mark: Mark, value: float) -> str:
    if mark.at_least is None and mark.at_most is None:
        return ""
    short = (mark.at_least is not None and value < mark.at_least) or (mark.at_most is not None and value > mark.at_most)
    return "below" if short and mark.at_least is not None else ("above" if short else "reached")


# ---------------------------------------------------------------------- the eight rows that the page opens with
_OPENING = (
    ("revgcn", "arxiv8"), ("revgcn", "arxiv"), ("revsage", "arxiv8"), ("revsage", "arxiv"), ("revgen", "arxiv8"),
    ("revgat-1", "arxiv8"), ("revgat-4", "arxiv8"), ("revgen-edges", "proteins"),
)  # fmt: skip
_SHORT = {
    "pyg": "GroupAddRev",
    "pyg-csr": "GroupAddRev, sparse form",
    "pyg-residual-csr": "plain residual net, stored, sparse form",
    "pyg-compiled": "GroupAddRev, compiled",
    "pyg-compiled-dynamic": "GroupAddRev, compiled for dynamic shapes",
    "pyg-residual-compiled": "plain residual net, stored, compiled",
    "pyg-torch-sparse": "GroupAddRev, torch-sparse",
    "pyg-lib": "GroupAddRev, pyg-lib",
}
"""PyG's entrants in float32, in short."""


def _opening(results: dict[Key, Row]) -> str:
    """Time and work space of our step, beside the least time and the least work space of anything of PyG's."""
    head = ("network", "graph", "layers", "revgnn", "in bfloat16", "PyG's fastest", "work space", "PyG's least")
    rows = []
    for key in _OPENING:
        if key not in results:
            continue
        row = results[key]
        runs, own = row["runs"], row["runs"][OWN]
        apart = results.get((f"{key[0]}-others", key[1]), row)["runs"]
        narrow = f"{runs[NARROW]['median_s']:.2f} s" if "bf16" in row else "–"
        cells = [
            f"{own['median_s']:.2f} s",
            narrow,
            _best(runs, apart, "median_s", "as long"),
            memory(own["peak_bytes"]),
        ]
        rows.append(
            [STEPS[key[0]].title, key[1], str(row["layers"]), *cells, _best(runs, apart, "peak_bytes", "as much")]
        )
    return _markdown(head, rows)


def _best(runs: dict[str, Row], apart: dict[str, Row], figure: str, what: str) -> str:
    """The least of a figure among PyG's entrants in float32, as a multiple of ours of the same result, and whose it is.

    Args:
        runs: of the case.
        apart: of the same step beside other peers, for those that the case has not.
        figure: the key.
        what: words after "times".
    """
    found = {
        name: of[name][figure] / of[OWN][figure]
        for of in (apart, runs)
        for name in _SHORT
        if "median_s" in of.get(name, {})
    }
    if not found:
        return "out of memory"
    least = min(found, key=lambda name: found[name])
    return f"{found[least]:.1f} times {what} ({_SHORT[least]})"


# ---------------------------------------------------------------------- one small table for each question
_PEERS = {"pyg": "PyG, edge_index", "pyg-csr": "PyG, fastest sparse form", "pyg-residual-csr": "PyG, plain residual"}
"""Names in `ENTRANTS` -> the heads of their columns."""


def _step_times(results: dict[Key, Row]) -> str:
    """Time of our reversible step, and how many times as long PyG's networks take."""
    head = ("network", "graph", "layers", "revgnn", *_PEERS.values())
    rows = []
    for row in _of(results, STEPS):
        ratios = [_times(row, peer) for peer in _PEERS]
        own = row["runs"][OWN]
        rows.append([STEPS[row["case"]].title, row["graph"], str(row["layers"]), f"{own['median_s']:.2f} s", *ratios])
    return _markdown(head, rows)


def _times(row: Row, peer: str) -> str:
    if peer not in row["runs"]:
        return "–"
    return _state(row["runs"][peer]).removeprefix("failed: ") or f"{row['ratios'][peer]:.1f} times as long"


def _step_bf16(results: dict[Key, Row]) -> str:
    """Time and work space of our reversible step under bfloat16 autocast, beside float32 and PyG under the same."""
    head = ("network", "graph", "revgnn, bfloat16", "float32", "PyG, bfloat16", "work space", "in float32")
    rows = []
    for row in _of(results, STEPS):
        if "bf16" not in row:
            continue
        narrow, peer = row["runs"][NARROW], row["runs"]["pyg-bf16"]
        cells = [f"{narrow['median_s']:.2f} s", f"{row['bf16'][OWN]:.2f} times as long"]
        state = _state(peer).removeprefix("failed: ")
        cells.append(state or f"{row['bf16']['pyg-bf16']:.1f} times as long")
        cells += [f"{run['peak_nd']:.1f} N D floats" for run in (narrow, row["runs"][OWN])]
        rows.append([STEPS[row["case"]].title, row["graph"], *cells])
    return _markdown(head, rows)


def _step_memory(results: dict[Key, Row]) -> str:
    """Work space of our step reversible and stored, and of PyG's reversible step, in the form that takes less."""
    head = ("network", "graph", "layers", "revgnn, reversible", "in N D floats", "revgnn, stored", "PyG GroupAddRev")
    rows = []
    for row in _of(results, STEPS):
        runs = row["runs"]
        peers = [runs[name]["peak_bytes"] for name in ("pyg", "pyg-csr") if "peak_bytes" in runs[name]]
        cells = [memory(runs[OWN]["peak_bytes"]), f"{runs[OWN]['peak_nd']:.1f}", memory(runs["store"]["peak_bytes"])]
        times = min(peers) / runs[OWN]["peak_bytes"] if peers else 0.0
        cells.append(f"{memory(min(peers))}, {times:.1f} times ours" if peers else "out of memory")
        rows.append([STEPS[row["case"]].title, row["graph"], str(row["layers"]), *cells])
    return _markdown(head, rows)


def _depth_memory(results: dict[Key, Row]) -> str:
    """Work space of our step at the least and the greatest depth, in N D floats."""
    rows = []
    for row in _of(results, WORK_SPACES):
        least, most = row["points"][0], row["points"][-1]
        title = STEPS[WORK_SPACES[row["case"]].step].title
        depths = f"{least['layers']} and {most['layers']}"
        rows.append([title, row["graph"], depths, f"{least['peak_nd']:.2f}", f"{most['peak_nd']:.2f}"])
    return _markdown(("network", "graph", "layers", "N D floats, shallow", "deep"), rows)


def _over_depth(results: dict[Key, Row]) -> str:
    """Time and work space of a step of every entrant at every depth."""
    head = ("layers", "network", "median s", "work space", "N D floats")
    rows = []
    for row in _of(results, OVER_DEPTH):
        for at in row["points"]:
            for name, run in at["runs"].items():
                figures = [_state(run), "", ""]
                if not figures[0]:
                    figures = [f"{run['median_s']:.2f}", memory(run["peak_bytes"]), f"{run['peak_nd']:.1f}"]
                rows.append([str(at["layers"]), ENTRANTS[name].text, *figures])
    return _markdown(head, rows)


def _other_peers(results: dict[Key, Row]) -> str:
    """A step beside peers that need a compiler, or packages from outside PyPI."""
    head = ("network", "step", "times ours", "work space")
    rows = []
    for row in _of(results, OTHER_PEERS):
        for name, run in row["runs"].items():
            figures = [_state(run), "", ""]
            if not figures[0]:
                ratio = row["ratios"].get(name, 1.0)
                figures = [f"{run['median_s']:.2f} s", f"{ratio:.2f}", memory(run["peak_bytes"])]
            rows.append([run["what"], *figures])
    return _markdown(head, rows)


def _inference(results: dict[Key, Row]) -> str:
    """Nodes a second and peak memory of inference by every way."""
    head = ("what", "nodes a second", "time", "times ours", "peak", "N D floats")
    rows = []
    for row in _of(results, INFERENCES):
        for name, run in row["runs"].items():
            figures = [_state(run), "", "", "", ""]
            if not figures[0]:
                ratio = row["ratios"].get(name, 1.0)
                figures = [f"{run['nodes_per_s']:,.0f}", f"{run['median_s']:.2f} s", f"{ratio:.2f}"]
                figures += [memory(run["peak_bytes"]), f"{run['peak_nd']:.2f}"]
            rows.append([run["what"], *figures])
    return _markdown(head, rows)


def _other_blocks(results: dict[Key, Row]) -> str:
    """Time and work space of a step with blocks of other kinds, fused and by autograd."""
    head = ("blocks", "fused", "step", "work space", "N D elements", "step by autograd", "N D elements")
    rows = []
    for row in _of(results, KINDS):
        for name in KINDS[row["case"]].kinds:
            run, plain = row["runs"][name], row["runs"].get(f"{name} by autograd")
            cells = [f"{run['median_s']:.2f} s", memory(run["peak_bytes"]), f"{run['peak_nd']:.1f}"]
            if plain is None:
                rows.append([run["what"], "no", "–", "–", "–", cells[0], cells[2]])
            else:
                rows.append([run["what"], "yes", *cells, f"{plain['median_s']:.2f} s", f"{plain['peak_nd']:.1f}"])
    return _markdown(head, rows)


def _recompute_cost(results: dict[Key, Row]) -> str:
    """Time of a reversible step over that of the same network stored."""
    rows = _of(results, STEPS)
    return _by_graph("network", [(STEPS[row["case"]].title, row["graph"], row["over_store"]) for row in rows])


def _growth_powers(results: dict[Key, Row]) -> str:
    """The power of each axis by which the time of a step grows, and how far the points are from a straight line."""
    rows = [[row["axis"], f"{row['exponent']:.2f}", f"{row['off_line']:.0%}"] for row in _of(results, GROWTHS)]
    return _markdown(("axis", "power", "distance from a straight line, at most"), rows)


def _gather_rates(results: dict[Key, Row]) -> str:
    """Rate at which sums over neighbors read rows, over that at which the machine gathers random rows."""
    rows = [row for row in _of(results, OPS) if "of_ceiling" in row]
    return _by_graph("channels", [(str(row["width"]), row["graph"], row["of_ceiling"]) for row in rows])


def _by_graph(what: str, ratios: Sequence[tuple[str, str, float]]) -> str:
    """A row for each name, a column for each graph."""
    graphs = list(dict.fromkeys(graph for _, graph, _ in ratios))
    found = {(name, graph): f"{ratio:.2f}" for name, graph, ratio in ratios}
    names = dict.fromkeys(name for name, _, _ in ratios)
    return _markdown((what, *graphs), [[name, *(found.get((name, graph), "–") for graph in graphs)] for name in names])


def _missed(results: dict[Key, Row]) -> str:
    """How many marks are reached, and those that are missed or have no figure."""
    rows = [row for row in mark_rows(results) if row[4] != "–" and row[3] != UNKNOWN]
    if not rows:
        return UNKNOWN
    reached = sum(row[5] == "reached" for row in rows)
    missed = [row[:5] for row in rows if row[5] != "reached"]
    table = f"\n\n{_markdown(MARK_HEAD[:5], missed)}" if missed else ""
    return f"{reached} of {len(rows)} marks are reached.{' The others:' if missed else ''}{table}"


# ---------------------------------------------------------------------- the details
def _steps(results: dict[Key, Row]) -> str:
    head = ("case", "graph", "layers", "network", "form", "median s", "least s", "rounds", "work space", "N D 4 bytes")
    rows = []
    for row in _of(results, STEPS):
        for run in row["runs"].values():
            state = _state(run)
            figures = [state, "", "", "", ""]
            if not state:
                figures = [f"{run['median_s']:.3f}", f"{run['min_s']:.3f}", str(row["repeats"])]
                figures += [memory(run["peak_bytes"]), f"{run['peak_nd']:.1f}"]
            rows.append([row["case"], row["graph"], str(row["layers"]), run["what"], run["form"] or "–", *figures])
    return _markdown(head, rows)


def _state(run: Row) -> str:
    """Why a run has no figures, or nothing; what the allocator says in many words is that there was no memory left."""
    reason = next((f"{state}: {run[state]}" for state in ("failed", "skipped") if state in run), "")
    return "failed: out of memory" if "can't allocate memory" in reason else reason


def _operations(results: dict[Key, Row]) -> str:
    head = ("operation", "graph", "by", "median ms", "times ours", "work space", "gathered GB/s")
    rows = []
    for row in _of(results, OPS):
        gathered = row["num_edges"] * row["width"] * 4 / 1e9 if "gb_s" in row else None
        for name, run in row["runs"].items():
            cells = [_state(run), "", "", ""]
            if not cells[0]:
                rate = "" if gathered is None else f"{gathered / run['median_s']:.1f}"
                ratio = f"{row['ratios'].get(name, 1.0):.2f}"
                cells = [f"{run['median_s'] * 1e3:.2f}", ratio, memory(run["peak_bytes"]), rate]
            rows.append([row["case"], row["graph"], name, *cells])
        rows += [
            [row["case"], row["graph"], f"ceiling: random rows, {way}", "", "", "", f"{rate:.1f}"]
            for way, rate in row.get("gather_gb_s", {}).items()
        ]
    return _markdown(head, rows)


def _work_space(results: dict[Key, Row]) -> str:
    head = ("case", "graph", "layers", "work space", "N D 4 bytes")
    return _markdown(
        head,
        [
            [row["case"], row["graph"], str(at["layers"]), memory(at["peak_bytes"]), f"{at['peak_nd']:.2f}"]
            for row in _of(results, WORK_SPACES)
            for at in row["points"]
        ],
    )


def _growth(results: dict[Key, Row]) -> str:
    head = ("axis", "graph", "at", "median s", "s per unit")
    return _markdown(
        head,
        [
            [row["axis"], row["graph"], f"{at['at']:g}", f"{at['median_s']:.3f}", f"{at['median_s'] / at['at']:.5f}"]
            for row in _of(results, GROWTHS)
            for at in row["points"]
        ],
    )


def _provenance(results: dict[Key, Row]) -> str:
    head = ("cases", "machine", "threads", "clock", "ops", "versions", "commit", "day")
    groups: dict[tuple[str, ...], list[str]] = {}
    for (case, graph), row in sorted(results.items()):
        if graph not in CASES[case].graphs:
            continue
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        chosen = row["implementation"] + (f" ({row['isa']})" if row["isa"] else "")
        commit = "unknown" if row["commit"] is None else row["commit"][:10] + (" and changes" if row["dirty"] else "")
        machine = f"{row['machine']['cpu']}, {row['machine']['cores']} cores"
        where = (machine, str(row["threads"]), row["clock"], chosen, versions, commit, row["date"][:10])
        groups.setdefault(where, []).append(f"{case} {graph}")
    return _markdown(head, [[", ".join(cases), *where] for where, cases in groups.items()])


def _marks(results: dict[Key, Row]) -> str:
    return _markdown(MARK_HEAD, mark_rows(results))


def _of(results: dict[Key, Row], cases: Iterable[str]) -> list[Row]:
    """The results of these cases on the graphs that they are declared for, in order of declaration."""
    return [results[case, graph] for case in cases for graph in CASES[case].graphs if (case, graph) in results]


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return UNKNOWN
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


BLOCKS: dict[str, Callable[[dict[Key, Row]], str]] = {
    "opening": _opening,
    "over-depth": _over_depth,
    "other-peers": _other_peers,
    "inference": _inference,
    "other-blocks": _other_blocks,
    "step-times": _step_times,
    "step-bf16": _step_bf16,
    "step-memory": _step_memory,
    "depth-memory": _depth_memory,
    "recompute-cost": _recompute_cost,
    "growth-powers": _growth_powers,
    "gather-rates": _gather_rates,
    "missed": _missed,
    "marks": _marks,
    "steps": _steps,
    "operations": _operations,
    "work-space": _work_space,
    "growth": _growth,
    "provenance": _provenance,
}


def filled(document: str, results: dict[Key, Row]) -> str:
    """Give the text of a document with every block as it should be.

    Raises: KeyError: a block that nothing here writes.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](results)}\n{match[3]}", document)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the document where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="fill docs/performance.md, and draw its picture")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of *.jsonl files")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    results = newest(options.results, options.device)
    marks = [*CUDA_MARKS, *MARKS] if options.device == "cuda" else MARKS
    print_table(results_console(), MARK_HEAD, mark_rows(results, marks), text=3)
    if options.write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
        for row in _of(results, OVER_DEPTH):
            for path, theme in PICTURES.items():
                draw_steps(row, path, theme)


if __name__ == "__main__":
    main()
