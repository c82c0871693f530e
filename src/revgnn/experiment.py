"""A run from data to report: what it consists of, and the whole path on one page.

tables or data set -> batches -> model -> training -> checkpoints -> report. Every stage is one call to the piece that
knows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .baselines import BaselineConfig
from .data import (
    Batches,
    Dataset,
    DatasetConfig,
    GraphInfo,
    LoaderConfig,
    Store,
    final_batches,
    make_batches,
    read_data,
)
from .files import parts_of, read_object, write_whole
from .launcher import is_writer, world_size
from .measure import FIRST_BATCH, AllocationEvent, StepMemory
from .meter import memory_words, record_batches, resident_peak, step_memory
from .nn.model import ModelConfig
from .ops import implementation
from .overrides import from_json
from .report import build_report, circumstances, write_report
from .run_lock import claimed
from .target import Target
from .train import Progress, Row, TrainConfig, dry_run, fit, one_run, own_statistics
from .train.checkpoint import CHECKPOINT_FOLDER
from .train.curve import CURVE_FILE
from .train.tracking import TRACK_FOLDER

RUN_FILE = "run.json"
REPORT_FILE = "report.json"
FORMAT = 1

Device = Literal["auto", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes."""

    dataset: DatasetConfig
    """Which data, and what is done to its edges."""
    model: ModelConfig | BaselineConfig
    """What the network is made of: one of the paper's, or a peer of its tables."""
    train: TrainConfig
    """How it is trained."""
    batch_size: int | None = None
    """Graphs in a step, for graph-level data; ``None``: all in one step. At node level it must be ``None``."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """What a step and an evaluation see of a node-level graph: all of it, parts, or neighbourhoods."""
    paper: Target | None = None
    """What the paper prints; ``None``: the run is no row of the paper."""

    def for_data(self, info: GraphInfo) -> Experiment:
        """Give it with the loss that the task of its data decides, where it names none.

        Raises: ValueError: loss or metric do not go with the task.
        """
        return replace(self, train=self.train.for_task(info.task_spec, info.metric))


def run_experiment(
    run: Experiment,
    out: Path,
    *,
    name: str,
    data_root: Path,
    device: Device = "auto",
    resume: bool = False,
    download: bool = False,
    progress: Progress | None = None,
    dataset: Dataset | Store | None = None,
    predicted: Callable[[Experiment, Dataset | Store, Batches], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Take a run from its data to its report.

    Args:
        run: what to do.
        out: the run folder; receives run.json, curve.jsonl, ckpt/, result.json, report.json and report.html.
        name: what reports call it.
        data_root: where data lies, or goes.
        device: "auto" is an accelerator where there is one.
        resume: go on from the newest checkpoint in ``out``.
        download: fetch data that is missing, where its source allows it.
        progress: told of every step and epoch; ``None`` is silence.
        dataset: the data of the run where it is read already, as `read_data` gives it; ``None`` reads it.
        predicted: gives the "peak_bytes" to be expected, to stand beside those measured; ``None``: nothing does.
    Returns: the report; nothing on ranks after the first, which write none.
    Raises:
        FileExistsError: ``out`` holds something that is no run.
        ClaimedError: another run is writing to ``out``.
        Whatever loading, building and training raise.
    """
    _check_out(out)
    with one_run(out):
        if dataset is None:
            dataset = read_data(run.dataset, run.loader, data_root, download=download)
        if not dataset.info.split_sizes.get("train"):
            raise ValueError(f"{dataset.name} has no training rows: it can be predicted, not learned from; label some")
        run, resident = run.for_data(dataset.info), resident_peak(dataset)
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        model = make_model(run, dataset.info)
        # The first rank's steps are what a run reports.
        memory = step_memory(device, model, batches, run.train.accumulate) if is_writer() else None
        # The code that trains is loaded: what a checkout holds at the end is another matter.
        where = circumstances()
        result = fit(
            model,
            batches,
            run.train,
            metric=dataset.info.metric,
            final=final_batches(batches),
            out=out,
            resume=resume,
            progress=_Metered(progress, memory, lambda epoch: _record_again(epoch, run, memory, batches)),
            memory=memory,
            configuration=_decides(run),
            device=device,
            num_outputs=dataset.info.num_outputs,
        )
        if not is_writer():
            return {}
        facts = {
            "format": FORMAT,
            "name": name,
            "ranks": world_size(),
            "warnings": [said] if (said := own_statistics(model, synchronise=run.train.sync_batchnorm)) else [],
            "config": asdict(run),
            "dataset": describe(dataset.info),
            "schema": asdict(dataset.info.without_counts()),
            "implementation": implementation(result.device),
            "memory_how": None if memory is None else memory_words(memory, batches),
            "resident": resident.facts(),
            "where": where,
        }
        report = _write_report(out, facts)
        # Only now, for trials may fail; and of one process, for several would wait for each other.
        if predicted is None or result.device != "cpu" or world_size() > 1:
            return report
        return _write_report(out, {**facts, "predicted": predicted(run, dataset, batches)})


def _write_report(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    write_whole(out / RUN_FILE, json.dumps(facts, indent=1, default=str) + "\n")
    return report_on(out)


def _check_out(out: Path) -> None:
    """Refuse a folder of the user's own: of what stands in it nothing may be written over."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} must be a folder for the run, it is a file; choose another --out")
    names = {path.name for path in out.iterdir() if path.name != TRACK_FOLDER and not path.name.startswith(".")}
    if names and not names & {CURVE_FILE, CHECKPOINT_FOLDER, RUN_FILE}:
        raise FileExistsError(f"{out} holds {min(names)!r} and no run; choose another --out, or empty the folder")


def make_model(run: Experiment, info: GraphInfo) -> nn.Module:
    """Build the network of a run for a data set, its weights drawn from the seed of the run.

    Raises: ValueError: where network and data do not go together.
    """
    torch.manual_seed(run.train.seed)
    return run.model.build(info.with_label_inputs() if run.train.labels.reuse else info)


def training_memory(run: Experiment, dataset: Dataset | Store) -> int:
    """Measure the peak bytes of training steps on the CPU, by the definition that reports use.

    Args:
        run: its epochs do not matter: the first steps of two are taken, so that the optimizer's state is there; and of
            a fixed point that is unrolled at first, solved ones too.
        dataset: the data of the run.
    """
    return max(max(events)[0] for way in ways_of(run) for events in training_trace(way, dataset).values())


def ways_of(run: Experiment) -> Iterator[Experiment]:
    """A run and, where its first epochs unroll a fixed point, the same run that solves it from the first on."""
    yield run
    if _unrolled_epochs(run):
        assert isinstance(run.model, ModelConfig), "a peer has no fixed point"
        solved = replace(run.model.equilibrium, pretrain_epochs=0)
        yield replace(run, model=replace(run.model, equilibrium=solved))


def training_trace(run: Experiment, dataset: Dataset | Store) -> dict[str, list[AllocationEvent]]:
    """Measure as `training_memory`, moment by moment.

    Returns: the phases of `dry_run` and, where batches are made ahead, "first batch" -> all bytes that are alive, and
        those of gradients among them where gradients are made, after every allocation and every release.
    """
    run = run.for_data(dataset.info)
    batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
    model = make_model(run, dataset.info)
    memory = step_memory("cpu", model, batches, run.train.accumulate, detailed=True)
    assert memory is not None, "the CPU is always measured"
    dry_run(
        model,
        batches,
        run.train,
        memory,
        epochs=2,
        steps=memory.RECORDED_STEPS // 2,
        num_outputs=dataset.info.num_outputs,
    )
    return {
        phase: [(size + (memory.beside if phase != FIRST_BATCH else 0), left) for size, left in allocation_trace]
        for phase, allocation_trace in memory.allocation_trace.items()
    }


def read_experiment(out: Path) -> Experiment:
    """Read what a finished run did from its folder.

    Raises: FileNotFoundError: the folder holds no finished run; ValueError: what it says cannot be.
    """
    path, facts = _run_facts(out)
    try:
        return from_json(Experiment, facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what the run did: {error}; use the revgnn that wrote it") from error


def read_schema(out: Path) -> GraphInfo:
    """Read from the folder of a finished run what its model was made for.

    Raises: FileNotFoundError: the folder holds no finished run; ValueError: what it says cannot be.
    """
    path, facts = _run_facts(out)
    try:
        return GraphInfo.from_json(facts["schema"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what its model reads: {error!r}; train it again with this revgnn"
        ) from error


def _run_facts(out: Path) -> tuple[Path, dict[str, Any]]:
    path = out / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{out} holds no finished run ({RUN_FILE} is missing); train into it, or resume it")
    facts = read_object(path)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}; use the revgnn that wrote it")
    return path, facts


def describe(info: GraphInfo) -> dict[str, Any]:
    """Give the facts of a data set that a report names."""
    return {
        "name": info.name,
        "task": str(info.task_spec),
        "nodes": info.counts.nodes,
        "edges": info.counts.edges,
        "graphs": info.counts.graphs,
        "features": info.in_channels,
        "edge features": info.edge_channels,
        "outputs": info.num_outputs,
        **{f"{split} {info.level}s": rows for split, rows in info.counts.splits},
    }


def report_on(out: Path) -> dict[str, Any]:
    """Write the report of a finished run from what its folder holds.

    Args:
        out: a run folder.
    Returns: the report, which now stands in ``report.json`` and ``report.html``.
    Raises:
        FileNotFoundError, ValueError: the folder holds no finished run, or what it holds is damaged.
        ClaimedError: a run is writing to it.
    """
    _, facts = _run_facts(out)
    with claimed(out), parts_of(out):
        paper = facts["config"]["paper"]
        report = build_report(
            out,
            name=facts["name"],
            config={key: value for key, value in facts["config"].items() if key != "paper"},
            dataset=facts["dataset"],
            implementation=facts["implementation"],
            memory_how=facts["memory_how"],
            resident=facts.get("resident"),
            paper=paper,
            warnings=[*_warnings(paper), *facts.get("warnings", ())],
            predicted=facts.get("predicted"),
            where=facts.get("where"),
        )
        write_report(out, report)
    return report


def _decides(run: Experiment) -> dict[str, Any]:
    """The configuration that a resumed run must share; what the paper prints changes no weight."""
    return {key: value for key, value in asdict(run).items() if key not in {"train", "paper"}}


def _warnings(paper: Mapping[str, Any] | None) -> list[str]:
    if not paper:
        return []
    assumed = paper["assumed"]
    said = [f"The paper does not say everything: assumed here are {', '.join(assumed)}."] if assumed else []
    return [*said, *paper.get("notes", ())]


def _record_again(epoch: int, run: Experiment, memory: StepMemory | None, batches: Batches) -> None:
    """After the last epoch that unrolls a fixed point, record steps that solve it."""
    if memory is not None and epoch == _unrolled_epochs(run):
        memory.again()
        record_batches(memory, batches, run.train.accumulate)


def _unrolled_epochs(run: Experiment) -> int:
    """Epochs in which a fixed point is unrolled, before the first that solves it."""
    if not isinstance(run.model, ModelConfig) or run.model.backprop != "implicit":
        return 0
    return run.model.equilibrium.pretrain_epochs


class _Metered:
    """A `Progress` that also tells the memory meter of every step."""

    def __init__(self, inner: Progress | None, memory: StepMemory | None, ended: Callable[[int], None]) -> None:
        self._inner, self._memory, self._ended = inner, memory, ended

    def begin(self, *, epochs: int, steps: int, done: int, metric: str) -> None:
        if self._inner is not None:
            self._inner.begin(epochs=epochs, steps=steps, done=done, metric=metric)

    def step(self, *, epoch: int, step: int, loss: float) -> None:
        if self._memory is not None:
            self._memory.step()
        if self._inner is not None:
            self._inner.step(epoch=epoch, step=step, loss=loss)

    def epoch(self, row: Row) -> None:
        self._ended(row["epoch"])
        if self._inner is not None:
            self._inner.epoch(row)

    def end(self) -> None:
        if self._memory is not None:
            self._memory.close()
        if self._inner is not None:
            self._inner.end()
