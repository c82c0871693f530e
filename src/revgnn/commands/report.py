"""``revgnn report``: write the report of a finished run again, or show the summary of several"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import cast

from ..files import read_object
from ..repeat import RUNS_FILE, Summary
from ..report import MARKDOWN_HEADER, markdown_row
from ..report.facts import Report
from ..report.row import duration, integer, mean_and_std, memory, metric_title, resident_growth, score, target, verdict
from ..run_folder import report_on
from .output import print_facts, print_json, print_lines


def run(arguments: Namespace) -> None:
    """Write the report of a finished run again, or show the summary of several."""
    if (arguments.run / RUNS_FILE).is_file() and not arguments.markdown:
        summary = cast(Summary, read_object(arguments.run / RUNS_FILE))
        show_runs(summary, arguments.run, as_json=arguments.json)
        return
    made = report_on(arguments.run)
    if arguments.markdown:
        sys.stdout.write(f"{MARKDOWN_HEADER}\n{markdown_row(made)}\n")
        return
    show_report(made, arguments.run, as_json=arguments.json)


def show_report(report: Report, out: Path, *, as_json: bool) -> None:
    """Print the result of a run."""
    if as_json:
        print_json(report)
        return
    result = report["result"]
    facts = [
        ("run", report["name"]),
        (f"valid {metric_title(result['metric'])}", score(result, "valid")),
        (f"test {metric_title(result['metric'])}", score(result, "test")),
        *([("paper", target(report["paper"]))] if report["paper"] else []),
        ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
        ("parameters", integer(report["parameters"])),
        ("peak training memory", memory(report["memory"]["peak_bytes"])),
        *([("  predicted", memory(guess["peak_bytes"]))] if (guess := report["memory"].get("predicted")) else []),
        ("  growth of process", memory(resident_growth(report["memory"]))),
        ("time per step", duration(report["time"]["seconds_per_step_median"])),
        ("report", str(out / "report.html")),
    ]
    print_facts(facts)
    print_lines(f"note: {warning}" for warning in report["warnings"])
    print_lines(filter(None, [verdict(report)]))


def show_runs(summary: Summary, out: Path, *, as_json: bool) -> None:
    """Print the summary of several seeds."""
    if as_json:
        print_json(summary)
        return
    selected = f"{len(summary['runs'])}, each with its best valid {summary['selected_by']}"
    facts = [("run", summary["name"]), ("runs", selected)]
    metric, scores = summary["metric"], summary["scores"]
    facts += [
        (f"{split} {metric_title(metric)}", mean_and_std(metric, scores[split]["mean"], scores[split]["std"]))
        for split in ("valid", "test")
        if split in scores
    ]
    facts += [
        *([("paper", target(summary["paper"]))] if summary["paper"] else []),
        ("parameters", integer(summary["parameters"])),
        ("peak training memory", memory(summary["memory"]["peak_bytes"])),
        ("  growth of process", memory(resident_growth(summary["memory"]))),
        ("summary", str(out / RUNS_FILE)),
    ]
    print_facts(facts)
    print_lines(f"note: {warning}" for warning in summary["warnings"])
