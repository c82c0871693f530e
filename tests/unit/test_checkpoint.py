"""Checkpoints: all of it comes back, a damaged one is passed over, a hostile one is an error and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from revgnn.files import write_whole
from revgnn.train import checkpoint, read_curve
from revgnn.train.checkpoint import (
    CheckpointError,
    Snapshot,
    check_weights,
    list_checkpoints,
    load,
    load_best,
    load_latest,
    restore,
    save,
    take,
)
from revgnn.train.curve import Curve, Row
from revgnn.train.distill import save_logits
from revgnn.train.optim import make_optimizer

SCORES = {"valid": {"metric": 0.5, "loss": None}}


def _trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = make_optimizer("adam", model.parameters(), lr=0.01, weight_decay=0.0)
    model(torch.randn(7, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def _snapshot(epoch: int = 7, step: int = 0, best: bool = True) -> Snapshot:
    model, optimizer = _trained(seed=epoch)
    weights = {name: value + 1 for name, value in model.state_dict().items()} if best else None
    return take(
        model,
        optimizer,
        epoch=epoch,
        step=step,
        best=weights,
        progress={"best_epoch": 3 if best else 0, "value": 0.1 + 0.2, "best_scores": SCORES if best else {}},
        config={"train": {"lr": 0.01}},
    )


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _resign(path: Path, change) -> None:
    """Change the content of a manifest and make its checksum right again, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["content"])
    canonical = json.dumps(manifest["content"], sort_keys=True, separators=(",", ":")).encode()
    manifest["sha256"] = hashlib.sha256(canonical).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_gives_back_every_part(tmp_path: Path) -> None:
    snapshot = _snapshot(epoch=123, step=4)
    path = save(tmp_path, snapshot)
    assert path == tmp_path / "ckpt" / "epoch-000123-step-000004"
    assert sorted(p.suffix for p in path.iterdir()) == [".json"] + [".safetensors"] * 4
    back = load(path)
    assert (back.epoch, back.step) == (123, 4)
    assert _same(back.model, snapshot.model)
    assert _same(back.optimizer, snapshot.optimizer)
    assert _same(back.best, snapshot.best)
    assert _same(back.rng, snapshot.rng)
    assert back.progress == {"best_epoch": 3, "value": 0.1 + 0.2, "best_scores": SCORES}
    assert back.config == {"train": {"lr": 0.01}}
    assert _same(load_best(tmp_path), snapshot.best)
    assert list((tmp_path / "ckpt").iterdir()) == [path]


def test_restoring_gives_the_same_weights_state_and_random_numbers(tmp_path: Path) -> None:
    model, optimizer = _trained()
    random.gauss(0, 1)
    np.random.standard_normal()
    save(tmp_path, take(model, optimizer, epoch=1, progress={}, config={}))
    expected = (torch.rand(5), random.random(), random.gauss(0, 1), np.random.rand(3), np.random.standard_normal())
    twin, fresh = _trained(seed=1)
    restore(load_latest(tmp_path), twin, fresh)
    got = (torch.rand(5), random.random(), random.gauss(0, 1), np.random.rand(3), np.random.standard_normal())
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    assert _same(model.state_dict(), twin.state_dict())
    for key, entries in optimizer.state_dict()["state"].items():
        assert _same(entries, fresh.state_dict()["state"][key])


def test_shared_weights_are_saved(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, layer)
    optimizer = make_optimizer("adam", model.parameters(), lr=0.01, weight_decay=0.0)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    save(tmp_path, take(model, optimizer, epoch=1, progress={}, config={}))
    restore(load_latest(tmp_path), model, optimizer)


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for epoch, step in [(1, 0), (2, 0), (2, 9), (2, 10), (10, 0)]:
        save(tmp_path, _snapshot(epoch, step), keep=3)
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "epoch-000002-step-000009",
        "epoch-000002-step-000010",
        "epoch-000010",
    ]


def test_no_checkpoint_is_none_and_no_best(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="train the run first"):
        load_best(tmp_path)
    save(tmp_path, _snapshot(best=False))
    with pytest.raises(CheckpointError, match="before its first evaluation"):
        load_best(tmp_path)


@pytest.mark.parametrize("name", ["model", "optimizer", "rng", "best"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    save(tmp_path, _snapshot(1))
    file = save(tmp_path, _snapshot(2)) / f"{name}.safetensors"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path).epoch == 1
    assert file.name in caplog.text
    # The run goes on from 1 and saves 2 again, or something before it: the damaged one makes way.
    save(tmp_path, _snapshot(1, step=5))
    assert [load(p).epoch for p in list_checkpoints(tmp_path)] == [1, 1]


def test_a_damaged_manifest_is_passed_over_and_none_whole_is_an_error(tmp_path: Path) -> None:
    first, second = save(tmp_path, _snapshot(1)), save(tmp_path, _snapshot(2))
    text = (second / "manifest.json").read_text()
    (second / "manifest.json").write_text(text.replace('"epoch": 2', '"epoch": 3'))
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load(second)
    assert load_latest(tmp_path).epoch == 1
    (first / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        load_latest(tmp_path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path, _snapshot(1))
    return tmp_path


def test_a_full_disk_leaves_the_checkpoints_before_it_and_says_what_is_needed(saved: Path, small_disk: None) -> None:
    snapshot = _snapshot(2)
    with pytest.raises(
        OSError, match=r"a checkpoint needs \d+ bytes, [\d.]+ (MiB|bytes) are free; make room"
    ) as caught:
        save(saved, snapshot)
    assert caught.value.errno == errno.EFBIG
    needed = int(re.search(r"needs (\d+) bytes", str(caught.value))[1])
    whole = sum(path.stat().st_size for path in list_checkpoints(saved)[0].glob("*.safetensors"))
    assert 0.5 * whole < needed <= whole, "all but the names"
    assert [p.name for p in (saved / "ckpt").iterdir()] == ["epoch-000001"]
    assert load_latest(saved).epoch == 1


def test_a_full_disk_leaves_the_other_files_of_a_run(tmp_path: Path, small_disk: None) -> None:
    (tmp_path / "report.json").write_text("old")
    with pytest.raises(OSError, match=r"report\.json needs 5000 bytes"):
        write_whole(tmp_path / "report.json", "x" * 5000)
    with pytest.raises(OSError, match=r"logits\.safetensors needs 8000 bytes"):
        save_logits(tmp_path, torch.zeros(1000, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"
    curve = Curve(tmp_path)
    row = Row(epoch=1, lr=1, loss=1, steps=1, seconds=1, memory=None, scores=None, observed={})
    with pytest.raises(OSError, match="a line of the curve needs"):
        any(curve.append({**row, "epoch": epoch}) for epoch in range(1, 100))
    kept = read_curve(tmp_path / "curve.jsonl")
    assert 5 < len(kept) < 99
    Curve(tmp_path).resume(len(kept))
    assert read_curve(tmp_path / "curve.jsonl") == kept


def test_a_second_interrupt_while_saving_leaves_the_checkpoints_before_it(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tensors, path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(saved, _snapshot(2))
    assert [p.name for p in (saved / "ckpt").iterdir()] == ["epoch-000001"]


def test_other_versions_are_said(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    _resign(saved / "ckpt" / "epoch-000001", lambda content: content["versions"].update({"torch": "1.0"}))
    with caplog.at_level(logging.WARNING):
        restore(load_latest(saved), *_trained())
    assert f"the checkpoint is of torch 1.0 (now {version('torch')})" in caplog.text


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("best_scores", {}),
        ("best_scores", {"valid": 3}),
        ("best_scores", {"valid": {"metric": "high", "loss": None}}),
        ("best_epoch", 0),
        ("best_epoch", "one"),
        ("seconds", -1),
    ],
)
def test_a_place_of_another_kind_is_an_error(saved: Path, part: str, value: object) -> None:
    path = saved / "ckpt" / "epoch-000001"
    _resign(path, lambda content: content["progress"].update({part: value}))
    with pytest.raises(CheckpointError, match="does not say where the run stood"):
        load(path)


def test_a_checkpoint_has_the_name_of_its_epoch(saved: Path) -> None:
    (saved / "ckpt" / "epoch-000001").rename(saved / "ckpt" / "epoch-000099")
    with pytest.raises(CheckpointError, match="says that it is epoch-000001"):
        load(saved / "ckpt" / "epoch-000099")


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    path = save(tmp_path, _snapshot(1))
    shutil.copytree(path, tmp_path / "ckpt" / ".writing-epoch-000002")
    assert load_latest(tmp_path).epoch == 1
    save(tmp_path, _snapshot(3))
    assert [p.name for p in list_checkpoints(tmp_path)] == ["epoch-000001", "epoch-000003"]
    assert not list((tmp_path / "ckpt").glob(".*"))


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "extra.safetensors", "model.pt"])
def test_a_manifest_cannot_name_other_files(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, _snapshot())
    _resign(path, lambda content: content["files"].update({name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(CheckpointError, match="names the file"):
        load(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path, _snapshot())
    shutil.move(path / "model.safetensors", tmp_path / "elsewhere")
    (path / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="plain file"):
        load(path)


def test_garbage_with_the_right_checksum_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, _snapshot())
    # A header that claims 2^62 bytes.
    (path / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    _resign(path, lambda content: content["files"].update({"model.safetensors": {"bytes": 10, "sha256": digest}}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load(path)


@pytest.mark.parametrize("part", ["epoch", "groups", "rng", "progress"])
def test_a_manifest_without_a_part_is_an_error(tmp_path: Path, part: str) -> None:
    path = save(tmp_path, _snapshot())
    _resign(path, lambda content: content.pop(part))
    with pytest.raises(CheckpointError, match=f"incomplete.*{part}"):
        load(path)


def test_another_format_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, _snapshot())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 1, got 99"):
        load(path)


def test_weights_of_another_model_are_refused_and_nothing_changes() -> None:
    model, optimizer = _trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    good = take(model, optimizer, epoch=1, progress={}, config={})
    for change, match in [
        ({"0.weight": torch.zeros(5, 4)}, r"0.weight must be torch.float32 \[5, 3\], the checkpoint has .* \[5, 4\]"),
        ({"0.weight": torch.zeros(5, 3).double()}, "the checkpoint has torch.float64"),
        ({"other": torch.zeros(1)}, "other is in the checkpoint but not in the model"),
    ]:
        with pytest.raises(CheckpointError, match=match):
            check_weights({**good.model, **change}, model)
    with pytest.raises(CheckpointError, match="2.bias is in the model but not"):
        check_weights({name: value for name, value in good.model.items() if name != "2.bias"}, model)
    for rng, match in [
        ({**good.rng, "python": torch.zeros(3)}, r"state of python must be torch.int64 \[625\]"),
        ({**good.rng, "numpy": -torch.ones(7).long()}, r"state of numpy must be torch.int64 \[624\]"),
        ({"python": good.rng["python"]}, "state of torch must be .* got nothing"),
    ]:
        broken = Snapshot(**{**vars(good), "rng": rng, "model": {k: v + 1 for k, v in good.model.items()}})
        with pytest.raises(CheckpointError, match=match):
            restore(broken, model, optimizer)
    assert _same(before, model.state_dict())


def test_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    model = Odd(2, 2)
    with pytest.raises(TypeError, match="'_extra_state' must be a tensor"):
        take(
            model, make_optimizer("adam", model.parameters(), lr=1.0, weight_decay=0.0), epoch=1, progress={}, config={}
        )
