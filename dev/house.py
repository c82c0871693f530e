"""Print the figures of the house: how large its pieces are, and how plain their contracts.

``python dev/house.py`` reads src/ and prints one line per figure; signs, not ends.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "revgnn"


def figures(source: Path = SOURCE) -> dict[str, str]:
    """Figure -> value, as text."""
    files = sorted(source.rglob("*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    lines = sum(text.count("\n") for text in texts.values())
    wide, protocols, rooms = 0, 0, defaultdict(set)
    for file, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                a = node.args
                wide += len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) > 8
            elif isinstance(node, ast.ClassDef):
                rooms[node.name].add(file.parent)
                protocols += any("Protocol" in ast.unparse(base) for base in node.bases)
    doubled = sorted(name for name, where in rooms.items() if len(where) > 1)
    any_count = sum(len(re.findall(r"\bAny\b", text)) for text in texts.values())
    page = source / "experiment.py"
    return {
        "lines in src": str(lines),
        "functions with more than 8 arguments": str(wide),
        "`Any` per 1,000 lines": f"{1000 * any_count / max(lines, 1):.1f}",
        "`Protocol` classes": str(protocols),
        "class names in two rooms": f"{len(doubled)} ({', '.join(doubled)})" if doubled else "0",
        "lines of the page from data to report": str(texts[page].count("\n")),
        "files past 400 lines": str(sum(text.count("\n") > 400 for text in texts.values())),
    }


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name}: {value}")  # noqa: T201 - it is what this is for
