"""Blocks that malloc has cached are withheld from what lives on; a process that grows gets its free memory back."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from revgnn import malloc
from revgnn.malloc import CachedBlocks, HeapLevel

pytestmark = pytest.mark.skipif(malloc._malloc() is None, reason="needs glibc's malloc")


def _take(size: int, count: int) -> set[int]:
    """Addresses of blocks that malloc hands out first; they are free again."""
    found = malloc._malloc()
    assert found is not None
    blocks = [found.malloc(size) for _ in range(count)]
    for block in blocks:
        found.free(block)
    return set(blocks)


@pytest.mark.parametrize("size", [440, 1032])
def test_what_is_allocated_inside_takes_no_block_that_was_freed_last(size: int) -> None:
    # Python takes a block of its own now and then.
    cached = _take(size, 7)
    assert len(_take(size, 7) & cached) > 4
    blocks = CachedBlocks(torch.empty(2**18))
    with blocks.withheld(), blocks.given_back():
        assert len(_take(size, 7) & cached) > 4
    assert len(_take(size, 7) & cached) > 4
    with CachedBlocks(torch.empty(4)).withheld():
        assert len(_take(size, 7) & cached) > 4, "for small tensors it is not worth the time"
    with blocks.withheld():
        assert len(_take(size, 7) & cached) < 3


def test_memory_is_returned_when_a_repetition_has_grown_by_two_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages, trims = tmp_path / "statm", list[bool]()
    monkeypatch.setattr(malloc, "_PAGES", pages)
    monkeypatch.setattr(malloc, "trim", lambda: trims.append(True))
    # Of 64 and of 10 pages; after each evaluation of a small state a trim would take longer than the evaluation.
    level, of_small = HeapLevel(torch.empty(64 * 1024)), HeapLevel(torch.empty(10 * 1024))
    for size, expected in ((500, 0), (628, 0), (629, 1), (250, 1), (378, 1), (379, 2), (200, 2), (329, 3)):
        pages.write_text(f"1000 {size} 0 0 0 0 0\n", encoding="ascii")
        level.check()
        of_small.check()
        assert len(trims) == expected, size


def test_trimming_gives_pages_back() -> None:
    found = malloc._malloc()
    assert found is not None
    blocks = [found.malloc(100_000) for _ in range(400)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    last = found.malloc(100_000)
    for block in blocks:
        found.free(block)
    before = int(malloc._PAGES.read_text(encoding="ascii").split()[1])
    malloc.trim()
    found.free(last)
    assert before - int(malloc._PAGES.read_text(encoding="ascii").split()[1]) > 5_000
