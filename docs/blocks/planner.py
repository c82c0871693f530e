"""Predicted memory and time beside what was measured, as docs/planner.md shows them."""

from __future__ import annotations

from revgnn.paper.recipes import all_recipes
from revgnn.paper.results import read_lines
from revgnn.report.row import duration, memory

from .rows import RESULTS, commit, newest, table


def _planned() -> str:
    """Predicted and measured peaks and steps, the newest of each recipe."""
    head = ["recipe", "nodes", "layers", "predicted", "measured", "ratio", "step, predicted", "measured", "ratio"]
    head += ["measured at", "predicted at"]
    rows = []
    for row in newest("plan", "recipe").values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['num_nodes']:,}",
            str(row["layers"]),
            memory(row["predicted_bytes"]),
            memory(row["measured_bytes"]),
            f"{row['ratio']:.3f}",
            duration(row["predicted_step_s"]),
            duration(row["measured_step_s"]),
            f"{row['predicted_step_s'] / row['measured_step_s']:.2f}",
            row.get("measured_commit", row["commit"])[:8],
            commit(row),
        ]
        rows.append(cells)
    return table(head, rows, left=("recipe", "measured at", "predicted at"))


def _planned_process() -> str:
    """Predicted and measured peaks of processes, the newest of each recipe and size."""
    head = ["recipe", "nodes", "edges", "layers", "tensors, predicted", "growth, measured", "process, predicted"]
    head += ["measured", "ratio", "commit"]
    rows = []
    for row in newest("plan_process", "recipe", "num_nodes").values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['num_nodes']:,}",
            f"{row['num_edges']:,}",
            str(row["layers"]),
            memory(row["predicted_bytes"]),
            memory(row["growth_bytes"]),
            memory(row["predicted_process_bytes"]),
            memory(row["process_bytes"]),
            f"{row['ratio']:.2f}",
            commit(row),
        ]
        rows.append(cells)
    return table(head, rows, left=("recipe", "commit"))


def _planned_real() -> str:
    """Predicted peaks beside those of steps on the data themselves, the newest of each run."""
    head = ["run", "measured", "predicted, with the data", "ratio", "predicted, without", "ratio", "commit"]
    rows = []
    found = {(row["recipe"], *row["changes"]): row for row in read_lines(RESULTS / "plan_real.jsonl")}
    for row in found.values():
        cells = [
            "; ".join([f"`{row['recipe']}`", *row["changes"]]),
            memory(row["measured_bytes"]),
            memory(row["predicted_bytes"]),
            f"{row['ratio']:.3f}",
            memory(row["predicted_without_data_bytes"]),
            f"{row['ratio_without_data']:.3f}",
            commit(row),
        ]
        rows.append(cells)
    return table(head, rows, left=("run", "commit"))


def _planned_full() -> str:
    """Predicted peaks beside those of a step of the data set's whole size, of the memory column."""
    head = ["recipe", "nodes in the step", "edges", "parameters", "measured", "predicted", "ratio", "commit"]
    rows = []
    # A later estimate does not take a measured row away.
    found = {row["recipe"]: row for row in read_lines(RESULTS / "memory.jsonl") if row["how"] == "measured"}
    for row in found.values():
        cells = [
            f"`{row['recipe']}`",
            f"{row['step_nodes']:,}",
            f"{row['step_edges']:,}",
            f"{row['parameters']:,}",
            memory(row["peak_bytes"]),
            memory(row["predicted_bytes"]),
            f"{row['predicted_bytes'] / row['peak_bytes']:.3f}",
            row["commit"][:8],
        ]
        rows.append(cells)
    return table(head, rows, left=("recipe", "commit"))


def _planned_summary() -> str:
    """How far predictions are from measurements, over all recipes."""
    rows = list(newest("plan", "recipe").values())
    off = sorted(abs(row["ratio"] - 1) for row in rows)
    worst = max(rows, key=lambda row: abs(row["ratio"] - 1))
    steps = sorted(row["predicted_step_s"] / row["measured_step_s"] for row in rows)
    within = sum(0.5 <= step <= 2.0 for step in steps)
    middle = len(rows) // 2
    measured = {row["recipe"] for row in rows}
    missing = [f"`{name}`" for name in all_recipes() if name not in measured]
    return (
        f"Memory: {len(rows)} of {len(all_recipes())} recipes are measured. The prediction is off by {off[middle]:.2%} "
        f"in the median and by {off[-1]:.1%} at most (`{worst['recipe']}`). Time: {within} predictions are within a "
        f"factor of two; predicted over measured is {steps[middle]:.2f} in the median, {steps[0]:.2f} at least and "
        f"{steps[-1]:.2f} at most." + (f"\n\nNot measured with this version: {', '.join(missing)}." if missing else "")
    )


BLOCKS = {
    "planned": _planned,
    "planned-process": _planned_process,
    "planned-real": _planned_real,
    "planned-full": _planned_full,
    "planned-summary": _planned_summary,
}
