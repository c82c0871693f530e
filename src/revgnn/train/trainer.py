"""The training loop: epochs of steps, evaluation, selection of the best weights, checkpoints, a curve.

What is random in a step is a pure function of (seed, epoch, step), or comes from the global generators, whose states
the checkpoints hold: a resumed run takes the same steps. Of several ranks the first selects and writes.
"""

from __future__ import annotations

import itertools
import logging
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import set_seed
from torch import Tensor, nn

from ..data.batch import Batches
from ..launcher import restarted
from .averaging import averaged
from .checkpoint import CheckpointError, Snapshot, copy_weights, list_checkpoints, load_latest, restore, save, take
from .config import TrainConfig, as_json, check_as_many, check_same
from .curve import CURVE_FILE, Curve, Row, Score
from .distill import save_logits
from .distributed.fsdp import load_weights
from .distributed.ranks import Ranks, one_run, own_statistics
from .evaluate import evaluate, evaluating, is_better
from .interrupt import Interrupted, Interrupts
from .losses import choose_loss
from .metrics import tasks_of
from .model_hooks import ModelHooks
from .optim import learning_rate, make_optimizer, set_learning_rate
from .progress import Progress, Silent
from .result import FitResult
from .step import Stepper

_log = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    *,
    metric: str,
    final: Batches | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    memory: Callable[[], int] | None = None,
    configuration: Mapping[str, Any] | None = None,
    device: Literal["auto", "cpu"] = "auto",
    num_outputs: int | None = None,
) -> FitResult:
    """Train a model and leave the best weights in it.

    Seeds the global random generators with ``config.seed``. Writes ``curve.jsonl``, ``ckpt/`` and ``result.json``.

    Args:
        model: called as ``model(x, graph, edge_attr, seed=...)``; gives one row of logits per row of labels. It may be
            `ModelHooks`.
        batches: where the training and evaluation batches come from.
        metric: a key of `METRICS`. Where ``config`` names no loss, it is the default of the task that this judges.
        final: evaluates the selected weights once more, for the scores of the result; ``None``: they are those of the
            evaluation that selected.
        out: the run folder, made where missing; ``None`` writes nothing.
        resume: go on from the newest whole checkpoint in ``out``, or start where there is none.
        progress: told of every step and epoch; ``None`` is silence.
        memory: gives the peak bytes since it was last called; called before and after the steps of each epoch.
        configuration: the whole configuration of the run (model, data), JSON, kept in every checkpoint and compared on
            resuming; ``config`` stands in it as "train".
        device: "auto" is the first accelerator that Accelerate finds, or the CPU.
        num_outputs: T; only ``config.labels.reuse`` asks for it.
    Raises:
        ValueError: the loss does not go with the metric; the valid split has no rows or no defined value; the
            checkpoint is of another configuration.
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        ClaimedError: another run is writing to ``out``.
        FloatingPointError: a loss or gradient is not finite; the optimizer has not stepped.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written where ``out`` is given.
        LostRankError: another rank ended.
    """
    config = replace(config, loss=choose_loss(tasks_of(metric), config.loss))
    if resume and out is None:
        raise ValueError("resume=True needs out: the run folder to go on from")
    with one_run(out):
        resume = resume or (out is not None and restarted())
        if out is not None and not resume and (list_checkpoints(out) or (out / CURVE_FILE).exists()):
            raise FileExistsError(f"{out} already holds a run; resume it, or choose another folder")
        _check_wishes(config, batches, out, num_outputs)
        bf16 = config.precision == "bf16"
        ranks = Ranks.open(cpu=device == "cpu", bf16=bf16, accumulate=config.accumulate, parallel=config.parallel)
        ranks.check(len(batches))
        # Nobody writes before everybody has looked.
        ranks.wait()
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        warning = own_statistics(model, synchronise=config.sync_batchnorm)
        if warning is not None:
            _log.warning(warning)
        set_seed(config.seed)
        model.to(ranks.accelerator.device)
        run = _Fit(
            model=model,
            batches=batches,
            config=config,
            metric=metric,
            final=final,
            out=out,
            progress=progress if progress is not None and ranks.writes else Silent(),
            memory=memory,
            configuration=as_json(config, configuration),
            ranks=ranks,
            num_outputs=num_outputs or 0,
        )
        with ranks.together(), ranks.sharing_rows(model, synchronise=config.sync_batchnorm):
            if resume:
                run.resume()
            result = run.run()
            # What the first rank wrote is there for all of them.
            ranks.wait()
        return result


def _check_wishes(config: TrainConfig, batches: Batches, out: Path | None, num_outputs: int | None) -> None:
    if config.labels.reuse and num_outputs is None:
        raise ValueError("labels.reuse=True needs num_outputs: how many columns of labels stand beside the features")
    if config.keep_logits and (out is None or len(list(itertools.islice(batches.evaluate(), 2))) > 1):
        raise ValueError("keep_logits=True needs a run folder, and one whole graph as the batch; set it to False")


@dataclass(kw_only=True, eq=False)
class _Fit:
    """A run under way: what it was given, and where it stands."""

    model: nn.Module
    batches: Batches
    config: TrainConfig
    metric: str
    final: Batches | None
    out: Path | None
    progress: Progress
    memory: Callable[[], int] | None
    configuration: dict[str, Any]
    ranks: Ranks
    num_outputs: int

    epoch: int = 0
    """Epochs that are finished."""
    step: int = 0
    """Steps taken in the one after them; the three sums are over these."""
    loss_sum: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0
    """0: nothing was selected yet."""
    best_scores: dict[str, Score] = field(default_factory=dict)
    saved_at: tuple[int, int] | None = None
    """Epoch and step of the newest checkpoint."""
    saved_when: float = 0.0
    """When the minutes began that go by until the next one."""

    def __post_init__(self) -> None:
        trained = self.ranks.wrap(self.model)
        self.optimizer = make_optimizer(
            self.config.optimizer, self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        self.curve = Curve(self.out if self.ranks.writes else None)
        self.stepper = Stepper(self.model, trained, self.optimizer, self.config, self.ranks, self.num_outputs)

    # ------------------------------------------------------------------ the run
    def run(self) -> FitResult:
        self.saved_when = time.monotonic()
        self.progress.begin(
            epochs=self.config.epochs, steps=self.ranks.steps(len(self.batches)), done=self.epoch, metric=self.metric
        )
        try:
            with Interrupts(patient=self.ranks.size > 1) as interrupts:
                while self.epoch < self.config.epochs and not self._out_of_patience():
                    self._train_epoch(interrupts)
                    self._finish_epoch()
                    if self.config.checkpoint_every and self.epoch % self.config.checkpoint_every == 0:
                        self.save()
                    self._save_in_time(self.ranks.total(float(self._due()))[0] > 0)
                    if self.ranks.size == 1:
                        self._stop_if_asked(interrupts.signum)
                if self.best is None:
                    # Shortened on resuming to end where no evaluation was due.
                    self._select()
                self.save()
        finally:
            self.progress.end()
        assert self.best is not None, "the first selection takes whatever is defined, or raises"
        load_weights(self.model, self.best)
        if self.config.keep_logits:
            self._keep_logits()
        return self._result()

    def _train_epoch(self, interrupts: Interrupts) -> None:
        epoch = self.epoch + 1
        set_learning_rate(self.optimizer, self._lr(epoch))
        self.model.train()
        if isinstance(self.model, ModelHooks):
            self.model.begin_epoch(epoch)
        if self.memory is not None:
            self.memory()
        for rank_batches in self.ranks.place.training(
            self.batches.train(epoch), accumulate=self.ranks.accumulate, done=self.step
        ):
            started = time.perf_counter()
            taken = self.stepper.step(
                rank_batches,
                epoch=epoch,
                step=self.step + 1,
                asked=lambda: interrupts.signum is not None,
                due=self._due,
            )
            self.seconds += time.perf_counter() - started
            self.step += 1
            self.loss_sum += taken.loss * taken.rows
            self.rows += taken.rows
            self.progress.step(epoch=epoch, step=self.step, loss=taken.loss)
            self._save_in_time(taken.due)
            if self.ranks.size == 1:
                self._stop_if_asked(interrupts.signum)
            elif taken.asked:
                # A rank that heard nothing stops with those that did, after the same step.
                self._stop_if_asked(interrupts.signum or signal.SIGTERM)

    def _keep_logits(self) -> None:
        assert self.out is not None, "fit() has checked it"
        with evaluating(self.model), self.ranks.evaluating(self.model):
            if self.ranks.writes:
                (batch,) = self.batches.evaluate()
                save_logits(self.out, self.stepper.forward(batch)[0], batch.ids)

    def _finish_epoch(self) -> None:
        memory = None if self.memory is None else self.memory()
        observed = self.model.observe() if isinstance(self.model, ModelHooks) else {}
        self.epoch += 1
        scores = None
        if self.epoch % self.config.eval_every == 0 or self.epoch == self.config.epochs:
            scores = self._select()
        row = Row(
            epoch=self.epoch,
            lr=self._lr(self.epoch),
            loss=self.loss_sum / max(self.rows, 1),
            steps=self.step,
            seconds=self.seconds,
            memory=memory,
            scores=scores,
            observed=observed,
        )
        self.step, self.loss_sum, self.rows, self.seconds = 0, 0.0, 0, 0.0
        self.curve.append(row)
        self.progress.epoch(row)

    def _evaluate(self, batches: Batches) -> dict[str, Score]:
        forward = self.stepper.forward
        return evaluate(
            self.model, batches, loss=self.stepper.loss, metric=self.metric, forward=forward, ranks=self.ranks
        )

    def _select(self) -> dict[str, Score]:
        """Score the weights, or their mean where one is asked for, and keep them where they are the best so far."""
        with averaged(self.optimizer):
            scores = self._evaluate(self.batches)
            if is_better(scores, self.best_scores, metric=self.metric, config=self.config, epoch=self.epoch):
                self.best, self.best_epoch, self.best_scores = copy_weights(self.model), self.epoch, scores
        return scores

    # ------------------------------------------------------------------ stopping and going on
    def _out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience

    def _stop_if_asked(self, signum: int | None) -> None:
        if signum is None:
            return
        where = f"stopped after epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")
        if self.out is None:
            raise Interrupted(f"{where}; nothing was kept, because the run has no folder", signum)
        self.save()
        self.ranks.wait()
        raise Interrupted(f"{where}; the checkpoint is in {self.out}: resume the run to go on", signum)

    def save(self) -> None:
        """Write a checkpoint, unless the newest one is of this very place."""
        if self.out is None or self.saved_at == (self.epoch, self.step):
            return
        self.saved_at = self.epoch, self.step
        if not self.ranks.writes and self.ranks.sharded is None:
            return
        self.curve.sync()
        progress = {
            "best_epoch": self.best_epoch,
            "best_scores": self.best_scores,
            "loss_sum": self.loss_sum,
            "rows": self.rows,
            "seconds": self.seconds,
            "batches_per_step": self.ranks.batches_per_step,
        }
        snapshot = take(
            self.model,
            self.optimizer,
            epoch=self.epoch,
            step=self.step,
            best=self.best,
            progress=progress,
            config=self.configuration,
        )
        if self.ranks.writes:
            save(self.out, snapshot, keep=self.config.keep_checkpoints)

    def _due(self) -> bool:
        """Whether the minutes have gone by, on the rank that writes."""
        minutes = self.config.checkpoint_minutes
        if self.out is None or not minutes or not self.ranks.writes:
            return False
        return time.monotonic() - self.saved_when >= 60 * minutes

    def _save_in_time(self, due: bool) -> None:
        """Write a checkpoint wherever the epoch stands; ranks must be told alike, for each may hold a shard."""
        if due:
            self.saved_when = time.monotonic()
            self.save()

    def resume(self) -> None:
        """Take up the newest whole checkpoint, or begin where there is none."""
        assert self.out is not None, "fit() has checked it"
        snapshot = load_latest(self.out)
        if snapshot is None:
            _log.warning("%s holds no checkpoint: the run starts from the beginning", self.out)
            self.curve.resume(0)
            return
        check_same(snapshot.config, self.configuration)
        if (snapshot.epoch, snapshot.step) > (self.config.epochs, 0):
            raise ValueError(
                f"epochs={self.config.epochs} is less than the {snapshot.epoch} that {self.out} has run; raise it"
            )
        check_as_many(snapshot.progress.get("batches_per_step", 1), self.ranks.batches_per_step)
        restore(snapshot, self.model, self.optimizer)
        self._take_up(snapshot)
        self.curve.resume(self.epoch)
        _log.info("%s: going on after epoch %d, step %d", self.out, self.epoch, self.step)

    def _take_up(self, snapshot: Snapshot) -> None:
        progress = snapshot.progress
        try:
            self.best_epoch, self.best_scores = int(progress["best_epoch"]), progress["best_scores"]
            self.loss_sum, self.rows = float(progress["loss_sum"]), int(progress["rows"])
            self.seconds = float(progress["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint of {self.out} does not say where the run stood: {error!r}"
            ) from error
        self.epoch, self.step, self.best = snapshot.epoch, snapshot.step, snapshot.best
        self.saved_at = self.epoch, self.step

    # ------------------------------------------------------------------ small answers
    def _lr(self, epoch: int) -> float:
        config = self.config
        return learning_rate(
            epoch, lr=config.lr, epochs=config.epochs, warmup_epochs=config.warmup_epochs, schedule=config.schedule
        )

    def _result(self) -> FitResult:
        rows = self.curve.rows
        peaks = [row["memory"] for row in rows if row["memory"] is not None]
        result = FitResult(
            metric=self.metric,
            best_epoch=self.best_epoch,
            scores=self.best_scores if self.final is None else self._evaluate(self.final),
            selection=self.best_scores,
            epochs=self.epoch,
            steps=sum(row["steps"] for row in rows),
            stopped="finished" if self.epoch >= self.config.epochs else "patience",
            seconds_per_step=statistics.median(row["seconds"] / max(row["steps"], 1) for row in rows),
            peak_memory=max(peaks, default=None),
            parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            device=str(self.ranks.accelerator.device),
            precision=self.config.precision,
            curve=rows,
        )
        if self.out is not None and self.ranks.writes:
            result.write(self.out)
        return result
