"""Write files atomically, read untrusted JSON safely, and record checksums and versions."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LARGEST_JSON = 64 * 2**20
DAMAGED_ARRAY = (
    OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, RuntimeError
)  # fmt: skip
"""What NumPy raises for a damaged ``.npy`` or ``.npz``: it reads the header as Python."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; then sync it and rename it to ``path``, so that readers see no partial file.

    A link at ``path`` is replaced, never followed. If writing fails, ``path`` is unchanged.
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
    """Write a text file atomically, see `replacing`.

    Raises: OSError: a full disk and the like.
    """
    data = text.encode("utf-8")
    with room_for(path.name, len(data), path.parent), replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk; Windows, which opens no folder, keeps them itself."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room_for(what: str, needed: int, folder: Path, *, then: str = "resume the run") -> Iterator[None]:
    """Turn the error of a full disk into an `OSError` that states how many bytes are needed and how many are free.

    It recognises system errors that a library rewords too ("... (os error 28)").

    Args:
        what: name of what is written.
        needed: number of bytes.
        folder: the folder that it is written to.
        then: what the user should do after making room.
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
    """Read one JSON object from an untrusted file.

    Args:
        path: a regular file, no link.
        fault: makes the error from its message.
        largest: maximum size in bytes.
    Raises: the error of ``fault``: not a regular file, too large, not JSON, nested too deep, a repeated name, NaN or
        infinite numbers, or not an object.
    """
    try:
        check_plain(path, fault)
        if path.stat().st_size > largest:
            raise ValueError(f"{path.stat().st_size} bytes exceed the limit of {largest}")
        return parse_object(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        if type(error) is fault:
            raise
        raise fault(f"{path} cannot be read: {error}") from error


def check_format(
    path: Path,
    facts: Mapping[str, Any],
    known: int,
    fault: Callable[[str], Exception] = ValueError,
    remedy: str = "; use the revgnn that wrote it",
) -> None:
    """Check the field ``format`` of a file that this package wrote.

    Args:
        path: for the message.
        facts: the file's content.
        known: the format that can be read.
        fault: makes the exception from the message.
        remedy: the end of the message.
    Raises: fault: the format is another, or there is none.
    """
    found = facts.get("format")
    if found != known:
        raise fault(f"{path} must have format {known}, got {found!r:.60}{remedy}")


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON object from untrusted text.

    Raises: ValueError: not one object, nested too deep, a repeated name, NaN or infinite numbers.
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
    """Turn a missing or mistyped field of a file's content into a `ValueError` that names the file or folder."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} lacks a part or has one of another kind ({error!r}); it is damaged, or of another revgnn"
        ) from error


def check_plain(path: Path, fault: Callable[[str], Exception] = ValueError) -> None:
    """Raise the error of ``fault`` unless ``path`` is a regular file: no link, no folder."""
    if path.is_symlink() or not path.is_file():
        raise fault(f"{path} must be a plain file; it is missing, a link or a folder")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions_of(*packages: str) -> dict[str, str | None]:
    """Return the versions of installed packages by name; ``None``: a source tree that was never installed."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number} bytes"
