"""Every example of docs/extending.md runs as it stands and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples_of_a_section_run(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SECTIONS[section], f"the section {section!r} has no example"
    monkeypatch.chdir(tmp_path)
    for example in SECTIONS[section]:
        exec(compile(example, f"docs/extending.md: {section}", "exec"), {"__name__": "example"})
        said = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.MULTILINE)
        assert said[: len(promised)] == promised
