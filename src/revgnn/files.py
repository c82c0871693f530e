"""Small files that are written whole or not at all, read without trust, and what is said when the disk is full."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_JSON = 64 * 2**20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write under; then it is synced and renamed: a reader sees the old file or the new one.

    A link at ``path`` is replaced, never followed. Where the writing fails, what stood there stands there still.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, as `replacing` does.

    Raises: OSError: a full disk and the like.
    """
    data = text.encode("utf-8")
    with room_for(path.name, len(data), path.parent), replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room_for(what: str, needed: int, folder: Path, *, then: str = "resume the run") -> Iterator[None]:
    """Turn a full disk into an `OSError` that says how many bytes ``what`` needs and how many are free.

    Errors of the operating system that a library words itself ("... (os error 28)") are recognised too.

    Args:
        what: is written.
        needed: bytes.
        folder: where.
        then: what to do once there is room.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        code = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if code not in _FULL:
            raise
        sizes = f"{what} needs {_size(needed)}, {_size(shutil.disk_usage(folder).free)} are free"
        raise OSError(code, f"{os.strerror(code)}: {sizes}; make room, then {then}", str(folder)) from error


def read_object(
    path: Path, fault: Callable[[str], Exception] = ValueError, *, largest: int = LARGEST_JSON
) -> dict[str, Any]:
    """Read one JSON object that may come from anywhere.

    Args:
        path: a plain file, no link.
        fault: makes the error from its message.
        largest: bytes that are read.
    Raises: what ``fault`` makes: not a plain file, too large, not JSON, nested too deep, a name twice, NaN or
        infinite numbers, or not an object.
    """
    try:
        check_plain(path, fault)
        if path.stat().st_size > largest:
            raise ValueError(f"{path.stat().st_size} bytes are more than the {largest} that are read")
        return parse_object(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        if type(error) is fault:
            raise
        raise fault(f"{path} cannot be read: {error}") from error


def parse_object(text: str) -> dict[str, Any]:
    """Read one JSON object from text that may come from anywhere.

    Raises: ValueError: not one object, nested too deep, a name twice, NaN or infinite numbers.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must be one JSON object, got {type(value).__name__}")
    return value


@contextmanager
def parts_of(path: Path) -> Iterator[None]:
    """Turn the lack of a part, or one of another kind, into a `ValueError` that names the file or folder read."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} lacks a part or has one of another kind ({error!r}); it is damaged, or of another revgnn"
        ) from error


def check_plain(path: Path, fault: Callable[[str], Exception] = ValueError) -> None:
    """Refuse what is missing, a link or a folder."""
    if path.is_symlink() or not path.is_file():
        raise fault(f"{path} must be a plain file; it is missing, a link or a folder")


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number} bytes"
