"""Write src/revgnn/ops/cpu/abi.py from csrc/revgnn_kernels.h: what Python must know to call the compiled kernels.

    python dev/abi.py            writes the file
    python dev/abi.py --check    fails where it is not what the header says

A kernel's struct becomes the format string of `struct`, a struct within it flat; an enum becomes a dictionary.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "revgnn_kernels.h"
TARGET = ROOT / "src" / "revgnn" / "ops" / "cpu" / "abi.py"

_CODES = {"int32_t": "i", "uint32_t": "I", "int64_t": "q", "uint64_t": "Q", "double": "d"}


def parsed(header: str) -> tuple[int, dict[str, dict[str, int]], dict[str, str]]:
    """The version, the values of each enum by name, and the format of each kernel's struct.

    Raises: ValueError: for a kernel without a struct, or a type that has no code.
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    version = re.search(r"#define REVGNN_ABI_VERSION (\d+)", text)
    if version is None:
        raise ValueError("the header has no REVGNN_ABI_VERSION")
    enums = {
        name: {
            entry.lower().removeprefix("revgnn_").removeprefix("norm_"): int(value)
            for entry, value in re.findall(r"(\w+) = (\d+)", body)
        }
        for name, body in re.findall(r"enum revgnn_(\w+) \{(.*?)\};", text, flags=re.DOTALL)
    }
    formats: dict[str, str] = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} revgnn_(\w+);", text, flags=re.DOTALL):
        formats[name] = "".join(_code(field.strip(), formats) for field in body.split(";") if field.strip())
    kernels = re.findall(r"\bK\((\w+)\) *\\?$", text, flags=re.MULTILINE)
    missing = [kernel for kernel in kernels if f"{kernel}_args" not in formats]
    if missing or not kernels:
        raise ValueError(f"the header has kernels without a struct, or none: {', '.join(missing)}")
    return int(version[1]), enums, {kernel: formats[f"{kernel}_args"] for kernel in kernels}


def _code(field: str, structs: dict[str, str]) -> str:
    """The format of one field ``type name`` or ``type *name``."""
    if "*" in field:
        return "P"
    kind = field.split()[0]
    inner = structs.get(kind.removeprefix("revgnn_"))
    if inner is None and kind not in _CODES:
        raise ValueError(f"no code for the field {field!r}")
    return _CODES[kind] if inner is None else inner


def written(header: str) -> str:
    """The text of abi.py."""
    version, enums, formats = parsed(header)
    lines = [
        '"""The interface of the compiled kernels, written from `csrc/revgnn_kernels.h` by `dev/abi.py`."""',
        "",
        f"VERSION = {version}",
        '"""Of the interface; a library of another one is not used."""',
        "",
    ]
    lines += [f"{name.upper()} = {json.dumps(values)}" for name, values in enums.items()]
    lines += ["", "FORMATS = {", *(f'    "{kernel}": "{code}",' for kernel, code in formats.items()), "}"]
    lines += ['"""The fields of the struct that each kernel takes, as `struct` packs them; that of a graph flat."""']
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    text = written(HEADER.read_text(encoding="utf-8"))
    if arguments == ["--check"]:
        return int(TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
