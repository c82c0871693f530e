"""Writes and reads checkpoints: folders of safetensors files and a JSON manifest, written atomically, no pickle.

``<run>/ckpt/epoch-000123/`` is the state after 123 epochs; ``epoch-000123-step-000004`` is four steps further. Each
holds the weights, the optimizer state, the states of the random generators, the best weights so far and the position
of the run, so a run can resume from any of them. A checkpoint is written under a temporary name, synced and renamed. On
reading, every file is compared with its checksum; a damaged checkpoint is skipped with a warning, and the previous one
is read.
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
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import check_format, check_plain, read_object, room_for, sha256_of, sync, versions_of, write_whole
from .curve import Score
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
    """A checkpoint that is damaged, of another format, or of another model.

    Examples:
        >>> import torch
        >>> from revgnn.train import CheckpointError, check_weights
        >>> try:
        ...     check_weights({}, torch.nn.Linear(1, 1))
        ... except CheckpointError as error:
        ...     print(str(error).partition(";")[0])
        bias is in the model but not in the checkpoint
    """


class Progress(TypedDict):
    """Counters of the training loop."""

    best_epoch: int
    best_scores: dict[str, Score]
    loss_sum: float
    rows: int
    seconds: float
    batches_per_step: int
    """Batches of a step, over all ranks."""
    callbacks: dict[str, dict[str, object]]
    """Class name -> state of the callback."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """The complete state of a run, on the CPU; a run that resumes from it takes the same steps as without a stop."""

    epoch: int
    """Finished epochs."""
    step: int = 0
    """Steps taken in the current epoch."""
    model: dict[str, Tensor]
    """The state dict of the model."""
    optimizer: dict[str, Tensor]
    """``<parameter>/<key>`` -> state tensor."""
    groups: list[dict[str, object]]
    """Hyper-parameters of each parameter group."""
    best: dict[str, Tensor] | None = None
    """The best weights so far; ``None``: none yet."""
    rng: dict[str, Tensor]
    rng_facts: dict[str, dict[str, Any]]
    progress: Progress
    config: dict[str, object]
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
    progress: Progress,
    config: Mapping[str, object],
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
        progress=progress,
        config=dict(config),
        versions=_versions(),
    )


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict of a model to the CPU; every entry is a full tensor with its own storage.

    If the model is sharded, all ranks must call this.

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
    """Check that weights fit a model.

    Raises: CheckpointError: the first name that is missing or too many, has another shape or dtype, or is not finite.

    Examples:
        >>> import torch
        >>> from revgnn.train import check_weights
        >>> model = torch.nn.Linear(2, 2)
        >>> check_weights(model.state_dict(), model)  # silent: they fit
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
        keep: number of checkpoints to keep, at least 1; with 2, the run survives one damaged checkpoint.
    Returns: the folder of the checkpoint.
    Raises:
        OSError: for example the disk is full (the message gives the required bytes); older checkpoints are untouched.
        CheckpointError: the folder of the checkpoints is a link, which could point outside the run folder.
    Cost: writes the model twice (current and best weights) and the optimizer state once; reads the files back once for
        the checksums.
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
        # An existing folder of this name is a damaged checkpoint: a run that resumed from an intact one is past it.
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
    """Size of a snapshot on disk, without a few kilobytes of names."""
    tensors = (snapshot.model, snapshot.optimizer, snapshot.best or {}, snapshot.rng)
    return sum(value.nbytes for group in tensors for value in group.values())


def _prune(folder: Path, newest: Path, keep: int) -> None:
    names = list_checkpoints(folder.parent)
    place = names.index(newest)
    # Checkpoints that sort after the newest one are damaged and were skipped.
    for path in names[: max(0, place + 1 - keep)] + names[place + 1 :]:
        shutil.rmtree(path)


# ------------------------------------------------------------------ reading


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run folder, oldest first, including damaged ones."""
    folder = run / CHECKPOINT_FOLDER
    found = [(match, path) for path in folder.glob("epoch-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2] or 0)))]


def load_latest(run: Path) -> Snapshot | None:
    """Read the newest intact checkpoint of a run folder, with a warning for each damaged one that is skipped.

    Returns: the snapshot; ``None`` if no checkpoint was written.
    Raises: CheckpointError: every checkpoint is damaged.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import load_latest
        >>> load_latest(Path("runs/first")).epoch
        2
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
    """Read the run's best weights from its newest intact checkpoint.

    Raises: CheckpointError: every checkpoint is damaged, or nothing was selected yet.
        FileNotFoundError: there is no checkpoint.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import load_best
        >>> weights = load_best(Path("runs/first"))  # name -> tensor, as ``state_dict`` gives
    """
    snapshot = load_latest(run)
    if snapshot is None:
        raise FileNotFoundError(f"{run / CHECKPOINT_FOLDER} holds no checkpoint; train the run first")
    if snapshot.best is None:
        raise CheckpointError(f"{run} stopped before its first evaluation: no weights were selected; resume it")
    return snapshot.best


def load(path: Path) -> Snapshot:
    """Read one checkpoint and verify the checksum of every file.

    Raises: CheckpointError: the checkpoint is damaged; the message names the file and the error.
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
    """Check that the manifest has the types that `save` writes, even if its checksum is right."""
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
    """Whether the loop's counters, if present, have the right types."""
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
    check_format(path, manifest, FORMAT, CheckpointError)
    content = manifest.get("content")
    if not isinstance(content, dict) or manifest.get("sha256") != _digest(content):
        raise CheckpointError(f"{path} does not match its checksum")
    if not isinstance(content.get("files"), dict):
        raise CheckpointError(f"{path} lists no files")
    return content


def _read_tensors(path: Path, facts: object) -> dict[str, Tensor]:
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


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **versions_of("torch", "numpy", "accelerate", "revgnn")}
