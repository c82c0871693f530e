"""Format figures for readers, and a run as a Markdown row with the paper's figure"""

from __future__ import annotations

from ..train import METRICS
from .facts import Evaluation, Memory, Published, Report, Result

MARKDOWN_HEADER = (
    "| run | parameters | best epoch | valid | test | paper | peak memory | resident growth | time per step |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def markdown_row(report: Report) -> str:
    """Format a report as one row under `MARKDOWN_HEADER`."""
    result = report["result"]
    cells = [
        report["name"],
        integer(report["parameters"]),
        integer(result["best_epoch"]),
        score(result, "valid"),
        score(result, "test"),
        target(report["paper"]),
        memory(report["memory"]["peak_bytes"]),
        memory(resident_growth(report["memory"])),
        duration(report["time"]["seconds_per_step_median"]),
    ]
    return "| " + " | ".join(_markdown(str(cell)) for cell in cells) + " |"


def metric_title(metric: str) -> str:
    """Return a metric's name with its unit."""
    return (METRICS[metric].title if metric in METRICS else metric) + (" [%]" if in_percent(metric) else "")


def in_percent(metric: str) -> bool:
    """Whether a metric is written times 100."""
    return metric in METRICS and METRICS[metric].in_percent


def in_unit(metric: str, value: float) -> float:
    """Convert a metric to the unit of `metric_title`."""
    return 100.0 * value if in_percent(metric) else value


def metric_of(result: Result, split: str) -> float | None:
    """Return the metric of a split; ``None``: the run has none."""
    found = result["scores"].get(split)
    return None if found is None else found["metric"]


def score(result: Result, split: str) -> str:
    """Format the metric of a split in the unit of `metric_title`; a dash if there is none."""
    return figure(result["metric"], metric_of(result, split))


def figure(metric: str, value: float | None) -> str:
    """Format a value in the unit of `metric_title`; a dash for ``None``."""
    if value is None:
        return "–"
    if in_percent(metric):
        return f"{100.0 * value:.2f}"
    decimals = METRICS[metric].decimals if metric in METRICS else None
    # The sum turns -0.0 into 0.0.
    return number(value) if decimals is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


def number(value: float) -> str:
    """Format a number in four digits, without an exponent below ten million."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def baselines(evaluation: Evaluation, metric: str) -> list[tuple[str, str]]:
    """Return name and formatted metric of each baseline, on the split of the details."""
    split = evaluation["split"]
    values = {} if split is None else evaluation["metrics"][split]
    names = [one["name"] for one in evaluation["baselines"]]
    return [(name, figure(metric, values[name].get(metric))) for name in names if name in values]


def verdict(report: Report) -> str:
    """Return one line: the score of the network beside the baselines; empty if no split was evaluated."""
    evaluation, result = report["evaluation"], report["result"]
    if evaluation is None or evaluation["split"] is None:
        return ""
    beside = ", ".join(f"{name} {value}" for name, value in baselines(evaluation, result["metric"]))
    split = evaluation["split"]
    return f"{split} {metric_title(result['metric'])}: network {score(result, split)}, {beside}"


def mean_and_std(metric: str, *figures: float | None) -> str:
    """Format a mean and, for several runs, a standard deviation in the unit of `metric_title`."""
    return " ± ".join(figure(metric, value) for value in figures if value is not None) or "–"


def target(paper: Published | None) -> str:
    """Format the paper's test metric in the unit of `metric_title`; a dash if it gives none."""
    if paper is None or paper.get("metric") is None:
        return "–"
    return f"{paper['metric']:g}" + (f" ± {paper['std']:g}" if paper.get("std") is not None else "")


def resident_growth(memory: Memory) -> int | None:
    """Return the process's growth at its peak in bytes; ``None`` if unknown, as in a report of an older version."""
    resident = memory.get("resident")
    return resident["growth_bytes"] if resident else None


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
