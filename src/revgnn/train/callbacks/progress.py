"""Shows the progress of a run: a progress bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from .callback import Callback, TrainState


class ProgressBar(Callback):
    """Shows loss, valid metric, peak memory and the remaining time.

    On a terminal it is a bar that advances with every step. Elsewhere it prints one line per tenth of the run, at most
    one every ten seconds except for the last, and at least one every five minutes, also within an epoch.

    Args:
        label: text at the left, such as the name of the model.
        console: output; ``None``: standard error, because standard output is for results.

    Examples:
        >>> from revgnn.train import ProgressBar
        >>> callbacks = [ProgressBar("karate")]  # for ``fit`` and ``run_experiment``
    """

    SECONDS_BETWEEN_LINES = 10.0
    SECONDS_OF_SILENCE = 300.0
    WIDTH_OF_ALL = 120
    """Terminal width in columns below which the elapsed time is left out, and the labels of the facts are short."""
    WIDTH_OF_LABELS = 70
    """Terminal width in columns below which only count, loss, metric, memory and remaining time appear, unlabelled."""

    def __init__(self, label: str = "train", console: Console | None = None) -> None:
        self.label = label
        self.console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._epochs = self._steps = 1
        self._metric = "metric"
        self._valid: float | None = None
        self._memory: int | None = None
        self._observed: dict[str, float] = {}
        self._began = self._last_line = 0.0
        self._done = self._lines_done = 0

    def __getstate__(self) -> dict[str, object]:
        # A console belongs to its process: a copy of the callback writes to standard error.
        return {**self.__dict__, "console": None, "_bar": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, console=Console(stderr=True))

    def on_start(self, run: TrainState) -> None:
        """Open the bar."""
        epochs, done = run.config.epochs, run.epoch
        self._epochs, self._steps, self._metric = epochs, max(run.steps_per_epoch, 1), run.metric
        self._done, self._lines_done, self._valid = done, done * 10 // epochs, None
        self._began, self._last_line = time.monotonic(), float("-inf")
        if not self.console.is_terminal:
            return
        facts = TextColumn("{task.fields[facts]}", markup=False)
        if self._is_within(self.WIDTH_OF_LABELS):
            self._bar = RichProgress(MofNCompleteColumn(), facts, TimeRemainingColumn(), console=self.console)
        elif self._is_within(self.WIDTH_OF_ALL):
            label = Column(max_width=self.console.width // 5, no_wrap=True, overflow="ellipsis")
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False, table_column=label),
                BarColumn(bar_width=None),
                facts,
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                expand=True,
            )
        else:
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                facts,
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
        self._bar.start()
        self._task = self._bar.add_task(
            self.label, total=epochs * self._steps, completed=done * self._steps, facts="starting"
        )

    def on_step_end(self, run: TrainState) -> None:
        """Advance the bar by one step."""
        facts = self._facts(run.epoch + 1, run.loss)
        if self._bar is not None:
            self._bar.update(self._task, completed=run.epoch * self._steps + run.step, facts=facts)
        elif run.step < self._steps and self._is_silent():
            self._last_line = time.monotonic()
            left = self._left(run.epoch + run.step / self._steps)
            self._say(f"step {run.step}/{self._steps}, {facts}, {left}")

    def on_epoch_end(self, run: TrainState) -> None:
        """Show the scores of an epoch."""
        row = run.row
        scores = row["scores"]
        if scores is not None and "valid" in scores:
            self._valid = scores["valid"]["metric"]
        self._memory = self._memory if row["memory"] is None else row["memory"]
        self._observed = row["observed"]
        facts = self._facts(row["epoch"], row["loss"])
        if self._bar is not None:
            self._bar.update(self._task, completed=row["epoch"] * self._steps, facts=facts)
        elif self._line_is_due(row["epoch"]):
            self._say(f"{facts}, {self._left(row['epoch'])}")

    def on_end(self, run: TrainState) -> None:
        """Close the bar and leave its last state on screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        self.console.print(f"{self.label}: {text}", markup=False, highlight=False)

    def _is_within(self, width: int) -> bool:
        """Whether this is a terminal of less than ``width`` columns."""
        return self.console.is_terminal and self.console.width < width

    def _facts(self, epoch: int, loss: float) -> str:
        if self._is_within(self.WIDTH_OF_LABELS):
            valid = "" if self._valid is None else f" {self._valid:.3f}"
            return f"{loss:.3f}{valid}" + ("" if self._memory is None else f" {self._memory / 2**20:.0f} MiB")
        if self._is_within(self.WIDTH_OF_ALL):
            score = "" if self._valid is None else f", valid {self._valid:.4g}"
            return f"epoch {epoch}/{self._epochs}, loss {loss:.3g}{score}"
        facts = [f"epoch {epoch}/{self._epochs}", f"loss {loss:.4f}"]
        if self._valid is not None:
            facts.append(f"valid {self._metric} {self._valid:.4f}")
        if self._memory is not None:
            facts.append(f"memory {self._memory / 2**20:.0f} MiB")
        facts += [f"{name} {value:.2g}" for name, value in self._observed.items() if name.endswith("residual")]
        return ", ".join(facts)

    def _line_is_due(self, epoch: int) -> bool:
        tenths, now = epoch * 10 // self._epochs, time.monotonic()
        due = tenths > self._lines_done and now - self._last_line >= self.SECONDS_BETWEEN_LINES
        if due or self._is_silent() or epoch == self._epochs:
            self._lines_done, self._last_line = tenths, now
            return True
        return False

    def _is_silent(self) -> bool:
        return time.monotonic() - max(self._began, self._last_line) >= self.SECONDS_OF_SILENCE

    def _left(self, epochs: float) -> str:
        """Estimate the remaining time from the time of the ``epochs`` so far (fractions allowed)."""
        per_epoch = (time.monotonic() - self._began) / (epochs - self._done)
        seconds = round(per_epoch * (self._epochs - epochs))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d} left"
