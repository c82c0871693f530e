"""The default model beside other settings, as docs/defaults.md shows it."""

from __future__ import annotations

import statistics

from benchmarks.defaults import CANDIDATES, COMMON

from revgnn.train import METRICS

from .rows import Row, newest, table


def _default_settings() -> str:
    """The settings that all candidates share, each with its value."""
    names = ((name.partition(".")[2].replace("_", " "), value) for name, value in COMMON.items())
    return ", ".join(f"{name} {value}" for name, value in names) + "."


def _default_scores() -> str:
    """Test scores of each candidate on each table, means over seeds, and the mean rank of the means on valid."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in newest("defaults", "table", "candidate", "seed").values():
        rows.setdefault((row["candidate"], row["table"]), []).append(row)
    first = {name: found[0] for (_, name), found in rows.items()}
    head = [
        "settings",
        *(f"{name}, {METRICS[row['metric']].title}" for name, row in first.items()),
        "mean rank on valid",
    ]
    lines = []
    for title, key in (("majority or mean", "constant"), ("linear model", "linear")):
        cells = [_default_score(row["metric"], [row["baselines"][key]]) for row in first.values()]
        lines.append([title, *cells, ""])
    ranks = _default_ranks(rows)
    for candidate in CANDIDATES:
        found = [rows.get((candidate, name), []) for name in first]
        if not any(found):
            continue
        cells = [
            _default_score(each[0]["metric"], [row["scores"]["test"] for row in each]) if each else "" for each in found
        ]
        rank = f"{ranks[candidate]:.1f}" if candidate in ranks else ""
        lines.append([candidate, *cells, rank])
    return table(head, lines, left=("settings",))


def _default_ranks(rows: dict[tuple[str, str], list[Row]]) -> dict[str, float]:
    """Mean rank of each candidate, 1 the best, over the tables that all candidates were trained on."""
    tables = {name for _, name in rows}
    candidates = [name for name in CANDIDATES if any(candidate == name for candidate, _ in rows)]
    ranks: dict[str, list[int]] = {name: [] for name in candidates}
    for each in tables:
        if not all((name, each) in rows for name in candidates):
            continue
        values = {name: statistics.mean(row["scores"]["valid"] for row in rows[name, each]) for name in candidates}
        larger = METRICS[rows[candidates[0], each][0]["metric"]].larger_is_better
        for name, value in values.items():
            better = (other > value if larger else other < value for other in values.values())
            ranks[name].append(1 + sum(better))
    return {name: statistics.mean(found) for name, found in ranks.items() if found}


def _default_score(metric: str, values: list[float]) -> str:
    """Mean of the scores, and their standard deviation if there are three or more."""
    scale, digits = (100.0, (".1f", ".1f")) if METRICS[metric].in_percent else (1.0, (".4g", ".2g"))
    mean = format(scale * statistics.mean(values), digits[0])
    return f"{mean} ± {format(scale * statistics.stdev(values), digits[1])}" if len(values) > 2 else mean


BLOCKS = {"default-settings": _default_settings, "default-scores": _default_scores}
