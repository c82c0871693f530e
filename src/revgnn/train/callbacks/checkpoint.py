"""Decides when a run writes a checkpoint, and resumes from one; `train.checkpoint` defines the format."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..checkpoint import CheckpointError, Progress, Snapshot, load_latest, restore, save, take
from ..config import as_json, check_as_many, check_same
from .callback import Callback, TrainState

_log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Writes checkpoints into the run folder every few epochs and minutes; without a folder, writes none.

    Args:
        configuration: the whole configuration of the run (model, data) as JSON, with the `TrainConfig` under "train".
            It is saved in every checkpoint and compared on resuming.

    Examples:
        >>> from pathlib import Path
        >>> import revgnn
        >>> from revgnn.train import Checkpoints, load_latest
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=2), data.info)
        >>> result = revgnn.fit(
        ...     model, revgnn.make_batches(data), revgnn.TrainConfig(epochs=2), metric="accuracy", out=Path("runs/own"),
        ...     callbacks=[Checkpoints()]
        ... )
        >>> load_latest(Path("runs/own")).epoch
        2
    """

    every_rank = True

    def __init__(self, configuration: Mapping[str, object] | None = None) -> None:
        self._configuration = configuration
        self._saved_at: tuple[int, int] | None = None
        """Epoch and step of the newest checkpoint."""
        self._waited_since = 0.0
        """Time of the last checkpoint, or of the start."""

    def on_start(self, run: TrainState) -> None:
        """Start the timer."""
        self._waited_since = time.monotonic()

    def on_step_end(self, run: TrainState) -> None:
        """Request a checkpoint after ``checkpoint_minutes``, on the rank that writes; all ranks handle the request."""
        minutes = run.config.checkpoint_minutes
        if run.out is None or not minutes or not run.ranks.writes:
            return
        now = time.monotonic()
        if now - self._waited_since >= 60 * minutes:
            self._waited_since, run.requests.checkpoint = now, True

    def on_epoch_end(self, run: TrainState) -> None:
        """Request a checkpoint also after ``checkpoint_every`` epochs."""
        self.on_step_end(run)
        if run.config.checkpoint_every and run.epoch % run.config.checkpoint_every == 0:
            run.requests.checkpoint = True

    def on_checkpoint(self, run: TrainState) -> None:
        """Write a checkpoint, unless the newest one has the same epoch and step."""
        if run.out is None or self._saved_at == (run.epoch, run.step):
            return
        self._saved_at = run.epoch, run.step
        if not run.ranks.writes and run.ranks.sharded is None:
            return
        run.curve.sync()
        progress: Progress = {
            "best_epoch": run.best_epoch,
            "best_scores": run.best_scores,
            "loss_sum": run.loss_sum,
            "rows": run.rows,
            "seconds": run.seconds,
            "batches_per_step": run.ranks.batches_per_step,
            "callbacks": {name: state for name, one in _named(run) if (state := one.state_dict())},
        }
        snapshot = take(
            run.model,
            run.optimizer,
            epoch=run.epoch,
            step=run.step,
            best=run.best,
            progress=progress,
            config=as_json(run.config, self._configuration),
        )
        if run.ranks.writes:
            save(run.out, snapshot, keep=run.config.keep_checkpoints)

    def on_end(self, run: TrainState) -> None:
        """Forget the position of the newest checkpoint, because another run may reach the same position."""
        self._saved_at = None

    def resume(self, run: TrainState, out: Path) -> None:
        """Resume from the newest intact checkpoint in the run folder ``out``, or start if there is none.

        Raises: ValueError: the checkpoint has another configuration; CheckpointError: every checkpoint is damaged.
        """
        snapshot = load_latest(out)
        if snapshot is None:
            _log.warning("%s holds no checkpoint: the run starts from the beginning", out)
            run.curve.resume(0)
            return
        check_same(snapshot.config, as_json(run.config, self._configuration))
        if (snapshot.epoch, snapshot.step) > (run.config.epochs, 0):
            raise ValueError(
                f"epochs={run.config.epochs} is less than the {snapshot.epoch} that {out} has run; raise it"
            )
        check_as_many(snapshot.progress.get("batches_per_step", 1), run.ranks.batches_per_step)
        restore(snapshot, run.model, run.optimizer)
        _take_up(snapshot, run, out)
        self._saved_at = run.epoch, run.step
        run.curve.resume(run.epoch)
        _log.info("%s: going on after epoch %d, step %d", out, run.epoch, run.step)


def _take_up(snapshot: Snapshot, run: TrainState, out: Path) -> None:
    """Restore the position and the counters of a run."""
    progress = snapshot.progress
    try:
        run.best_epoch, run.best_scores = int(progress["best_epoch"]), progress["best_scores"]
        run.loss_sum, run.rows = float(progress["loss_sum"]), int(progress["rows"])
        run.seconds = float(progress["seconds"])
        states = dict(progress.get("callbacks", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint of {out} does not say where the run stood: {error!r}") from error
    run.epoch, run.step, run.best = snapshot.epoch, snapshot.step, snapshot.best
    for name, callback in _named(run):
        if name in states:
            callback.load_state_dict(states[name])


def _named(run: TrainState) -> Iterator[tuple[str, Callback]]:
    """Return class name -> callback; the second callback of a class and later ones get a number."""
    seen: Counter[str] = Counter()
    for callback in run.callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), callback
