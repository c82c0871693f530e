"""Feed damaged files to every reader of files that are not trusted, for a while: `make fuzz`.

A target writes good files and reads a copy of them in which one file was changed: bytes are flipped, inserted, doubled
or cut off; values of a JSON file are replaced by hostile ones, half of the time with checksums that are right again. A
reader may read what is still right, or raise an error of its own kind, within seconds. Anything else is a finding:
another error, a crash, a hang, or a file that it wrote or removed. Its files stay in build/fuzz.

    python tests/fuzz.py --seconds 60 --jobs 2          # each target for a minute, two at a time
    python tests/fuzz.py tables --seed 7                # one target, with the same changes again
    python tests/fuzz.py --again build/fuzz/tables-7    # read the files of a finding once more
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch

import revgnn
from prepared_graphs import draw_whole, write_store
from revgnn import Experiment, GraphInfo, ModelConfig, TrainConfig, TrainedModel, run_experiment
from revgnn.data.ondisk.store import Store
from revgnn.data.prepare import prepare, read_config
from revgnn.data.readers.npz import read_npz
from revgnn.data.readers.roads import read_roads
from revgnn.interop import convert
from revgnn.run_folder import read_report, report_on
from revgnn.train.checkpoint import list_checkpoints, load
from small_tables import good_edges, good_nodes, write
from toy_run import fit_toy

FINDINGS = Path("build/fuzz")
SECONDS_OF_A_READ = 20.0
BYTES_OF_A_READ = 6 * 2**30
INFO = GraphInfo(in_channels=5, num_outputs=3)


class Hang(BaseException):
    """A read did not end in time."""


@dataclass(frozen=True)
class Target:
    write: Callable[[Path], object]
    """Writes good files into an empty folder."""
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (ValueError,)
    """What it may raise."""


# ---------------------------------------------------------------------- what is read
def _write_run(folder: Path) -> None:
    run = Experiment(
        dataset=revgnn.DatasetConfig(name="karate"),
        model=ModelConfig(num_layers=2, hidden_channels=4),
        train=TrainConfig(epochs=2),
    )
    run_experiment(run, folder / "run", name="karate", data_root=folder, device="cpu")


def _read_run(folder: Path) -> None:
    report_on(folder / "run")
    read_report(folder / "run")
    revgnn.load(folder / "run", device="cpu")


def _read_checkpoints(folder: Path) -> None:
    for path in list_checkpoints(folder / "run"):
        load(path)


def _write_shared(folder: Path) -> None:
    run = Experiment(
        dataset=revgnn.DatasetConfig(name="digits"),
        model=ModelConfig(conv="sage", num_layers=2, hidden_channels=4),
        train=TrainConfig(),
    )
    TrainedModel(run, INFO, run.model.build(INFO)).save_pretrained(folder)


def _write_tables(folder: Path) -> None:
    write(folder, good_nodes(), good_edges())


def _write_csv(folder: Path) -> None:
    nodes = {**good_nodes(), "x": [0.5, -1.0, 2.0, 1e-3]}
    pa.csv.write_csv(pa.table(nodes), folder / "nodes.csv")
    pa.csv.write_csv(pa.table(good_edges()), folder / "edges.csv")
    config = "nodes: {files: nodes.csv, features: x, label: label}\nedges: {files: edges.csv}\nsplit: split\n"
    (folder / "graph.yaml").write_text(config)


def _prepare(folder: Path) -> None:
    out = Path(tempfile.mkdtemp(dir=folder.parent)) / "graph"
    prepare(read_config(folder / "graph.yaml"), folder, out)


def _read_store(folder: Path) -> None:
    store = Store.open(folder / "graph")
    store.load()
    store.batch([0, 1])


def _write_official(folder: Path) -> None:
    from unit.test_official import official_weights

    torch.save({"model_state_dict": official_weights()}, folder / "official.pth")


def _read_official(folder: Path) -> None:
    convert(folder / "official.pth", Path(tempfile.mkdtemp(dir=folder.parent)) / "out")


def _write_arrays(folder: Path) -> None:
    np.savez(folder / "arrays.npz", x=np.eye(3, dtype=np.float32), y=np.arange(3))


def _write_roads(folder: Path) -> None:
    node = np.arange(20)
    roads = {"src": node, "dst": (node + 1) % 20, "length": 1.5 + node}
    np.savez(folder / "roads.npz", **roads)
    pa.csv.write_csv(pa.table(roads), folder / "roads.csv")


def _read_roads(folder: Path) -> None:
    for name in ("roads.npz", "roads.csv"):
        read_roads(folder / name)


TARGETS = {
    "checkpoint": Target(lambda folder: fit_toy(folder / "run"), _read_checkpoints),
    "run": Target(_write_run, _read_run, (ValueError, FileNotFoundError)),
    "shared": Target(_write_shared, lambda folder: revgnn.from_pretrained(folder, device="cpu")),
    "prepared": Target(lambda folder: write_store(folder / "graph", draw_whole()), _read_store),
    "tables": Target(_write_tables, _prepare, (ValueError, FileNotFoundError)),
    "csv": Target(_write_csv, _prepare, (ValueError, FileNotFoundError)),
    "official": Target(_write_official, _read_official),
    "roads": Target(_write_roads, _read_roads),
    "arrays": Target(_write_arrays, lambda folder: read_npz(folder / "arrays.npz", ["x"], ["y"])),
}


# ---------------------------------------------------------------------- how it is damaged
TOKENS = (
    *(b"\0", b"\xff\xfe", b"\n", b",", b'"', b"'", b"NaN", b"-1", b"1e999", b"9" * 40, b"../..", b"[" * 3000),
    *(b"&a [*a]", b"!!python/object/apply:os.system [id]", b"\xf0\x9f\x98\x80", b"null", b"\x7fELF", b"PK\x03\x04"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -0.5, 1e308, "", "x", "../up", "a:b", "antigravity:Name"),
    *([], {}, [[]], [0] * 99),
)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 8, 64, 1024))
        what = rng.randrange(6)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            changed[at : at + length] = rng.randbytes(length)
        elif what == 2:
            changed[at:at] = rng.choice(TOKENS)
        elif what == 3:
            changed[at:at] = changed[at : at + length]
        elif what == 4:
            del changed[at : at + length]
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def damaged_value(rng: random.Random, value: Any) -> Any:
    """Replace, remove or add one value somewhere in a JSON value."""
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inner or rng.random() < 0.15:
        return rng.choice(VALUES)
    key, child = rng.choice(inner)
    changed = value.copy()
    what = rng.randrange(8)
    if what == 0:
        del changed[key]
    elif what == 1 and isinstance(changed, dict):
        changed[str(rng.choice(VALUES))] = child
    else:
        changed[key] = damaged_value(rng, child)
    return changed


def sign_again(folder: Path) -> None:
    """Put sizes and checksums of the files that are there into every manifest below a folder."""
    for path in folder.rglob("manifest.json"):
        try:
            manifest = json.loads(path.read_text())
            content = manifest["content"]
            groups = [(path.parent, content["files"])] if "files" in content else []
            for number, part in enumerate(content.get("parts", [])):
                groups.append((path.parent / "parts" / f"{number:05d}", part["files"]))
            for place, facts in groups:
                for name in facts:
                    data = (place / name).read_bytes()
                    facts[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
            manifest["sha256"] = hashlib.sha256(canonical).hexdigest()
            path.write_text(json.dumps(manifest))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue  # it is damaged too much to be signed


def damage(rng: random.Random, folder: Path) -> None:
    """Change one file of a folder."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if path.suffix == ".json" and rng.random() < 0.8:
        value = json.loads(path.read_text())
        inside = rng.random() < 0.9 and isinstance(value, dict) and "content" in value
        changed = {**value, "content": damaged_value(rng, value["content"])} if inside else damaged_value(rng, value)
        path.write_text(json.dumps(changed))
    else:
        path.write_bytes(damaged(rng, path.read_bytes()))
    if rng.random() < 0.5:
        sign_again(folder)


# ---------------------------------------------------------------------- the loop
def fuzz(name: str, *, seconds: float, seed: int, most: int | None = None) -> tuple[int, int]:
    """Read damaged files for a while; returns how many were read, and how many of them were refused.

    Raises: AssertionError: a finding, whose files are in `FINDINGS`.
    """
    target, rng = TARGETS[name], random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        good, trial = Path(place, "good"), Path(place, "trial")
        good.mkdir()
        target.write(good)
        read_once(target, shutil.copytree(good, trial))
        until, count, refused = time.monotonic() + seconds, 0, 0
        while time.monotonic() < until and count != most:
            _clear(Path(place), but=good)
            damage(rng, shutil.copytree(good, trial))
            shutil.copytree(trial, Path(place, "as given"))
            try:
                refused += read_once(target, trial)
            except BaseException as error:
                kept = FINDINGS / f"{name}-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(Path(place, "as given"), kept)
                raise AssertionError(f"{name}, input {count} of seed {seed}, kept in {kept}: {error!r}") from error
            count += 1
    return count, refused


def read_once(target: Target, folder: Path) -> bool:
    """Read a folder; return whether it was refused."""
    before = _listed(folder)
    with _in_time():
        try:
            target.read(folder)
            return False
        except target.errors:
            return True
        finally:
            assert _listed(folder) == before, f"files were written or removed: {_listed(folder) ^ before}"


def _listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _clear(place: Path, but: Path) -> None:
    for path in place.iterdir():
        if path != but:
            shutil.rmtree(path)


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"a read takes more than {SECONDS_OF_A_READ} s of a processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_OF_A_READ)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.again is not None:
        print("refused" if read_once(TARGETS[given.again.name.partition("-")[0]], given.again) else "read")
        return 0
    if len(given.targets) == 1:
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES_OF_A_READ, resource.RLIM_INFINITY))
        torch.set_num_threads(1)
        count, refused = fuzz(given.targets[0], seconds=given.seconds, seed=given.seed)
        print(f"{given.targets[0]}: {count} inputs, {refused} refused (seed {given.seed})", flush=True)
        return 0

    def run(name: str) -> int:
        # A process of its own: a crash in a library is a finding, and no end of the others.
        words = [sys.executable, __file__, name, f"--seconds={given.seconds}", f"--seed={given.seed}"]
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"{name}: FINDING (exit code {code}, seed {given.seed})", flush=True)
        return code

    with ThreadPoolExecutor(given.jobs) as pool:
        return int(any(list(pool.map(run, given.targets or TARGETS))))


if __name__ == "__main__":
    sys.exit(main())
