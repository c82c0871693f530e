"""Callbacks: when the loop tells them what, what a checkpoint keeps of them, and how they ask for something."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from revgnn.train import Callback, Interrupted, MemoryRecorder, TrainState, load_latest
from revgnn.train.model_hooks import ModelHooks
from revgnn.train.signals import Interrupts
from toy_run import CONFIG, Redrawn, Toy, assert_same_run, fit_toy

SHORT = replace(CONFIG, epochs=2, warmup_epochs=0, checkpoint_every=None, eval_every=2)


class Heard(Callback):
    """Notes what it is told, and where the run stands."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.places: list[tuple[int, int]] = []

    def _note(self, name: str, run: TrainState) -> None:
        self.notes.append(name)
        self.places.append((run.epoch, run.step))

    def on_start(self, run: TrainState) -> None:
        self._note("start", run)

    def on_epoch_start(self, run: TrainState) -> None:
        self._note("epoch", run)

    def on_step_end(self, run: TrainState) -> None:
        self._note("step", run)

    def on_steps_end(self, run: TrainState) -> None:
        self._note("steps over", run)

    @contextmanager
    def around_evaluation(self, run: TrainState) -> Iterator[None]:
        self._note("evaluation", run)
        yield
        self._note("evaluation over", run)

    def on_epoch_end(self, run: TrainState) -> None:
        assert run.row["epoch"] == run.epoch
        self._note("epoch over", run)

    def on_checkpoint(self, run: TrainState) -> None:
        self._note("checkpoint", run)

    def on_end(self, run: TrainState) -> None:
        self._note("end", run)

    def on_selected(self, run: TrainState) -> None:
        self._note("selected", run)


def test_what_is_told_in_which_order(tmp_path: Path) -> None:
    heard = Heard()
    fit_toy(tmp_path, SHORT, callbacks=[heard])
    steps = ["epoch", "step", "step", "step", "steps over"]
    last = ["evaluation", "evaluation over", "epoch over", "checkpoint", "end", "selected"]
    assert heard.notes == ["start", *steps, "epoch over", *steps, *last]
    assert [place for note, place in zip(heard.notes, heard.places, strict=True) if note == "step"] == [
        (epoch, step) for epoch in range(2) for step in (1, 2, 3)
    ]


class Counts(Callback):
    """Counts steps over all resumptions, and asks for something at one of them."""

    def __init__(self, ask: str | None = None, at: int = 0, *, steps: int = 0) -> None:
        self.steps, self.ask, self.at = steps, ask, at

    def on_step_end(self, run: TrainState) -> None:
        self.steps += 1
        if self.steps == self.at:
            setattr(run.requests, str(self.ask), {"stop": signal.SIGINT, "checkpoint": True}[str(self.ask)])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def test_a_callback_can_stop_a_run_that_resumes_with_what_it_kept(tmp_path: Path) -> None:
    fit_toy(tmp_path / "whole", SHORT, callbacks=[Counts()])
    with pytest.raises(Interrupted, match="after epoch 1 and 1 steps; the checkpoint is in") as stopped:
        fit_toy(tmp_path / "cut", SHORT, callbacks=[Counts("stop", 4), Counts(steps=100)])
    assert stopped.value.signum == signal.SIGINT
    again, second = Counts(), Counts()
    fit_toy(tmp_path / "cut", SHORT, callbacks=[again, second], resume=True)
    assert (again.steps, second.steps) == (6, 106)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    # One that the checkpoint knows nothing of begins anew.
    other = Heard()
    fit_toy(tmp_path / "cut", SHORT, callbacks=[other], resume=True)
    assert other.notes == ["start", "checkpoint", "end", "selected"]


def test_a_callback_can_ask_for_a_checkpoint_within_an_epoch(tmp_path: Path) -> None:
    heard = Heard()
    fit_toy(tmp_path, SHORT, callbacks=[Counts("checkpoint", 2), heard])
    places = [place for note, place in zip(heard.notes, heard.places, strict=True) if note == "checkpoint"]
    assert places == [(0, 2), (2, 0)]
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["epoch-000000-step-000002", "epoch-000002"]


def test_an_error_ends_every_callback_and_gives_signals_back(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_epoch_end(self, run: TrainState) -> None:
            raise KeyError("on the way")

        def on_end(self, run: TrainState) -> None:
            raise RuntimeError("at the end")

    first, last, before = Heard(), Heard(), signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="at the end"):
        fit_toy(tmp_path, SHORT, callbacks=[first, Fails(), last])
    assert first.notes[-1] == last.notes[-1] == "end"
    assert signal.getsignal(signal.SIGINT) is before and not Interrupts._open


class TwoPhases(Toy):
    """Goes over to another way of computing, with a larger tensor in it, in its third epoch."""

    def begin_epoch(self, epoch: int) -> str:
        self.wide = epoch > 2
        return "wide" if self.wide else "narrow"

    def auxiliary_loss(self, loss: Callable[[Tensor], Tensor]) -> Tensor | None:
        return None

    def observe(self) -> dict[str, float]:
        return {}

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        spread = x.repeat(1, 4_000 if self.wide else 1)
        return super().forward(spread[:, :4], *arguments, **options)


def test_memory_is_recorded_again_in_the_phase_that_a_model_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toy_run.Toy", TwoPhases)
    assert isinstance(TwoPhases(), ModelHooks)
    recorder = MemoryRecorder()
    # Three steps of an epoch: the first four are recorded, and four more of the other phase.
    result = fit_toy(tmp_path, replace(SHORT, epochs=4), batches=Redrawn(), callbacks=[recorder])
    narrow, same, wide, last = (row["memory"] for row in result.curve)
    assert narrow is not None and same is not None and wide is not None
    assert narrow <= same < wide - 33 * 4 * 3_000 * 4 and last == wide
    assert recorder.how is not None
    assert "first 4 training step(s) and 4 of another way" in recorder.how
    saved = load_latest(tmp_path)
    assert saved is not None and "callbacks" in saved.progress
