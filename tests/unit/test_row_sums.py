"""Sums of rows by number: the same in memory and in a file, in whatever order the rows come."""

from __future__ import annotations

import os

import pytest
import torch

from revgnn.train.row_sums import RowArray, Sums


@pytest.mark.parametrize("in_memory", [0, 200, 2**20])
def test_means_of_rows_that_come_in_any_order(in_memory: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sums, total, count = Sums(3, in_memory), torch.zeros(70, 3), torch.zeros(70)
    for _ in range(9):
        ids = torch.randperm(70, generator=generator)[:20]
        ids = ids[ids % 5 != 0]
        rows = torch.rand(ids.numel(), 3, generator=generator)
        sums.add(ids, rows)
        total[ids] += rows
        count[ids] += 1
    came = count.nonzero()[:, 0]
    found = [sums.means(low, low + 16) for low in range(0, len(sums), 16)]
    assert torch.cat([ids for ids, _ in found]).tolist() == came.tolist()
    torch.testing.assert_close(torch.cat([means for _, means in found]), total[came] / count[came, None])


def test_rows_move_to_a_file_where_they_are_many() -> None:
    rows = RowArray(2, torch.float32, in_memory=64)
    rows.reach(4)[:] = 1.0
    assert rows._file is None
    more = rows.reach(50)
    assert rows._file is not None
    assert more[:4].eq(1.0).all()
    assert more[4:].eq(0.0).all()
    more[49] = 7.0
    assert rows.reach(500)[49].eq(7.0).all()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take room ahead")
def test_a_file_has_its_room_before_it_is_written_to() -> None:
    rows = RowArray(2, torch.float32, in_memory=64)
    rows.reach(100_000)
    assert rows._file is not None
    assert os.fstat(rows._file.fileno()).st_blocks * 512 >= 100_000 * 2 * 4


def test_a_full_disk_is_an_error_that_names_the_folder(small_disk: None) -> None:
    with pytest.raises(OSError, match=r"a temporary file of sums needs .* are free; make room, .* TMPDIR"):
        RowArray(2, torch.float32, in_memory=64).reach(1_000)
