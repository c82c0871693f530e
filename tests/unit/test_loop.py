"""The training loop on a toy: what it selects, writes and refuses; against the same steps written out by hand."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from revgnn.data.batch import Batch
from revgnn.graph import Graph
from revgnn.train import (
    Callback,
    Interrupted,
    ProgressBar,
    TrainConfig,
    TrainState,
    fit,
    load_best,
    load_latest,
    read_curve,
    step_seed,
)
from revgnn.train.evaluate import is_better
from revgnn.train.signals import Interrupts
from tolerances import TOLERANCES, assert_close

CONFIG = TrainConfig(epochs=6, lr=0.05, checkpoint_every=None)


class Toy(nn.Module):
    """A linear layer that ignores the graph and notes what it was called with."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)
        self.seeds: list[int | None] = []

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        self.seeds.append(seed)
        return self.linear(x)


def _batch(seed: int, n: int = 63) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    order = torch.randperm(n, generator=generator)
    return Batch(
        x=x,
        graph=Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n),
        y=x[:, :3].argmax(1),
        rows={"train": order[: n // 2], "valid": order[n // 2 : n // 2 + 15], "test": order[n // 2 + 15 :]},
    )


class Parts:
    """The same few batches in every epoch."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def train(self, epoch: int) -> Iterator[Batch]:
        return iter(self.batches)

    def evaluate(self) -> Iterator[Batch]:
        return iter(self.batches)


def _toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy()


def _fit(model: nn.Module, config: TrainConfig = CONFIG, batches: Any = None, **options: Any) -> Any:
    batches = batches or Parts(_batch(0), _batch(1))
    return fit(model, batches, config, **{"metric": "accuracy", "device": "cpu", **options})


def test_the_loop_takes_the_steps_that_one_writes_by_hand() -> None:
    config = replace(CONFIG, optimizer="rmsprop", warmup_epochs=3, clip_norm=0.5, weight_decay=0.01, select="loss")
    model, twin = _toy(), _toy()
    batches = Parts(_batch(0), _batch(1))
    result = _fit(model, config, batches)
    optimizer = torch.optim.RMSprop(twin.parameters(), lr=1.0, weight_decay=0.01)
    best, weights = math.inf, {}
    for epoch in range(1, 7):
        optimizer.param_groups[0]["lr"] = 0.05 * min(epoch / 3, 1)
        total, rows = 0.0, 0
        for batch in batches.batches:
            train = batch.rows["train"]
            loss = nn.functional.cross_entropy(twin.linear(batch.x)[train], batch.y[train])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
            total, rows = total + float(loss.detach()) * len(train), rows + len(train)
        assert result.curve[epoch - 1]["loss"] == pytest.approx(total / rows, rel=TOLERANCES[torch.float32][0])
        assert result.curve[epoch - 1]["lr"] == pytest.approx(0.05 * min(epoch / 3, 1))
        logits = torch.cat([twin.linear(b.x)[b.rows["valid"]] for b in batches.batches]).detach()
        y = torch.cat([b.y[b.rows["valid"]] for b in batches.batches])
        valid = float(nn.functional.cross_entropy(logits, y))
        scores = result.curve[epoch - 1]["scores"]["valid"]
        assert scores["loss"] == pytest.approx(valid, rel=TOLERANCES[torch.float32][0])
        assert scores["metric"] == pytest.approx(float((logits.argmax(1) == y).float().mean()))
        if valid < best:
            best, weights, chosen = valid, {k: v.clone() for k, v in twin.state_dict().items()}, epoch
    assert result.best_epoch == chosen
    for name, weight in weights.items():
        assert_close(model.state_dict()[name], weight)


def test_a_device_that_is_none_is_refused_and_a_folder_may_be_a_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device='cuda:0': choose auto, which takes an accelerator"):
        _fit(_toy(), device="cuda:0")
    _fit(_toy(), out=str(tmp_path / "run"))
    assert (tmp_path / "run" / "curve.jsonl").is_file()


def test_seeds_are_a_function_of_seed_epoch_and_step_alone() -> None:
    model = _toy()
    _fit(model, replace(CONFIG, epochs=2, seed=5))
    # Two steps, then the evaluation of two batches without a seed, per epoch.
    expected = [step_seed(5, epoch, step) if step < 2 else None for epoch in (1, 2) for step in range(4)]
    assert model.seeds == expected
    seeds = {step_seed(s, e, i) for s in range(5) for e in range(5) for i in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)


class Scripted(nn.Module):
    """Whose evaluation logits follow a script, one entry per epoch: the share of rows it gets right."""

    def __init__(self, shares: list[float], y: Tensor) -> None:
        super().__init__()
        self.weight, self.shares, self.y, self.calls = nn.Parameter(torch.zeros(())), shares, y, 0

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.training:
            return torch.zeros(len(x), 2) + self.weight
        right = torch.arange(len(x)) < self.shares[self.calls] * len(x)
        self.calls += 1
        return nn.functional.one_hot(torch.where(right, self.y, 1 - self.y), 2).float() + 0 * self.weight


def _scripted(shares: list[float]) -> tuple[Scripted, Parts]:
    y = torch.zeros(10, dtype=torch.int64)
    batch = Batch(
        x=torch.zeros(10, 1),
        graph=Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 10),
        y=y,
        rows={"train": torch.arange(10), "valid": torch.arange(10)},
    )
    return Scripted(shares, y), Parts(batch)


def test_the_first_of_equally_good_epochs_is_selected() -> None:
    model, batches = _scripted([0.2, 0.8, 0.4, 0.8, 0.1])
    result = _fit(model, replace(CONFIG, epochs=5), batches)
    assert result.best_epoch == 2
    assert result.scores["valid"]["metric"] == pytest.approx(0.8)
    assert "test" not in result.scores
    assert result.stopped == "finished"


@pytest.mark.parametrize(
    ("metric", "loss", "expected"),
    [(0.8, 0.4, True), (0.8, 0.5, False), (0.8, 0.6, False), (0.8, None, False), (0.7, 0.1, False), (0.9, 0.9, True)],
)
def test_of_equal_metrics_the_lower_loss_is_better(metric: float, loss: float | None, expected: bool) -> None:
    scores, before = ({"valid": {"metric": value, "loss": own}} for value, own in ((metric, loss), (0.8, 0.5)))
    assert is_better(scores, before, metric="accuracy", config=CONFIG, epoch=1) is expected


def test_patience_ends_the_run() -> None:
    model, batches = _scripted([0.2, 0.8, 0.4, 0.8, 0.9])
    result = _fit(model, replace(CONFIG, epochs=5, patience=2), batches)
    assert (result.epochs, result.best_epoch, result.stopped) == (4, 2, "patience")


def test_a_smaller_error_is_better() -> None:
    batch = replace(_batch(0), y=_batch(0).x[:, :3].clone())
    result = _fit(_toy(), replace(CONFIG, loss="mse"), Parts(batch), metric="rmse")
    values = [row["scores"]["valid"]["metric"] for row in result.curve]
    assert result.best_epoch == values.index(min(values)) + 1
    assert values[0] > min(values)


def test_the_last_epoch_is_always_evaluated() -> None:
    result = _fit(_toy(), replace(CONFIG, epochs=5, eval_every=2))
    assert [row["epoch"] for row in result.curve if row["scores"]] == [2, 4, 5]


class Reads(Callback):
    """Gives the memory of the steps from a reading before and one after them, of which the first is dropped."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.read = read

    def on_epoch_start(self, run: TrainState) -> None:
        self.read()

    def on_steps_end(self, run: TrainState) -> None:
        run.memory = self.read()


def test_memory_is_read_around_the_steps_and_the_largest_counts() -> None:
    readings = iter([1, 10, 2, 30, 3, 20])
    result = _fit(_toy(), replace(CONFIG, epochs=3), callbacks=[Reads(lambda: next(readings))])
    assert [row["memory"] for row in result.curve] == [10, 30, 20]
    assert result.peak_memory == 30


def test_what_a_run_folder_holds(tmp_path: Path) -> None:
    model = _toy()
    result = _fit(model, replace(CONFIG, checkpoint_every=2), out=tmp_path / "run")
    assert read_curve(tmp_path / "run" / "curve.jsonl") == result.curve
    facts = json.loads((tmp_path / "run" / "result.json").read_text())
    assert facts["best_epoch"] == result.best_epoch
    assert facts["parameters"] == 15
    assert facts["scores"] == result.scores
    best = load_best(tmp_path / "run")
    assert all(torch.equal(model.state_dict()[name], best[name]) for name in best)
    assert sorted(p.name for p in (tmp_path / "run" / "ckpt").iterdir()) == ["epoch-000004", "epoch-000006"]
    with pytest.raises(FileExistsError, match="already holds a run; go on with it by --resume"):
        _fit(_toy(), out=tmp_path / "run")


def test_fits_of_different_precision_follow_each_other_in_one_process() -> None:
    class Dtypes(Toy):
        def forward(self, *args: Any, **options: Any) -> Tensor:
            logits = super().forward(*args, **options)
            self.dtype = logits.dtype
            return logits

    for precision, dtype in [("float32", torch.float32), ("bf16", torch.bfloat16), ("float32", torch.float32)]:
        model = Dtypes()
        result = _fit(model, replace(CONFIG, epochs=2, precision=precision))
        assert model.dtype == dtype
        assert model.linear.weight.dtype == torch.float32
        assert result.precision == precision
        assert "forward" not in vars(model)


class Poison(Toy):
    """A toy whose loss or gradient goes bad at one training call."""

    def __init__(self, where: str, call: int) -> None:
        super().__init__()
        self.where, self.call = where, call

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        logits = super().forward(x, graph, edge_attr, seed=seed)
        if self.training and len([s for s in self.seeds if s is not None]) == self.call:
            self.before = self.linear.weight.detach().clone()
            if self.where == "loss":
                return logits * math.nan
            logits.register_hook(lambda grad: grad * math.inf)
        return logits


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("loss", "epoch 2, step 1: the loss is nan; try lr below 0.05, clip_norm=1.0, warmup_epochs"),
        ("gradient", r"epoch 2, step 1: the gradient of linear.weight has \d+ of 12 entries"),
    ],
)
def test_a_value_that_is_not_finite_stops_before_the_optimizer_steps(tmp_path: Path, where: str, match: str) -> None:
    model = Poison(where, call=3)
    with pytest.raises(FloatingPointError, match=match):
        _fit(model, replace(CONFIG, checkpoint_every=1), out=tmp_path)
    assert torch.equal(model.linear.weight, model.before)
    assert load_latest(tmp_path).epoch == 1


def test_a_bad_valid_loss_stops_where_it_selects() -> None:
    class Halves(Parts):
        def train(self, epoch: int) -> Iterator[Batch]:
            return iter([_batch(1)])

    batch = _batch(0)
    batch.x[batch.rows["valid"][0]] = math.inf
    with pytest.raises(FloatingPointError, match="epoch 1: the loss on the valid split is not finite; try lr below"):
        _fit(_toy(), replace(CONFIG, select="loss"), Halves(batch))


def test_a_split_that_cannot_select_is_named() -> None:
    batch = _batch(0)
    with pytest.raises(ValueError, match="'valid', which has no rows"):
        _fit(_toy(), batches=Parts(replace(batch, rows={"train": batch.rows["train"]})))
    tasks = replace(batch, y=torch.ones(63, 3))
    with pytest.raises(ValueError, match="rocauc is undefined on the split 'valid'"):
        _fit(_toy(), replace(CONFIG, loss="bce"), Parts(tasks), metric="rocauc")


def test_rows_and_logits_must_agree() -> None:
    with pytest.raises(ValueError, match="got 63 for 62"):
        _fit(_toy(), batches=Parts(replace(_batch(0), y=_batch(0).y[:62])))


def test_border_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric='hits' is unknown; choose one of accuracy"):
        _fit(_toy(), metric="hits")
    with pytest.raises(ValueError, match="loss='bce' does not go with a multiclass task; choose one of cross_entropy"):
        _fit(_toy(), replace(CONFIG, loss="bce"))
    with pytest.raises(ValueError, match="resume=True needs out"):
        _fit(_toy(), resume=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"keep_checkpoints": 1}, "keep_checkpoints must be at least 2"),
        ({"lr": 0.0}, "lr must be finite and above 0, got 0"),
        ({"lr": math.nan}, "lr must be finite"),
        ({"clip_norm": -1.0}, "clip_norm must be finite and above 0"),
        ({"ema_decay": 1.0}, "ema_decay must lie between 0 and 1, got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"weight_decays": (("stack", -0.1),)}, "weight_decays must be at least 0, got stack=-0.1"),
        ({"optimizer": "sgd"}, "optimizer='sgd' is unknown; choose one of adam, adamw, rmsprop"),
        ({"precision": "fp16"}, "precision='fp16' is unknown; choose one of float32, bf16"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"schedule": "cosine", "epochs": 5, "warmup_epochs": 5}, "epochs=5, warmup_epochs=5; shorten the warm-up"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TrainConfig(**change)


def test_a_signal_without_a_run_folder_says_that_nothing_was_kept() -> None:
    class Stops(Toy):
        def forward(self, *args: Any, **options: Any) -> Tensor:
            if len(self.seeds) == 4:
                signal.raise_signal(signal.SIGINT)
            return super().forward(*args, **options)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="after epoch 1 and 1 steps; nothing was kept") as caught:
        _fit(Stops())
    assert caught.value.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once_and_threads_are_left_alone() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(_fit(_toy(), replace(CONFIG, epochs=1))))
    thread.start()
    thread.join()
    assert results[0].epochs == 1


def _shown(terminal: bool) -> str:
    console = Console(record=True, force_terminal=terminal, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    _fit(_toy(), replace(CONFIG, epochs=30), callbacks=[Reads(lambda: 5 * 2**20), ProgressBar("toy [4]", console)])
    console.file.close()
    return console.export_text()


def test_progress_away_from_a_terminal_is_a_few_lines() -> None:
    lines = _shown(terminal=False).splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[-1].startswith("toy [4]: epoch 30/30, loss 0.")
    assert "valid accuracy " in lines[-1]
    assert lines[-1].endswith("memory 5 MiB, 0:00:00 left")


def test_progress_on_a_terminal_is_a_bar() -> None:
    text = _shown(terminal=True)
    assert "60/60" in text
    assert "epoch 30/30" in text
