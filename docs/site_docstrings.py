"""Griffe's extension of the site: sections of docstrings that are this project's own, such as Cost and Source."""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAMES = "Args|Raises|Returns|Yields|Shape|Cost|Source|Example|State|Note"
# A section of one paragraph, "Cost: text" with its indented continuation. Args with a list below stay with griffe.
_SECTION = re.compile(rf"^({_NAMES}): (\S.*(?:\n[ ]+\S.*)*)$", re.MULTILINE)


def as_paragraphs(docstring: str) -> str:
    """Turn each section that starts on its heading's line into a paragraph of Markdown with the heading in bold.

    Griffe reads such a section as an admonition, and cuts its first sentence off as the title.
    """
    return _SECTION.sub(_paragraph, docstring)


def _paragraph(found: re.Match[str]) -> str:
    text = " ".join(line.strip() for line in found[2].splitlines())
    return f"\n**{found[1]}:** {text}\n"


class Paragraphs(griffe.Extension):
    """Applies `as_paragraphs` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_paragraphs(obj.docstring.value)
