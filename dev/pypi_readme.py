"""Make the package index's description from README.md, whose links lead to files of the repository.

An index has none of these files. With a `Repository` under [project.urls] links and pictures lead there, to the tag of
the version; without one a link becomes its text, and the picture is left out. scikit-build-core calls this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RELATIVE = r"(?![a-z]+:|#)"
_LINK = re.compile(rf"(!?)\[([^\]]*)\]\({_RELATIVE}([^)\s]+)\)")
_SOURCE = re.compile(rf'\b(src|srcset)="{_RELATIVE}([^"\s]+)"')
_PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)


def dynamic_metadata(field: str, settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    """Return the field readme."""
    text = Path("README.md").read_text(encoding="utf-8")
    return {
        "content-type": "text/markdown",
        "text": described(text, project.get("urls", {}).get("Repository"), project["version"]),
    }


def described(text: str, repository: str | None, version: str) -> str:
    """Return a README without relative links.

    Args:
        text: Markdown.
        repository: address of the repository; ``None``: there is none that a reader could open.
        version: v and this is the tag that links lead to.
    """
    if repository is None:
        return _LINK.sub(lambda found: "" if found[1] else found[2], _PICTURE.sub("", text))
    page, raw = (f"{repository.rstrip('/')}/{kind}/v{version}/" for kind in ("blob", "raw"))
    text = _SOURCE.sub(lambda found: f'{found[1]}="{raw}{found[2]}"', text)
    return _LINK.sub(lambda found: f"{found[1]}[{found[2]}]({raw if found[1] else page}{found[3]})", text)
