"""The folder of a prepared graph: written complete or not at all, and every file checked by its size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...files import sync
from .manifest import MANIFEST, Manifest, StoreError, read_manifest
from .part import check_size, file_names, part_folder


@contextmanager
def new_store(out: Path) -> Iterator[Path]:
    """Context with a temporary folder to write a graph into; on success it becomes ``out``, otherwise it is deleted.

    Write the parts with `part.write_part`, then the manifest with `manifest.write_manifest`.

    Args:
        out: a path that does not exist, or an empty folder.
    Raises:
        FileExistsError: ``out`` exists and is not empty.
        StoreError: the written graph is incomplete.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise FileExistsError(f"{out} exists already; remove it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".writing-{out.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        open_manifest(temporary)
        for folder in (*(temporary / "parts").iterdir(), temporary / "parts", temporary):
            sync(folder)
        os.replace(temporary, out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def is_store(folder: Path) -> bool:
    """Whether a folder has the manifest of a prepared graph.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.data import is_store
        >>> is_store(Path("graph")), is_store(Path("runs/first"))
        (True, False)
    """
    return (folder / MANIFEST).is_file()


def open_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared graph and check the size of every file.

    Raises:
        FileNotFoundError: the folder is not a prepared graph.
        StoreError: the manifest is invalid, or a file is missing or has another size.
    Cost: one ``stat`` call per file.
    """
    manifest = read_manifest(folder)
    names = file_names(manifest)
    for number, part in enumerate(manifest.parts):
        if set(part.files) != names:
            raise StoreError(
                f"{folder / MANIFEST}: parts[{number}] must have the files {', '.join(sorted(names))}, got "
                f"{', '.join(map(repr, sorted(part.files)))[:200]}"
            )
        for name, facts in part.files.items():
            check_size(part_folder(folder, number) / name, facts)
    return manifest
