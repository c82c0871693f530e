"""How figures are written for people, and the Markdown row of a run with the paper beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..train import METRICS

MARKDOWN_HEADER = (
    "| run | parameters | best epoch | valid | test | paper | peak memory | resident growth | time per step |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def markdown_row(report: Mapping[str, Any]) -> str:
    """Write a report as one row under `MARKDOWN_HEADER`."""
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
    """Name the metric with its unit."""
    name = str(report["result"]["metric"])
    return (METRICS[name].title if name in METRICS else name) + (" [%]" if in_percent(report) else "")


def in_percent(report: Mapping[str, Any]) -> bool:
    """Whether the metric is written times 100."""
    name = report["result"]["metric"]
    return name in METRICS and METRICS[name].in_percent


def in_unit(report: Mapping[str, Any], value: float) -> float:
    """Bring a metric into the unit that `metric_title` names."""
    return 100.0 * value if in_percent(report) else value


def score(report: Mapping[str, Any], split: str) -> str:
    """Write the metric of a split in the unit of `metric_title`; a dash where there is none."""
    value = report["result"]["scores"].get(split, {}).get("metric")
    if value is None:
        return "–"
    return f"{in_unit(report, value):.2f}" if in_percent(report) else f"{value:.4g}"


def mean_and_std(report: Mapping[str, Any], spread: Mapping[str, Any]) -> str:
    """Write a mean and, of more than one run, a standard deviation in the unit of `metric_title`."""
    digits = ".2f" if in_percent(report) else ".4g"
    known = [spread[name] for name in ("mean", "std") if spread[name] is not None]
    return " ± ".join(f"{in_unit(report, value):{digits}}" for value in known) or "–"


def target(report: Mapping[str, Any]) -> str:
    """Write the paper's figure of the test split, in the unit of `metric_title`; a dash where it gives none."""
    paper = report["paper"] or {}
    if paper.get("metric") is None:
        return "–"
    return f"{paper['metric']:g}" + (f" ± {paper['std']:g}" if paper.get("std") is not None else "")


def resident(report: Mapping[str, Any]) -> int | None:
    """Give by how many bytes the process grew at its peak; ``None`` where that is not known, as of an older version."""
    growth: int | None = (report["memory"].get("resident") or {}).get("growth_bytes")
    return growth


def integer(value: float | None) -> str:
    """Write a whole number with separators; a dash for ``None``."""
    return "–" if value is None else f"{value:,.0f}"


def memory(count: float | None) -> str:
    """Write bytes in MiB or GiB; a dash for ``None``."""
    if count is None:
        return "–"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Write seconds as ms, s, min or h."""
    for limit, unit, name in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 3600:.3g} h"


def _markdown(text: str) -> str:
    # A cell must not end its row, and a name must not become a tag.
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
