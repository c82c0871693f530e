"""The tables of a report's page, with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def rows_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None, *, kind: str = "") -> str:
    """Render a table whose first column has the names of the rows.

    Args:
        kind: class of the table: "stressed" sets off the first row, "records" lets long texts break.
    """
    title = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    kinds = [' scope="col"'] + [' scope="col" class="number"'] * (len(head) - 1)
    top = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, head, strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}">{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def pairs_table(pairs: Iterable[tuple[str, object]], caption: str | None = None) -> str:
    """Render names and values."""
    title = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(shown(value))}</td></tr>' for name, value in pairs
    )
    return f'<table class="pairs">{title}<tbody>{rows}</tbody></table>'


def shown(value: object) -> str:
    """Format a value of a configuration."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    return str(value)
