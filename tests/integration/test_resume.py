"""An interrupted run that resumes ends with the bits of one that was never interrupted."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import RandomNodeLoader

from revgnn.data import Batch, Batches, Dataset, LoaderConfig, PygBatches, make_batches
from revgnn.graph import Graph
from revgnn.train import FitResult, Interrupted, TrainConfig, fit, load_latest, read_curve

CONFIG = TrainConfig(epochs=7, lr=0.02, warmup_epochs=3, schedule="cosine", clip_norm=1.0, checkpoint_every=2)


class Toy(nn.Module):
    """A net with BatchNorm and both kinds of dropout: from the global generator and from the seed it is given."""

    def __init__(self, stop_at: int | None = None, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.stop_at, self.signum, self.calls = stop_at, signum, 0

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        h = nn.functional.dropout(self.norm(self.first(x)).relu(), 0.3, self.training)
        if self.training:
            assert seed is not None
            h = h * (torch.rand(h.shape, generator=torch.Generator().manual_seed(seed)) < 0.8)
            self.calls += 1
            if self.calls == self.stop_at:
                signal.raise_signal(self.signum)
        return self.last(h)


class Redrawn:
    """Three batches whose training rows are drawn anew in every epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for _ in range(3):
            x = torch.randn(33, 4, generator=generator)
            rows = {"train": torch.arange(20), "valid": torch.arange(20, 27), "test": torch.arange(27, 33)}
            graph = Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 33)
            self.batches.append(Batch(x=x, graph=graph, y=x[:, :3].argmax(1), rows=rows))

    def __len__(self) -> int:
        return 3

    def train(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        for batch in self.batches:
            yield replace(batch, rows={"train": torch.randperm(20, generator=generator)[:10]})

    def evaluate(self) -> Iterator[Batch]:
        return iter(self.batches)


def _fit(out: Path, config: TrainConfig = CONFIG, stop_at: int | None = None, **options: Any) -> FitResult:
    torch.manual_seed(0)
    model = Toy(stop_at, options.pop("signum", signal.SIGINT))
    batches = options.pop("batches", None) or Redrawn()
    return fit(model, batches, config, metric="accuracy", out=out, device="cpu", **options)


def _assert_same_run(one: Path, other: Path) -> None:
    """Compare the last weights, the optimizer, the selected weights and the curve of two runs, bit for bit."""
    a, b = load_latest(one), load_latest(other)
    assert (a.epoch, a.step) == (b.epoch, b.step)
    for mine, theirs in [(a.model, b.model), (a.optimizer, b.optimizer), (a.best, b.best), (a.rng, b.rng)]:
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name
    clean = [[{**row, "seconds": 0.0} for row in read_curve(run / "curve.jsonl")] for run in (one, other)]
    assert clean[0] == clean[1]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # On a busy machine threads that wait for each other over a few numbers take nearly all of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    _fit(out)
    return out


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_other_optimizers_resume_too(tmp_path: Path, optimizer: Any) -> None:
    config = replace(CONFIG, optimizer=optimizer, weight_decay=0.01)
    _fit(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        _fit(tmp_path / "cut", config, stop_at=8)
    _fit(tmp_path / "cut", config, resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("stop_at", "signum"), [(1, signal.SIGINT), (3, signal.SIGTERM), (8, signal.SIGINT), (21, signal.SIGTERM)]
)
def test_a_signal_in_any_step_checkpoints_and_resumes(tmp_path: Path, whole: Path, stop_at: int, signum: int) -> None:
    with pytest.raises(Interrupted, match="resume the run to go on") as caught:
        _fit(tmp_path, stop_at=stop_at, signum=signum)
    assert caught.value.signum == signum
    saved = load_latest(tmp_path)
    assert saved.epoch * 3 + saved.step == stop_at
    _fit(tmp_path, resume=True)
    _assert_same_run(whole, tmp_path)


def test_a_run_interrupted_again_and_again_is_still_the_same(tmp_path: Path, whole: Path) -> None:
    for attempt in range(30):
        try:
            _fit(tmp_path, stop_at=4, resume=attempt > 0)
            break
        except Interrupted:
            continue
    assert attempt == 5
    _assert_same_run(whole, tmp_path)


def test_a_crash_goes_back_to_the_last_checkpoint_and_trims_the_curve(tmp_path: Path, whole: Path) -> None:
    class Crash:
        def begin(self, **facts: Any) -> None: ...
        def step(self, **facts: Any) -> None: ...
        def end(self) -> None: ...
        def epoch(self, row: Any) -> None:
            if row["epoch"] == 5:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        _fit(tmp_path, progress=Crash())
    assert load_latest(tmp_path).epoch == 4
    assert len(read_curve(tmp_path / "curve.jsonl")) == 5
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lo')
    _fit(tmp_path, resume=True)
    _assert_same_run(whole, tmp_path)


def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        _fit(tmp_path, stop_at=17)
    newest = max((tmp_path / "ckpt").iterdir())
    os.truncate(newest / "optimizer.safetensors", 100)
    with caplog.at_level(logging.WARNING):
        _fit(tmp_path, resume=True)
    assert f"{newest}/optimizer.safetensors has 100 bytes" in caplog.text
    _assert_same_run(whole, tmp_path)


def test_a_run_without_a_checkpoint_starts_afresh_and_says_so(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curve.jsonl").write_text('{"epoch": 1}\n')
    with caplog.at_level(logging.WARNING):
        _fit(tmp_path, resume=True)
    assert "holds no checkpoint: the run starts from the beginning" in caplog.text
    _assert_same_run(whole, tmp_path)


def test_a_finished_run_resumes_to_its_own_result(tmp_path: Path) -> None:
    first = _fit(tmp_path)
    again = _fit(tmp_path, resume=True)
    assert again == first


def test_a_run_can_be_made_longer_but_not_different(tmp_path: Path) -> None:
    constant = replace(CONFIG, schedule="constant")
    _fit(tmp_path / "long", replace(constant, epochs=9))
    _fit(tmp_path / "grown", replace(constant, epochs=4), configuration={"model": {"width": 8}})
    with pytest.raises(ValueError, match=r"train.lr was 0.02 and is 0.1; put it back"):
        _fit(tmp_path / "grown", replace(constant, lr=0.1), resume=True, configuration={"model": {"width": 8}})
    with pytest.raises(ValueError, match="model.width was 8 and is 9"):
        _fit(tmp_path / "grown", constant, resume=True, configuration={"model": {"width": 9}})
    with pytest.raises(ValueError, match="epochs=2 is less than the 4"):
        _fit(tmp_path / "grown", replace(constant, epochs=2), resume=True, configuration={"model": {"width": 8}})
    _fit(tmp_path / "grown", replace(constant, epochs=9), resume=True, configuration={"model": {"width": 8}})
    _assert_same_run(tmp_path / "long", tmp_path / "grown")
    _fit(tmp_path / "cosine")
    with pytest.raises(ValueError, match="train.epochs was 7 and is 8"):
        _fit(tmp_path / "cosine", replace(CONFIG, epochs=8), resume=True)


def test_kill_9_at_any_moment_leaves_a_run_that_resumes(tmp_path: Path, whole: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys, threading
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        sys.path.insert(0, sys.argv[1])
        from test_resume import _fit
        import time
        # Not a signal of Python's: nothing can be caught or cleaned up.
        threading.Thread(target=lambda: (time.sleep(float(sys.argv[3])), os.kill(os.getpid(), 9)), daemon=True).start()
        while True:
            _fit(Path(sys.argv[2]), resume=True)
        """
    )
    for delay in (0.02, 0.1, 0.25):
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", script, here, str(tmp_path / "run"), str(delay)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    _fit(tmp_path / "run", resume=True)
    _assert_same_run(whole, tmp_path / "run")


KINDS: dict[str, dict[str, Any]] = {
    "random": {"num_parts": 4, "eval_parts": 3, "eval_views": 2},
    "clusters": {"num_parts": 12, "parts_per_batch": 3, "eval_parts": 2},
    "khop": {"fanouts": (3, 2), "batch_size": 9},
    "pyg": {},
}


def _batches(kind: str, prefetch: int = 2) -> Batches:
    """Make batches of one graph anew, as a process that resumes would."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(70, 4, generator=generator)
    order = torch.randperm(70, generator=generator)
    data = Dataset(
        name="one",
        level="node",
        task="multiclass",
        metric="accuracy",
        x=x,
        edge_index=torch.randint(70, (2, 400), generator=generator),
        edge_attr=torch.rand(400, 2, generator=generator),
        y=x[:, :3].argmax(1),
        splits={"train": order[:34], "valid": order[34:50], "test": order[50:]},
        num_outputs=3,
    )
    if kind != "pyg":
        config = LoaderConfig(kind=kind, prefetch=prefetch, **KINDS[kind])  # type: ignore[arg-type]
        return make_batches(data, None, 3, config)
    masks = {name: torch.zeros(70, dtype=torch.bool) for name in ("train_mask", "val_mask", "test_mask")}
    for mask, rows in zip(masks.values(), data.splits.values(), strict=True):
        mask[rows] = True
    whole = Data(x=x, edge_index=data.edge_index, edge_attr=data.edge_attr, y=data.y, **masks)
    return PygBatches(RandomNodeLoader(whole, num_parts=4, shuffle=True), [whole], seed=3)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_one_graph_resume_in_the_middle_of_an_epoch(tmp_path: Path, kind: str) -> None:
    if kind == "clusters":
        pytest.importorskip("pymetis", reason="METIS needs the extra 'metis'")
    config = replace(CONFIG, epochs=4)
    assert len(_batches(kind)) == 4
    # No batch made ahead in the one, five in the other: what is made ahead when the run stops is made again.
    _fit(tmp_path / "whole", config, batches=_batches(kind, prefetch=0))
    for stop_at in (2, 7):
        with pytest.raises(Interrupted):
            _fit(tmp_path / "cut", config, batches=_batches(kind, 5), stop_at=stop_at, resume=stop_at > 2)
        saved = load_latest(tmp_path / "cut")
        assert saved.step > 0, "in the middle of an epoch"
    _fit(tmp_path / "cut", config, batches=_batches(kind), resume=True)
    _assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_moves_no_weight_may_change_on_resuming(tmp_path: Path) -> None:
    def configured(**loader: Any) -> dict[str, Any]:
        return {"loader": {"kind": "random", "num_parts": 4, "prefetch": 2, "final_parts": None, **loader}}

    constant = replace(CONFIG, schedule="constant", epochs=2)
    _fit(tmp_path, constant, configuration=configured())
    longer = replace(constant, epochs=3)
    _fit(tmp_path, longer, configuration=configured(prefetch=0, final_parts=3), resume=True)
    with pytest.raises(ValueError, match="loader.num_parts was 4 and is 5"):
        _fit(tmp_path, longer, configuration=configured(num_parts=5), resume=True)
