"""Renders the demo's HTML page: headline, picture and table, in a light and a dark theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --quiet: #5b6774; --line: #dde3ea; --paper: #fff; --accent: #0b62a4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf1; --quiet: #9aa7b5; --line: #33404e; --paper: #12181f; --accent: #5cb8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 60rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 .6rem; font-size: 1.6rem; line-height: 1.25; }
a { color: var(--accent); }
.quiet { color: var(--quiet); font-size: .925rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .38rem .6rem; text-align: right; }
th { vertical-align: bottom; font-weight: 500; color: var(--quiet); font-size: .875rem; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
"""


def render(
    headline: str,
    paragraphs: Sequence[str],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    reports: Mapping[str, str],
    has_picture: bool,
) -> str:
    """Return the whole page as text.

    Args:
        headline: the result in one sentence.
        paragraphs: description of the comparison and of the numbers.
        head, rows: the table.
        reports: name of a run -> URL of its report.
        has_picture: whether depth.svg and depth-dark.svg exist next to the page.
    """
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    links = ", ".join(f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in reports.items())
    picture = (
        '<picture><source media="(prefers-color-scheme: dark)" srcset="depth-dark.svg">'
        f'<img src="depth.svg" alt="{escape(headline)}"></picture>'
        if has_picture
        else ""
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>revgnn demo</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(headline)}</h1>
{picture}
{"".join(f'<p class="quiet">{escape(text)}</p>' for text in paragraphs)}
<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>
<p>The runs: {links}.</p>
</body>
</html>
"""
