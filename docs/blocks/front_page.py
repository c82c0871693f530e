"""What the README shows of other pages, and what other pages show of the README."""

from __future__ import annotations

import json
import re

from .rows import RESULTS, ROOT


def _ten_lines() -> str:
    """The example of the README, which the suite runs."""
    example = re.search(r"```python\n.*?```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None, "README.md has no example"
    return example[0]


def _speed() -> str:
    """The newest measurement of one case of docs/performance.md."""
    lines = (RESULTS / "cpu.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if (row["case"], row["graph"]) == ("revgcn", "arxiv8")]
    row = max(rows, key=lambda row: row["date"])
    own, ratios = row["runs"]["revgnn"], row["ratios"]
    return (
        f"It is fast too: a training step of RevGCN ({row['layers']} layers, {row['hidden']} channels, "
        f"{row['num_nodes']:,} nodes, {row['num_edges']:,} edges; {row['threads']} threads of an "
        f"{row['machine']['cpu']}) takes {own['median_s']:.2f} s. PyG's "
        f"`GroupAddRev` takes {ratios['pyg']:.1f} times as long, {ratios['pyg-csr']:.1f} times on its fastest sparse "
        f"form, and PyG's plain residual net, which stores every activation, {ratios['pyg-residual-csr']:.1f} times. "
        "[docs/performance.md](docs/performance.md) shows every comparison, and what is missed."
    )


BLOCKS = {"ten-lines": _ten_lines, "speed": _speed}
