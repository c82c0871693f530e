"""Checkpoints, run folders and data of strangers: an error that says what is wrong, and nothing else happens."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import revgnn
from revgnn.cli import main
from revgnn.data.readers.pyg import read_planetoid
from revgnn.train import load_latest
from revgnn.train.checkpoint import CheckpointError, Snapshot, load
from revgnn.train.distill import TeacherOptions, load_teacher
from toy_run import fit_toy

PACKAGE = Path(revgnn.__file__).parent
LOOSE = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    fit_toy(out)
    return out


def _newest(run: Path) -> Path:
    return max((run / "ckpt").iterdir())


def _same(one: Snapshot, other: Snapshot) -> bool:
    tensors = [(one.model, other.model), (one.optimizer, other.optimizer), (one.rng, other.rng), (one.best, other.best)]
    facts = ("epoch", "step", "groups", "rng_facts", "progress", "config", "versions")
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in tensors) and all(
        getattr(one, fact) == getattr(other, fact) for fact in facts
    )


@LOOSE
@given(data=st.data())
def test_any_damage_to_a_checkpoint_is_seen_or_harmless(trained: Path, data: st.DataObject) -> None:
    whole = _newest(trained)
    expected = load(whole)
    name = data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
    original = (whole / name).read_bytes()
    damaged = bytearray(original)
    place = data.draw(st.integers(0, len(original) - 1))
    if data.draw(st.booleans()):
        damaged[place] ^= data.draw(st.integers(1, 255))
    else:
        del damaged[place:]
    (whole / name).write_bytes(damaged)
    try:
        got = load(whole)
    except CheckpointError:
        pass
    else:
        # White space of the manifest may be another.
        assert name == "manifest.json"
        assert _same(got, expected)
    finally:
        (whole / name).write_bytes(original)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _resigned(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["content"])
    canonical = json.dumps(manifest["content"], sort_keys=True, separators=(",", ":")).encode()
    manifest["sha256"] = hashlib.sha256(canonical).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@LOOSE
@given(part=st.sampled_from(["epoch", "step", "groups", "rng", "progress", "config", "versions", "files"]), value=JSON)
def test_a_signed_manifest_of_nonsense_is_an_error_of_the_run(trained: Path, part: str, value: Any) -> None:
    newest = _newest(trained)
    original = (newest / "manifest.json").read_bytes()
    _resigned(newest, lambda content: content.update({part: value}))
    before = sorted(trained.parent.rglob("*"))
    try:
        fit_toy(trained, resume=True)
    except ValueError:
        pass
    finally:
        (newest / "manifest.json").write_bytes(original)
    assert sorted(trained.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "{" + '"a":' * 3 + "1}",
        '{"format": 1, "format": 1}',
        '{"format": NaN}',
        '{"format": ' + "9" * 9999 + "}",
        "[]",
        "",
    ],
    ids=["deep", "broken", "twice", "NaN", "huge", "list", "empty"],
)
def test_a_json_bomb_is_an_error(trained: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for folder in (tmp_path / "run" / "ckpt").iterdir():
        (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        load_latest(tmp_path / "run")
    with pytest.raises(CheckpointError, match="manifest.json"):
        load(folder)


@pytest.mark.parametrize("name", ["run.json", "result.json", "curve.jsonl"])
@pytest.mark.parametrize("text", ["{}", DEEP, '{"config": [], "name": 3}', "\x00", '{"epoch": 1}\n{"epoch": 2}'])
def test_a_hostile_run_folder_is_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    words = ["--set", "train.epochs=2", "--set", "train.patience=none", "--set", "model.num_layers=3"]
    run = tmp_path / "run"
    assert main(["train", "digits/revgnn", "--device", "cpu", "--out", str(run), *words]) == 0
    (run / name).write_text(text)
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "Traceback" not in said


def test_links_lead_nowhere(trained: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "epoch-000001").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpt").symlink_to(outside)
    with pytest.raises(CheckpointError):
        fit_toy(tmp_path / "run", resume=True)
    shutil.rmtree(outside / "epoch-000001")
    with pytest.raises(CheckpointError, match="must not be a link"):
        fit_toy(tmp_path / "run", resume=True)
    assert not list(outside.iterdir())
    run = tmp_path / "other"
    shutil.copytree(trained, run)
    for name in ("result.json", "curve.jsonl"):
        shutil.copy(run / name, outside / name)
        (run / name).unlink()
        (run / name).symlink_to(outside / name)
    (outside / "result.json").write_text("mine")
    kept = (outside / "curve.jsonl").read_bytes()
    fit_toy(run, resume=True)
    assert (outside / "result.json").read_text() == "mine"
    assert (outside / "curve.jsonl").read_bytes() == kept


@pytest.mark.parametrize(
    "logits", [torch.zeros(3), torch.zeros(3, 2).double(), torch.full((3, 2), float("nan")), torch.zeros(3, 2).int()]
)
def test_a_teacher_of_another_kind_is_an_error(tmp_path: Path, logits: torch.Tensor) -> None:
    save_file({"logits": logits}, tmp_path / "logits.safetensors")
    with pytest.raises(ValueError, match="must be finite torch.float32"):
        load_teacher(TeacherOptions(path=str(tmp_path / "logits.safetensors")), seed=0)


def test_weights_that_are_not_finite_stop_the_run(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    newest = _newest(tmp_path / "run")
    path = newest / "model.safetensors"
    weights = load(newest).model
    weights["first.bias"][0] = float("nan")
    save_file(weights, path)
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    _resigned(newest, lambda content: content["files"].update({path.name: facts}))
    with pytest.raises(CheckpointError, match="not finite"):
        fit_toy(tmp_path / "run", resume=True)


def test_a_folder_of_the_users_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    words = ["train", "digits/revgnn", "--device", "cpu", "--out", str(tmp_path)]
    for more in ([], ["--resume"]):
        assert main([*words, *more]) == 2
        assert "holds 'thesis.tex' and no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_a_hostile_planetoid_file_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph"):
        (raw / f"ind.cora.{part}").write_bytes(pickle.dumps(Evil()))
    (raw / "ind.cora.test.index").write_text("0\n")
    with pytest.raises(ValueError, match="ind.cora.x asks for posix.system"):
        read_planetoid("Cora", tmp_path)
    assert not (tmp_path / "executed").exists()


FORBIDDEN = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
ALLOWED = {
    "interop/official.py": {"torch.load"},
    "data/readers/city.py": {"torch.load"},
    "data/readers/planetoid.py": {"pickle.Unpickler"},
}


def test_the_package_loads_no_pickle() -> None:
    """`torch.load` says weights_only=True, no call allows pickles, and nobody else unpickles or evaluates."""
    sources = Path(sys.modules["revgnn.cli"].__file__ or "").parent
    checked = 0
    for path in sources.rglob("*.py"):
        name = path.relative_to(sources).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                bad = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"} & {
                    m.split(".")[0] for m in modules
                }
                assert not bad, f"{name} imports {bad}"
                if "pickle" in modules:
                    assert name in ALLOWED, f"{name} imports pickle"
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given_words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            checked += 1
            assert called not in {"eval", "exec", "pickle.load", "pickle.loads", "os.system"}, f"{name} calls {called}"
            assert given_words.get("allow_pickle", "False") == "False", f"{name} allows pickles"
            assert given_words.get("shell") != "True", f"{name} starts a shell"
            if called == "torch.load":
                assert "torch.load" in ALLOWED.get(name, set()), f"{name} calls torch.load"
                assert given_words.get("weights_only") == "True", f"{name}: weights_only=True is missing"
    assert checked > 1000
