"""Lock a run folder with flock, so that one process at a time writes to it; the lock ends with its process.

The locked file names its owner: host, process, start time. The operating system releases the lock however the owner
ends, even by ``kill -9``, so that a crashed run can always be resumed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)

_NAME = ".claim"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_SECONDS_BETWEEN_TRIES = 0.1
_SECONDS_TO_MAKE_A_FILE = 2.0
"""Time within which a folder that other owners make and remove is there for long enough."""
_SECONDS_TO_WRITE_OWNER = 0.5
"""Time within which a new owner writes its name into the file."""

_held: dict[Path, tuple[int, int]] = {}
"""Lock file -> its descriptor and the thread that holds it."""
_without_locks: set[int] = set()
"""File systems without locks that were warned about."""


class ClaimedError(OSError):
    """Another process is writing to the same path."""


@contextmanager
def claimed(path: Path, *, beside: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Hold the exclusive lock of a path inside the context.

    The lock is reentrant within a thread. On a file system, or a system, without locks it warns once and does not lock.

    Args:
        path: a folder; created if missing, and removed again if it stays empty.
        beside: lock the file ``.NAME.claim`` next to the path instead of ``.claim`` in it: for a file, or for a folder
            that is replaced as a whole.
        patience: seconds to wait for another process.
    Raises: ClaimedError: another process or thread holds the lock; the message names it, its start time and remedies.
    """
    path = Path(os.path.abspath(path))
    file = path.with_name(f".{path.name}{_NAME}") if beside else path.resolve() / _NAME
    me = threading.get_ident()
    if file in _held and _held[file][1] == me:
        yield
        return
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        descriptor = _take(file, path, time.monotonic() + patience)
        _held[file] = descriptor, me
        try:
            yield
        finally:
            # A forked child does not hold its parent's locks.
            if _held.pop(file, None) is not None:
                _release(file, descriptor)
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Open a text file for appending under an exclusive lock; other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        _is_locked(file.fileno(), path, wait=True)
        yield file


def _take(file: Path, path: Path, until: float) -> int:
    """Open and lock the file, which another owner may remove at any moment, and write the owner into it."""
    waits, begin = False, time.monotonic()
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_symlink():
                # Links in a run folder are replaced, never followed.
                file.unlink(missing_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o666)
        except (FileNotFoundError, FileExistsError):
            # Another owner has just removed the folder that it had created, or did so between the two looks of mkdir,
            # which found it and then found no folder. A place such as /proc says so for ever, and so does a file.
            is_file = file.parent.exists() and not file.parent.is_dir()
            if is_file or time.monotonic() > begin + _SECONDS_TO_MAKE_A_FILE:
                raise
            continue
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileExistsError(f"{file} must be a regular file; remove it")
            if _is_locked(descriptor, file, wait=False):
                if _is_at(file, descriptor):
                    _write_owner(descriptor)
                    return descriptor
            elif time.monotonic() >= until:
                raise ClaimedError(_refusal(path, file, _read_owner(descriptor)))
            elif not waits:
                waits = True
                _log.info("waiting for another process, which writes to %s", path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _is_locked(descriptor: int, file: Path, *, wait: bool) -> bool:
    """Lock an open file; return False if another process holds the lock."""
    try:
        if sys.platform == "win32":
            raise OSError(errno.ENOSYS, "no flock on Windows")
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        device = os.fstat(descriptor).st_dev
        if device not in _without_locks:
            _without_locks.add(device)
            _log.warning(
                "the file system of %s has no locks (%s): take care that no two processes write into one folder there",
                file,
                error.strerror,
            )
    return True


def _is_at(file: Path, descriptor: int) -> bool:
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.lstat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(file: Path, descriptor: int) -> None:
    # Removed while locked: a process that has opened it meanwhile sees that the path no longer refers to it.
    if _is_at(file, descriptor):
        with suppress(OSError):
            file.unlink()
    os.close(descriptor)


def _write_owner(descriptor: int) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    # On a full disk the lock holds without its owner's name.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, owner.encode())


def _read_owner(descriptor: int) -> dict[str, object]:
    until = time.monotonic() + _SECONDS_TO_WRITE_OWNER
    while True:
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            owner = json.loads(os.read(descriptor, 4096))
        except ValueError:
            owner = None
        if isinstance(owner, dict) and all(str(value).isprintable() for value in owner.values()):
            return owner
        if time.monotonic() >= until:
            return {}
        time.sleep(_SECONDS_TO_WRITE_OWNER / 10)


def _refusal(path: Path, file: Path, owner: dict[str, object]) -> str:
    if not owner.keys() >= {"host", "pid", "since"}:
        return f"{path} is in use: another process writes to it. Wait until it has ended, or choose another place"
    host, here = owner["host"], socket.gethostname()
    message = (
        f"{path} is in use: process {owner['pid']} on {host} has been writing to it since {owner['since']}. "
        "Wait until it has ended, stop it, or choose another place"
    )
    if host == here:
        return message
    return (
        f"{message}. If {host} has crashed, its lock ends when the file system notices, which takes NFS some minutes; "
        f"if it never does, remove {file}"
    )


def _forget() -> None:
    """Close the parent's locks in a forked child, which would otherwise hold them as long as it lives."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
