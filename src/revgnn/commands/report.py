"""``revgnn report``: write the report of a finished run again, or show the summary of several"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_object
from ..repeat import RUNS_FILE
from ..report import MARKDOWN_HEADER, markdown_row
from ..report.row import duration, integer, mean_and_std, memory, metric_title, resident, score, target, verdict
from ..run_folder import report_on
from .output import print_facts, print_json, print_lines


def run(arguments: Namespace) -> None:
    """Write the report of a finished run again, or show the summary of several."""
    if (arguments.run / RUNS_FILE).is_file() and not arguments.markdown:
        summary = read_object(arguments.run / RUNS_FILE)
        show_runs(summary, arguments.run, as_json=arguments.json)
        return
    facts = report_on(arguments.run)
    if arguments.markdown:
        sys.stdout.write(f"{MARKDOWN_HEADER}\n{markdown_row(facts)}\n")
        return
    show_report(facts, arguments.run, as_json=arguments.json)


def show_report(report: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Print the result of a run."""
    if as_json:
        print_json(report)
        return
    facts = [
        ("run", str(report["name"])),
        (f"valid {metric_title(report)}", score(report, "valid")),
        (f"test {metric_title(report)}", score(report, "test")),
        *([("paper", target(report))] if report["paper"] else []),
        ("best epoch", f"{report['result']['best_epoch']} of {report['result']['epochs']}"),
        ("parameters", integer(report["parameters"])),
        ("peak training memory", memory(report["memory"]["peak_bytes"])),
        *([("  predicted", memory(guess["peak_bytes"]))] if (guess := report["memory"].get("predicted")) else []),
        ("  growth of process", memory(resident(report))),
        ("time per step", duration(report["time"]["seconds_per_step_median"])),
        ("report", str(out / "report.html")),
    ]
    print_facts(facts)
    print_lines(f"note: {warning}" for warning in report["warnings"])
    print_lines(filter(None, [verdict(report)]))


def show_runs(summary: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Print the summary of several seeds."""
    if as_json:
        print_json(summary)
        return
    selected = f"{len(summary['runs'])}, each with its best valid {summary['selected_by']}"
    facts = [("run", str(summary["name"])), ("runs", selected)]
    facts += [
        (f"{split} {metric_title({'result': summary})}", mean_and_std({"result": summary}, summary["scores"][split]))
        for split in ("valid", "test")
        if split in summary["scores"]
    ]
    facts += [
        *([("paper", target(summary))] if summary["paper"] else []),
        ("parameters", integer(summary["parameters"])),
        ("peak training memory", memory(summary["memory"]["peak_bytes"])),
        ("  growth of process", memory(resident(summary))),
        ("summary", str(out / RUNS_FILE)),
    ]
    print_facts(facts)
    print_lines(f"note: {warning}" for warning in summary["warnings"])
