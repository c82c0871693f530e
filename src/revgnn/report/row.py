"""Format figures for readers, and a run as a Markdown row with the paper's figure"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..train import METRICS

MARKDOWN_HEADER = (
    "| run | parameters | best epoch | valid | test | paper | peak memory | resident growth | time per step |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def markdown_row(report: Mapping[str, Any]) -> str:
    """Format a report as one row under `MARKDOWN_HEADER`."""
    result = report["result"]
    cells = [
        report["name"],
        integer(report["parameters"]),
        integer(result["best_epoch"]),
        score(report, "valid"),
        score(report, "test"),
        target(report),
        memory(report["memory"]["peak_bytes"]),
        memory(resident(report)),
        duration(report["time"]["seconds_per_step_median"]),
    ]
    return "| " + " | ".join(_markdown(str(cell)) for cell in cells) + " |"


def metric_title(report: Mapping[str, Any]) -> str:
    """Return the metric's name with its unit."""
    return title_of(str(report["result"]["metric"]))


def title_of(metric: str) -> str:
    """Return the name of a metric with its unit."""
    if metric not in METRICS:
        return metric
    return METRICS[metric].title + (" [%]" if METRICS[metric].in_percent else "")


def in_percent(report: Mapping[str, Any]) -> bool:
    """Whether the metric is written times 100."""
    name = report["result"]["metric"]
    return name in METRICS and METRICS[name].in_percent


def in_unit(report: Mapping[str, Any], value: float) -> float:
    """Convert a metric to the unit of `metric_title`."""
    return 100.0 * value if in_percent(report) else value


def score(report: Mapping[str, Any], split: str) -> str:
    """Format the metric of a split in the unit of `metric_title`; a dash if there is none."""
    return figure(report["result"]["metric"], report["result"]["scores"].get(split, {}).get("metric"))


def figure(metric: str, value: float | None) -> str:
    """Format a value of a metric, in percent where the metric is; a dash for ``None``."""
    if value is None:
        return "–"
    percent = metric in METRICS and METRICS[metric].in_percent
    return f"{100.0 * value:.2f}" if percent else number(value)


def number(value: float) -> str:
    """Format a number in four digits, without an exponent below ten million."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def baselines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and formatted metric of each baseline, on the split that the report describes; empty without any."""
    evaluation = report.get("evaluation") or {}
    if not evaluation.get("split"):
        return []
    metrics = evaluation["metrics"][evaluation["split"]]
    name = report["result"]["metric"]
    return [(one["name"], figure(name, metrics[one["name"]].get(name))) for one in evaluation["baselines"]]


def verdict(report: Mapping[str, Any]) -> str:
    """Return one line: the score of the network beside the baselines; empty if no split was evaluated."""
    beside = baselines(report)
    if not beside:
        return ""
    split = report["evaluation"]["split"]
    others = ", ".join(f"{name} {value}" for name, value in beside)
    return f"{split} {metric_title(report)}: network {score(report, split)}, {others}"


def mean_and_std(report: Mapping[str, Any], spread: Mapping[str, Any]) -> str:
    """Format a mean and, for several runs, a standard deviation in the unit of `metric_title`."""
    form = "{:.2f}".format if in_percent(report) else number
    known = [spread[name] for name in ("mean", "std") if spread[name] is not None]
    return " ± ".join(form(in_unit(report, value)) for value in known) or "–"


def target(report: Mapping[str, Any]) -> str:
    """Format the paper's test metric in the unit of `metric_title`; a dash if it gives none."""
    paper = report["paper"] or {}
    if paper.get("metric") is None:
        return "–"
    return f"{paper['metric']:g}" + (f" ± {paper['std']:g}" if paper.get("std") is not None else "")


def resident(report: Mapping[str, Any]) -> int | None:
    """Return the process's growth at its peak in bytes; ``None`` if unknown, as in a report of an older version."""
    growth: int | None = (report["memory"].get("resident") or {}).get("growth_bytes")
    return growth


def integer(value: float | None) -> str:
    """Format an integer with separators; a dash for ``None``."""
    return "–" if value is None else f"{value:,.0f}"


def memory(count: float | None) -> str:
    """Format bytes in MiB or GiB; a dash for ``None``."""
    if count is None:
        return "–"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Format seconds as ms, s, min, h or days."""
    for limit, unit, name in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 3600:.3g} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"


def _markdown(text: str) -> str:
    # Escaped, so that a cell cannot end its row and a name cannot become an HTML tag.
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
