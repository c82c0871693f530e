"""Checkpoints: a folder of safetensors and one JSON manifest, whole or absent, and never a pickle.

``<run>/ckpt/epoch-000123/`` is the state after 123 epochs; ``epoch-000123-step-000004`` is four steps further. Each
holds the weights, the optimizer, the random states, the best weights so far and where the run stands, so any one of
them resumes the run. It is written under a temporary name, synced and renamed; on reading every file is compared with
its checksum, and a damaged checkpoint is passed over for the one before, aloud.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import check_plain, read_object, room_for, sha256_of, sync, versions_of, write_whole
from .distributed.fsdp import load_weights, whole
from .optim import flatten_state, unflatten_state
from .rng import capture_rng, restore_rng

_log = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "ckpt"
FORMAT = 1
_NAME = re.compile(r"epoch-(\d{6,})(?:-step-(\d{6,}))?")
_MANIFEST = "manifest.json"
_FILES = frozenset({"model.safetensors", "optimizer.safetensors", "rng.safetensors", "best.safetensors"})
_TEMPORARY = ".writing-"


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another format, or of another model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """All that a run needs to go on as if it had never stopped, on the CPU."""

    epoch: int
    """Epochs that are finished."""
    step: int = 0
    """Steps taken in the epoch after them."""
    model: dict[str, Tensor]
    """The state dict of the model."""
    optimizer: dict[str, Tensor]
    """``<parameter>/<key>`` -> state tensor."""
    groups: list[dict[str, Any]]
    """Hyper-parameters of each parameter group."""
    best: dict[str, Tensor] | None = None
    """The weights that were selected so far; ``None``: none yet."""
    rng: dict[str, Tensor]
    rng_facts: dict[str, Any]
    progress: dict[str, Any]
    """What the loop counts along the way, as JSON."""
    config: dict[str, Any]
    """The configuration of the run, as JSON."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Package -> its version when the snapshot was taken."""


def take(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    step: int = 0,
    best: dict[str, Tensor] | None = None,
    progress: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Snapshot:
    """Copy the state of a run, and of the global random number generators, to the CPU."""
    rng, rng_facts = capture_rng()
    tensors, groups = flatten_state(model, optimizer)
    return Snapshot(
        epoch=epoch,
        step=step,
        model=copy_weights(model),
        optimizer=tensors,
        groups=groups,
        best=best,
        rng=rng,
        rng_facts=rng_facts,
        progress=dict(progress),
        config=dict(config),
        versions=_versions(),
    )


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict of a model to the CPU, every entry whole and with storage of its own.

    Of a model in shards all ranks must ask for it.

    Raises: TypeError: an entry that is not a tensor, which safetensors cannot hold.
    """
    copies = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the model's state {name!r} must be a tensor to be saved, got {type(value).__name__}; use a buffer"
            )
        copies[name] = whole(value.detach()).to("cpu", copy=True).contiguous()
    return copies


def restore(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a snapshot back into a model and optimizer of the same shape, and into the global random generators.

    Raises: CheckpointError: a tensor of another name, shape or dtype, naming the first; nothing is changed then.
    """
    check_weights(snapshot.model, model)
    if snapshot.best is not None:
        check_weights(snapshot.best, model)
    try:
        state = unflatten_state(snapshot.optimizer, snapshot.groups, model, optimizer)
        restore_rng(snapshot.rng, snapshot.rng_facts)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    load_weights(model, snapshot.model)
    optimizer.load_state_dict(state)
    now = _versions()
    changed = [f"{name} {was} (now {now.get(name)})" for name, was in snapshot.versions.items() if now.get(name) != was]
    if changed:
        _log.warning("the checkpoint is of %s: from here on the bits may be others", ", ".join(changed))


def check_weights(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse weights of another model.

    Raises: CheckpointError: the first name that is missing or too many, has another shape or dtype, or is not finite.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        where = "the model but not in the checkpoint" if name in own else "the checkpoint but not in the model"
        raise CheckpointError(f"{name} is in {where}; build the model with the configuration of the checkpoint")
    for name, value in own.items():
        got = weights[name]
        if got.shape != value.shape or got.dtype != value.dtype:
            raise CheckpointError(
                f"{name} must be {value.dtype} {list(value.shape)}, the checkpoint has {got.dtype} {list(got.shape)}; "
                "build the model with the configuration of the checkpoint"
            )
        if got.is_floating_point() and not bool(torch.isfinite(got).all()):
            raise CheckpointError(f"{name} is not finite in the checkpoint; remove it to go on from the one before")


# ------------------------------------------------------------------ writing


def save(run: Path, snapshot: Snapshot, *, keep: int = 2) -> Path:
    """Write a checkpoint and remove those beyond the newest ``keep``.

    Args:
        run: the run folder; the checkpoint goes to ``ckpt`` inside.
        keep: how many stay, at least 1; with 2, one damaged on disk does not lose the run.
    Returns: the folder of the checkpoint.
    Raises:
        OSError: a full disk (with the bytes that are needed) and the like; the checkpoints before it are untouched.
        CheckpointError: the folder of the checkpoints is a link, which could lead anywhere.
    Cost: the model twice (now and best), the optimizer once; read back once for the checksums.
    """
    folder = run / CHECKPOINT_FOLDER
    if folder.is_symlink():
        raise CheckpointError(f"{folder} must not be a link: checkpoints stay in their run; move the run instead")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left)
    name = _name(snapshot.epoch, snapshot.step)
    temporary, final = folder / (_TEMPORARY + name), folder / name
    try:
        with room_for("a checkpoint", _bytes(snapshot), folder):
            _write(temporary, snapshot)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.exists():
        # Only a damaged one can stand here: a run that resumed from a whole one has moved on.
        shutil.rmtree(final)
    os.rename(temporary, final)
    sync(folder)
    _prune(folder, final, keep)
    return final


def _write(folder: Path, snapshot: Snapshot) -> None:
    folder.mkdir()
    groups = {"model": snapshot.model, "optimizer": snapshot.optimizer, "rng": snapshot.rng}
    if snapshot.best is not None:
        groups["best"] = snapshot.best
    files = {}
    for name, tensors in groups.items():
        path = folder / f"{name}.safetensors"
        save_file(tensors, path)
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    content = {
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "groups": snapshot.groups,
        "rng": snapshot.rng_facts,
        "progress": snapshot.progress,
        "config": snapshot.config,
        "versions": snapshot.versions,
        "files": files,
    }
    manifest = {"format": FORMAT, "sha256": _digest(content), "content": content}
    write_whole(folder / _MANIFEST, json.dumps(manifest, indent=1, allow_nan=False))


def _bytes(snapshot: Snapshot) -> int:
    """How much a snapshot takes on disk, but for some kilobytes of names."""
    tensors = (snapshot.model, snapshot.optimizer, snapshot.best or {}, snapshot.rng)
    return sum(value.nbytes for group in tensors for value in group.values())


def _prune(folder: Path, newest: Path, keep: int) -> None:
    names = list_checkpoints(folder.parent)
    place = names.index(newest)
    # What sorts after the newest is a damaged one that was passed over.
    for path in names[: max(0, place + 1 - keep)] + names[place + 1 :]:
        shutil.rmtree(path)


# ------------------------------------------------------------------ reading


def list_checkpoints(run: Path) -> list[Path]:
    """Give the checkpoints of a run folder, oldest first, whole or not."""
    folder = run / CHECKPOINT_FOLDER
    found = [(match, path) for path in folder.glob("epoch-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2] or 0)))]


def load_latest(run: Path) -> Snapshot | None:
    """Read the newest whole checkpoint of a run folder; each damaged one on the way is named in a warning.

    Returns: the snapshot; ``None`` where no checkpoint was ever written.
    Raises: CheckpointError: there are checkpoints, and none is whole.
    """
    newest_first = list_checkpoints(run)[::-1]
    for path in newest_first:
        try:
            return load(path)
        except CheckpointError as error:
            _log.warning("checkpoint passed over: %s", error)
    if newest_first:
        raise CheckpointError(f"none of the {len(newest_first)} checkpoints in {run} is whole; start the run afresh")
    return None


def load_best(run: Path) -> dict[str, Tensor]:
    """Read the weights that the run selected, from its newest whole checkpoint.

    Raises: CheckpointError: every checkpoint is damaged, or nothing was selected yet.
        FileNotFoundError: there is no checkpoint.
    """
    snapshot = load_latest(run)
    if snapshot is None:
        raise FileNotFoundError(f"{run / CHECKPOINT_FOLDER} holds no checkpoint; train the run first")
    if snapshot.best is None:
        raise CheckpointError(f"{run} stopped before its first evaluation: no weights were selected; resume it")
    return snapshot.best


def load(path: Path) -> Snapshot:
    """Read one checkpoint and compare every byte with its checksums.

    Raises: CheckpointError: what is wrong with which file.
    """
    content = _read_manifest(path / _MANIFEST)
    tensors = {}
    for name, facts in content["files"].items():
        if name not in _FILES:
            raise CheckpointError(f"{path / _MANIFEST} names the file {name!r}; only {sorted(_FILES)} belong there")
        tensors[name.removesuffix(".safetensors")] = _read_tensors(path / name, facts)
    try:
        snapshot = Snapshot(
            epoch=content["epoch"],
            step=content["step"],
            model=tensors["model"],
            optimizer=tensors["optimizer"],
            groups=content["groups"],
            best=tensors.get("best"),
            rng=tensors["rng"],
            rng_facts=content["rng"],
            progress=content["progress"],
            config=content["config"],
            versions=content["versions"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path} is incomplete: {error!r}") from error
    _check_kinds(path, snapshot)
    return snapshot


def _check_kinds(path: Path, snapshot: Snapshot) -> None:
    """Refuse facts of another kind than `save` writes, whatever their checksum says."""
    kinds: dict[str, type] = dict.fromkeys(("rng_facts", "progress", "config", "versions"), dict)
    kinds |= {"epoch": int, "step": int, "groups": list}
    for name, kind in kinds.items():
        if type(getattr(snapshot, name)) is not kind:
            raise CheckpointError(f"{path}: {name} must be {kind.__name__}, got {type(getattr(snapshot, name))}")
    if not all(isinstance(group, dict) for group in snapshot.groups):
        raise CheckpointError(f"{path}: every group of the optimizer must be an object")
    if not _is_sound(snapshot.progress, has_best=snapshot.best is not None):
        raise CheckpointError(f"{path} does not say where the run stood, or not with what it selected")
    if path.name != _name(snapshot.epoch, snapshot.step):
        raise CheckpointError(f"{path} says that it is {_name(snapshot.epoch, snapshot.step)}; give it its name back")


def _is_sound(progress: Mapping[str, Any], *, has_best: bool) -> bool:
    """Whether what the loop counts is of the kinds that it counts, as far as it is there."""
    numbers = [progress.get(name, 0) for name in ("best_epoch", "loss_sum", "rows", "seconds")]
    scores = progress.get("best_scores", {})
    if not all(type(number) in (int, float) and number >= 0 for number in numbers[:1] + numbers[2:]):
        return False
    if not isinstance(scores, dict) or not all(isinstance(score, dict) for score in scores.values()):
        return False
    figures = [score.get(name, "missing") for score in scores.values() for name in ("metric", "loss")]
    if not all(figure is None or type(figure) in (int, float) for figure in [*figures, numbers[1]]):
        return False
    is_selected = numbers[0] > 0
    return is_selected == has_best and (not is_selected or "valid" in scores)


def _name(epoch: int, step: int) -> str:
    return f"epoch-{epoch:06d}" + (f"-step-{step:06d}" if step else "")


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_object(path, CheckpointError)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must have format {FORMAT}, got {manifest.get('format')!r}; use the revgnn that wrote it"
        )
    content = manifest.get("content")
    if not isinstance(content, dict) or manifest.get("sha256") != _digest(content):
        raise CheckpointError(f"{path} does not match its checksum")
    if not isinstance(content.get("files"), dict):
        raise CheckpointError(f"{path} lists no files")
    return content


def _read_tensors(path: Path, facts: Any) -> dict[str, Tensor]:
    try:
        check_plain(path, CheckpointError)
        if not isinstance(facts, dict) or path.stat().st_size != facts.get("bytes"):
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes where the manifest says {facts}")
        if sha256_of(path) != facts.get("sha256"):
            raise CheckpointError(f"{path} does not match its checksum")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


# ------------------------------------------------------------------ facts


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **versions_of("torch", "numpy", "accelerate", "revgnn")}
