"""A run from data to report: what it consists of, and the whole path on one page.

tables or data set -> batches -> model -> training -> checkpoints -> report. Every stage is one call to the piece that
knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from .by_name import find_object, name_of
from .data import Dataset, DatasetConfig, GraphInfo, LoaderConfig, Store, final_batches, make_batches, read_data
from .launcher import is_writer
from .plain_config import from_json
from .run_folder import RunRecord, check_out, read_facts
from .train import Callback, Checkpoints, FinalScores, Goal, TrainConfig, fit, one_run

Device = Literal["auto", "cpu"]


class ModelBuilder(Protocol):
    """What builds a network for a data set: a configuration of this package, or an object of the user's own."""

    def build(self, info: GraphInfo) -> nn.Module:
        """Make the network, called as ``model(x, graph, edge_attr, seed=...)``, with random weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes."""

    dataset: DatasetConfig
    """Which data, and what is done to its edges."""
    model: ModelBuilder
    """What builds the network: a `ModelConfig`, a baseline of the paper's tables, or an object of the user's own with
    ``build(info)``."""
    train: TrainConfig
    """How it is trained."""
    batch_size: int | None = None
    """Graphs in a step, for graph-level data; ``None``: all in one step. At node level it must be ``None``."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """What a step and an evaluation see of a node-level graph: all of it, parts, or neighbourhoods."""

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
    callbacks: Sequence[Callback] = (),
    target: Mapping[str, Any] | None = None,
    dataset: Dataset | Store | None = None,
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
        callbacks: told of the training, such as a `ProgressBar`.
        target: what a publication prints for the experiment, to stand beside the results in the report.
        dataset: the data of the run where it is read already, as `read_data` gives it; ``None`` reads it.
    Returns: the report; nothing on ranks after the first, which write none.
    Raises:
        FileExistsError: ``out`` holds something that is no run.
        ClaimedError: another run is writing to ``out``.
        Whatever loading, building and training raise.
    """
    check_out(out)
    with one_run(out):
        if dataset is None:
            dataset = read_data(run.dataset, run.loader, data_root, download=download)
        if not dataset.info.split_sizes.get("train"):
            raise ValueError(f"{dataset.name} has no training rows: it can be predicted, not learned from; label some")
        run, record = run.for_data(dataset.info), RunRecord(name, dataset)
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        model = make_model(run, dataset.info)
        own = [Checkpoints(_decides(run)), FinalScores(final_batches(batches)), *record.callbacks]
        result = fit(
            model,
            batches,
            run.train,
            metric=Goal(metric=dataset.info.metric, num_outputs=dataset.info.num_outputs),
            out=out,
            resume=resume,
            callbacks=[*own, *callbacks],
            device=device,
        )
        return record.write(out, as_json(run), target, model, result) if is_writer() else {}


def make_model(run: Experiment, info: GraphInfo) -> nn.Module:
    """Build the network of a run for a data set, its weights drawn from the seed of the run.

    Raises: ValueError: where network and data do not go together.
    """
    torch.manual_seed(run.train.seed)
    return run.model.build(info.with_label_inputs() if run.train.labels.reuse else info)


def as_json(run: Experiment) -> dict[str, Any]:
    """Give an experiment as plain values; of its model also the class, so that `experiment_of` finds it."""
    model = run.model
    facts = {key: asdict(getattr(run, key)) for key in ("dataset", "train", "loader")}
    return {
        "dataset": facts["dataset"],
        "model": {"class": name_of(type(model)), **(asdict(model) if is_dataclass(model) else {})},
        "train": facts["train"],
        "batch_size": run.batch_size,
        "loader": facts["loader"],
    }


def experiment_of(facts: Mapping[str, Any]) -> Experiment:
    """Make an experiment again of what `as_json` and JSON made of it.

    Raises: ValueError: a field that is unknown or missing, or of another type; ImportError: the module of the model
        cannot be imported.
    """
    fields = dict(facts["model"])
    kind = find_object(fields.pop("class"))
    if not isinstance(kind, type):
        raise ValueError(f"model.class must name a class, got {kind!r}")
    model = from_json(kind, fields, "model") if is_dataclass(kind) else kind()
    return from_json(Experiment, {**facts, "model": model})


def find_model(name: str) -> ModelBuilder:
    """Import a model of the user's own, ``package.module:Name``: a class that is made without arguments.

    Raises: ValueError: there is no such class, or it has no ``build(info)``; ImportError: its module cannot be.
    """
    kind = find_object(name)
    if not isinstance(kind, type) or not callable(getattr(kind, "build", None)):
        raise ValueError(
            f"{name} must be a class with a method build(info) that returns an nn.Module, got {kind!r}; give it one, "
            "such as a dataclass whose fields --set can change"
        )
    model: ModelBuilder = kind()
    return model


def read_experiment(out: Path) -> Experiment:
    """Read what a finished run did from its folder.

    Raises: FileNotFoundError: the folder holds no finished run; ValueError: what it says cannot be.
    """
    path, facts = read_facts(out)
    try:
        return experiment_of(facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what the run did: {error}; use the revgnn that wrote it") from error


def _decides(run: Experiment) -> dict[str, Any]:
    """The configuration that a resumed run must share, apart from its training."""
    return {key: value for key, value in as_json(run).items() if key != "train"}
