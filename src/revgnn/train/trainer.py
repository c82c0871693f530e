"""The training loop: steps, evaluation and selection of the best weights; callbacks do everything else.

A step's random choices are a pure function of (seed, epoch, step) or come from the global generators, whose states are
in the checkpoints, so a resumed run takes the same steps. With several ranks, the first one selects and writes.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from accelerate.utils import set_seed
from torch import Tensor, nn

from ..data.batch import Batches
from ..data.task import TargetScale
from ..launcher import restarted
from .callbacks.callback import Callback, TrainState
from .callbacks.checkpoint import Checkpoints
from .callbacks.ema import WeightAverage
from .callbacks.interrupt import StopOnSignal
from .callbacks.selected import KeepLogits
from .checkpoint import copy_weights, list_checkpoints
from .config import TrainConfig
from .curve import CURVE_FILE, Curve, Row, Score
from .device import Device, check_device
from .distributed.fsdp import load_weights
from .distributed.ranks import Ranks, one_run, own_statistics
from .evaluate import is_better
from .forward import Forward
from .losses import choose_loss
from .metrics import tasks_of
from .model_hooks import ModelHooks
from .objective import Objective
from .optim import learning_rate, set_learning_rate
from .result import FitResult
from .signals import Interrupted
from .step import Stepper, optimizer_for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """The metric of a run, and what training must know of the labels.

    Examples:
        >>> from revgnn.train import Goal
        >>> goal = Goal(metric="macro_f1")  # for ``fit(..., metric=goal)``
    """

    metric: str
    """A key of `METRICS`."""
    num_outputs: int | None = None
    """T; only needed with ``TrainConfig.labels.reuse``."""
    scale: TargetScale | None = None
    """Scale of the labels, from `with_target_scale`; ``None``: the model learns them in their own unit."""
    class_weights: Tensor | None = None
    """Weights from `class_weights`; needed with ``TrainConfig.class_weight``."""


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    *,
    metric: str | Goal,
    out: Path | str | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    device: Device = "auto",
) -> FitResult:
    """Train a model and load the best weights into it.

    Seeds the global random generators with ``config.seed``. Writes ``curve.jsonl``, ``ckpt/`` and ``result.json``.

    Args:
        model: called as ``model(x, graph, edge_attr, seed=...)``; returns one row of logits per row of labels. It may
            implement `ModelHooks`.
        batches: provides the training and evaluation batches.
        metric: a key of `METRICS`; or a `Goal` that also says what training must know of the labels. If ``config``
            names no loss, the loss is the default of the metric's task.
        out: the run folder, created if missing; ``None``: no files are written.
        resume: continue from the newest intact checkpoint in ``out``, or start if there is none.
        callbacks: called in this order, after the loop's own: a `WeightAverage` if ``config.ema_decay`` is set, and a
            `Checkpoints` if ``callbacks`` has none.
        device: "auto": the first accelerator that Accelerate finds, or the CPU.
    Raises:
        ValueError: the loss does not fit the metric; the valid split has no rows or no defined score; the checkpoint
            has another configuration.
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        ClaimedError: another run is writing to ``out``.
        FloatingPointError: a loss or gradient is not finite; raised before the update.
        Interrupted: Ctrl-C or SIGTERM stopped the run; a checkpoint was written if ``out`` is given.
        LostRankError: another rank ended.

    Examples:
        >>> import revgnn
        >>> data = revgnn.load_dataset(revgnn.DatasetConfig(name="karate"), root="data")
        >>> model = revgnn.build_model(revgnn.ModelConfig(num_layers=4, hidden_channels=16), data.info)
        >>> result = revgnn.fit(model, revgnn.make_batches(data), revgnn.TrainConfig(epochs=3), metric="accuracy")
        >>> result.epochs, result.steps
        (3, 3)
    """
    check_device(device)
    out = None if out is None else Path(out)
    goal = Goal(metric=metric) if isinstance(metric, str) else metric
    config = replace(config, loss=choose_loss(tasks_of(goal.metric), config.loss))
    if resume and out is None:
        raise ValueError("resume=True needs out: the run folder to go on from")
    with one_run(out):
        resume = resume or (out is not None and restarted())
        if out is not None and not resume and (list_checkpoints(out) or (out / CURVE_FILE).exists()):
            raise FileExistsError(
                f"{out} already holds a run; go on with it by --resume (in Python resume=True), or choose another "
                "folder"
            )
        _check_wishes(config, batches, out, goal)
        bf16 = config.precision == "bf16"
        ranks = Ranks.open(cpu=device == "cpu", bf16=bf16, accumulate=config.accumulate, parallel=config.parallel)
        ranks.check(len(batches))
        # No rank writes before every rank has read the folder.
        ranks.wait()
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        warning = own_statistics(model, synchronise=config.sync_batchnorm)
        if warning is not None:
            _log.warning(warning)
        set_seed(config.seed)
        model.to(ranks.accelerator.device)
        run = _begin(model, batches, config, goal, out, ranks)
        run.callbacks = [one for one in _ordered(config, callbacks) if one.every_rank or ranks.writes]
        with ranks.together(), ranks.sharing_rows(model, synchronise=config.sync_batchnorm):
            if resume and out is not None:
                next(one for one in run.callbacks if isinstance(one, Checkpoints)).resume(run, out)
            result = _Loop(run).run()
            # Wait until the first rank has written.
            ranks.wait()
        return result


def _check_wishes(config: TrainConfig, batches: Batches, out: Path | None, goal: Goal) -> None:
    if (config.class_weight == "balanced") != (goal.class_weights is not None):
        raise ValueError(
            f"class_weight={config.class_weight!r} and the weights of a Goal go together; pass "
            "Goal(class_weights=class_weights(data)) with class_weight='balanced'"
        )
    if config.labels.reuse and goal.num_outputs is None:
        raise ValueError("labels.reuse=True needs num_outputs: how many columns of labels stand beside the features")
    if config.keep_logits and (out is None or len(list(itertools.islice(batches.evaluate(), 2))) > 1):
        raise ValueError("keep_logits=True needs a run folder, and one whole graph as the batch; set it to False")


def _begin(
    model: nn.Module, batches: Batches, config: TrainConfig, goal: Goal, out: Path | None, ranks: Ranks
) -> TrainState:
    """Return the state before the first step."""
    # Make the optimizer after this, because parameters may be shards from here on.
    trained = ranks.wrap(model)
    return TrainState(
        model=model,
        batches=batches,
        config=config,
        objective=Objective(
            loss=config.loss or tasks_of(goal.metric)[0].loss,
            metric=goal.metric,
            scale=goal.scale,
            class_weights=goal.class_weights,
        ),
        out=out,
        ranks=ranks,
        optimizer=optimizer_for(model, config),
        forward=Forward(
            model,
            labels=config.labels,
            num_outputs=goal.num_outputs,
            precision=config.precision,
            trained=trained,
        ),
        curve=Curve(out if ranks.writes else None),
    )


def _ordered(config: TrainConfig, callbacks: Sequence[Callback]) -> list[Callback]:
    """Return a run's callbacks in order: the loop's own, the user's, and last the one that stops the run."""
    first: list[Callback] = [] if config.ema_decay is None else [WeightAverage(config.ema_decay)]
    if not any(isinstance(one, Checkpoints) for one in callbacks):
        first.append(Checkpoints())
    return [*first, *callbacks, *([KeepLogits()] if config.keep_logits else []), StopOnSignal()]


class _Loop:
    """Runs the training loop from a given state to the result."""

    def __init__(self, run: TrainState) -> None:
        self._run, self._told = run, run.callbacks
        self._began = 0.0
        """Time of the start, as if earlier epochs of a resumed run had just been run."""
        self._stepper = Stepper(run.forward, run.optimizer, run.config, run.ranks, run.objective.training_loss)

    def run(self) -> FitResult:
        run = self._run
        with ExitStack() as ending:
            for callback in self._told:
                ending.callback(callback.on_end, run)
            for callback in self._told:
                callback.on_start(run)
            self._began = time.monotonic() - sum(row["seconds"] for row in run.curve.rows)
            while run.epoch < run.config.epochs and not self._is_out_of_patience() and not self._is_out_of_time():
                self._train_epoch()
                self._finish_epoch()
            if run.best is None:
                # A resumed run may be shortened to an epoch without evaluation.
                self._select()
            self._checkpoint()
        assert run.best is not None, "the first selection takes whatever is defined, or raises"
        load_weights(run.model, run.best)
        for callback in self._told:
            callback.on_selected(run)
        return self._result()

    def _train_epoch(self) -> None:
        run, epoch = self._run, self._run.epoch + 1
        set_learning_rate(run.optimizer, self._lr(epoch))
        run.model.train()
        run.phase = run.model.begin_epoch(epoch) if isinstance(run.model, ModelHooks) else None
        run.memory = None
        for callback in self._told:
            callback.on_epoch_start(run)
        # No variable holds the iterator, so an exception that leaves the loop also ends the prefetch thread.
        for taken in run.ranks.place.training(run.batches.train(epoch), accumulate=run.ranks.accumulate, done=run.step):
            started = time.perf_counter()
            found = self._stepper.step(taken, epoch=epoch, step=run.step + 1)
            run.seconds += time.perf_counter() - started
            run.step += 1
            run.loss = found.loss
            run.loss_sum += found.loss * found.rows
            run.rows += found.rows
            for callback in self._told:
                callback.on_step_end(run)
            self._meet_requests()
        for callback in self._told:
            callback.on_steps_end(run)

    def _finish_epoch(self) -> None:
        run = self._run
        observed = run.model.observe() if isinstance(run.model, ModelHooks) else {}
        run.epoch += 1
        is_evaluated = run.epoch % run.config.eval_every == 0 or run.epoch == run.config.epochs
        scores = self._select() if is_evaluated else None
        row = Row(
            epoch=run.epoch,
            lr=self._lr(run.epoch),
            loss=run.loss_sum / max(run.rows, 1),
            steps=run.step,
            seconds=run.seconds,
            memory=run.memory,
            scores=scores,
            observed=observed,
        )
        run.step, run.loss_sum, run.rows, run.seconds = 0, 0.0, 0, 0.0
        run.curve.append(row)
        for callback in self._told:
            callback.on_epoch_end(run)
        self._meet_requests()

    def _select(self) -> dict[str, Score]:
        """Score the weights, or their average from a callback, and keep them if they are the best so far."""
        run = self._run
        with ExitStack() as contexts:
            for callback in self._told:
                contexts.enter_context(callback.around_evaluation(run))
            scores = run.evaluate(run.batches)
            if is_better(scores, run.best_scores, metric=run.metric, config=run.config, epoch=run.epoch):
                run.best, run.best_epoch, run.best_scores = copy_weights(run.model), run.epoch, scores
        return scores

    # ------------------------------------------------------------------ stopping and going on
    def _is_out_of_patience(self) -> bool:
        patience, run = self._run.config.patience, self._run
        return patience is not None and run.best_epoch > 0 and run.epoch - run.best_epoch >= patience

    def _is_out_of_time(self) -> bool:
        """Whether the minutes are over by the clock of the first rank, after at least one epoch."""
        run, limit = self._run, self._run.config.max_minutes
        if limit is None or not run.epoch:
            return False
        return run.ranks.tell(time.monotonic() - self._began >= 60.0 * limit)

    def _meet_requests(self) -> None:
        """Handle the requests of all ranks between two steps."""
        run, requests = self._run, self._run.requests
        requests.share(run.ranks)
        if requests.checkpoint or requests.stop is not None:
            self._checkpoint()
        if requests.stop is None:
            return
        where = f"stopped after epoch {run.epoch}" + (f" and {run.step} steps" if run.step else "")
        if run.out is None:
            raise Interrupted(f"{where}; nothing was kept, because the run has no folder", requests.stop)
        run.ranks.wait()
        raise Interrupted(f"{where}; the checkpoint is in {run.out}: resume the run to go on", requests.stop)

    def _checkpoint(self) -> None:
        for callback in self._told:
            callback.on_checkpoint(self._run)
        self._run.requests.checkpoint = False

    # ------------------------------------------------------------------ small answers
    def _ending(self) -> Literal["finished", "patience", "time"]:
        if self._run.epoch >= self._run.config.epochs:
            return "finished"
        return "patience" if self._is_out_of_patience() else "time"

    def _lr(self, epoch: int) -> float:
        config = self._run.config
        return learning_rate(
            epoch, lr=config.lr, epochs=config.epochs, warmup_epochs=config.warmup_epochs, schedule=config.schedule
        )

    def _result(self) -> FitResult:
        run = self._run
        rows = run.curve.rows
        peaks = [row["memory"] for row in rows if row["memory"] is not None]
        result = FitResult(
            metric=run.metric,
            best_epoch=run.best_epoch,
            scores=run.best_scores if run.final_scores is None else run.final_scores,
            selection=run.best_scores,
            epochs=run.epoch,
            steps=sum(row["steps"] for row in rows),
            stopped=self._ending(),
            seconds_per_step=statistics.median(row["seconds"] / max(row["steps"], 1) for row in rows),
            peak_memory=max(peaks, default=None),
            parameters=sum(p.numel() for p in run.model.parameters() if p.requires_grad),
            device=str(run.ranks.accelerator.device),
            precision=run.config.precision,
            curve=rows,
        )
        if run.out is not None and run.ranks.writes:
            result.write(run.out)
        return result
