"""Of two ranks under torchrun one speaks: every line comes once, and an error says on which rank it happened.

The file is its own worker: the command line, with something done to every training step.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rank_jobs import launch
from revgnn.cli import main
from revgnn.files import read_object
from revgnn.train import read_curve
from revgnn.train.step import Stepper

pytestmark = pytest.mark.slow

SETTINGS = (
    *("model.num_layers=4", "model.hidden_channels=8", "loader.kind=random", "loader.num_parts=5"),
    *("train.eval_every=1", "train.patience=none", "train.checkpoint_every=1"),
)


def job(deed: str, out: Path, *words: str, epochs: int = 2) -> tuple[int, Counter[str]]:
    """Train on two ranks; give torchrun's status and how often each line was said that is not torchrun's own."""
    settings = (word for setting in (*SETTINGS, f"train.epochs={epochs}") for word in ("--set", setting))
    # Not told to compute on the CPU: it is all there is.
    status, said = launch(
        __file__, deed, "train", "digits/revgnn", "--out", out, *settings, *words, CUDA_VISIBLE_DEVICES=""
    )
    return status, Counter(line for line in said.partition("torch/distributed/elastic")[0].splitlines() if line.strip())


def starting(lines: Counter[str], text: str) -> list[int]:
    return [count for line, count in lines.items() if text in line]


def test_every_line_comes_once_and_the_error_of_one_rank_with_its_number(tmp_path: Path) -> None:
    status, lines = job("talk", tmp_path / "run")
    assert status == 0, lines
    assert set(lines.values()) == {1}, lines
    for text in (
        "valid accuracy [%]",
        "run: epoch 2/2",
        "ops on cpu",
        "UserWarning: a",
        "a log",
        "a word of another's",
    ):
        assert starting(lines, text) == [1], text
    assert read_object(tmp_path / "run" / "run.json")["ranks"] == 2
    assert [row["steps"] for row in read_curve(tmp_path / "run" / "curve.jsonl")] == [3, 3]
    status, lines = job("fail on 1", tmp_path / "run", "--resume", epochs=3)
    assert status != 0
    assert set(lines.values()) == {1}, lines
    assert starting(lines, "going on after epoch 2") == [1]
    assert starting(lines, "revgnn: error on rank 1 of 2: out of memory (too little memory)") == [1]


@pytest.mark.parametrize("why", ["the loss is", "already holds a run"])
def test_what_goes_wrong_on_all_ranks_is_said_once(tmp_path: Path, why: str) -> None:
    if why == "already holds a run":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "curve.jsonl").touch()
    status, lines = job("nothing", tmp_path / "run", "--set", "train.lr=1e30")
    assert status != 0
    assert starting(lines, "revgnn: error on rank") == starting(lines, why) == [1], lines


def work(deed: str, *words: str) -> int:
    """One rank: the command line, where every step of training talks or one fails."""
    rank, step = os.environ["RANK"], Stepper.step

    def disturbed(self: Stepper, *arguments: Any, **named: Any) -> Any:
        if deed == "talk" and (named["epoch"], named["step"]) == (1, 2):
            warnings.warn("a warning", UserWarning, stacklevel=1)
            logging.getLogger("revgnn.train").warning("a log")
            logging.getLogger("accelerate").warning("a word of another's")
        if deed == f"fail on {rank}" and named["step"] == 2:
            raise MemoryError("too little memory")
        return step(self, *arguments, **named)

    with patch.object(Stepper, "step", disturbed):
        return main(words)


if __name__ == "__main__":
    sys.exit(work(*sys.argv[1:]))
