"""Runs an experiment from its configuration to its report: data, batches, model, training, checkpoints, report.

Each stage is one call to the module that implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from .by_name import find_object, name_of
from .data import (
    Batches,
    Dataset,
    DatasetConfig,
    DatasetSource,
    GraphInfo,
    InferenceSource,
    LoaderConfig,
    Store,
    StoredViews,
    StoreSource,
    class_weights,
    final_batches,
    make_batches,
    read_data,
    with_target_scale,
)
from .launcher import is_writer
from .plain_config import changed_fields, from_json
from .report import describe_evaluation, strides
from .report.facts import Configuration, Described, Published, Report
from .run_folder import RunRecord, check_out, read_facts
from .train import Callback, Checkpoints, FinalScores, Goal, KeepOutputs, TrainConfig, fit, one_run
from .train.device import Device, check_device


class ModelBuilder(Protocol):
    """Builds a network for a data set: a configuration of this package, or a user's object."""

    def build(self, info: GraphInfo) -> nn.Module:
        """Make the network, called as ``model(x, graph, edge_attr, seed=...)``, with random weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The configuration of a run.

    Examples:
        >>> import revgnn
        >>> experiment = revgnn.Experiment(
        ...     dataset=revgnn.DatasetConfig(name="karate"),
        ...     model=revgnn.ModelConfig(conv="sage", num_layers=4, hidden_channels=16),
        ...     train=revgnn.TrainConfig(epochs=2),
        ... )
    """

    dataset: DatasetConfig
    """The data set and the changes to its edges."""
    model: ModelBuilder
    """Builds the network: a `ModelConfig`, a baseline of the paper, or a user's object with ``build(info)``."""
    train: TrainConfig
    """The training configuration."""
    batch_size: int | None = None
    """Graphs per step, for graph-level data; ``None``: all in one step. At node level it must be ``None``."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Sampling of a node-level graph in training and evaluation: the whole graph, parts, or neighbourhoods."""

    def for_data(self, info: GraphInfo) -> Experiment:
        """Return a copy whose loss is the default of the data's task, if none is configured.

        Raises: ValueError: loss or metric do not fit the task.
        """
        return replace(self, train=self.train.for_task(info.task_spec, info.metric))


def run_experiment(
    run: Experiment,
    out: Path | str,
    *,
    name: str,
    data_root: Path | str,
    device: Device = "auto",
    resume: bool = False,
    download: bool = False,
    callbacks: Sequence[Callback] = (),
    target: Published | None = None,
    dataset: Dataset | Store | None = None,
) -> Report | None:
    """Read the data, build and train the model, and write the report.

    Args:
        run: the experiment.
        out: the run folder; receives run.json, curve.jsonl, ckpt/, result.json, report.json and report.html.
        name: name in reports.
        data_root: folder of the data and of downloads.
        device: "auto": an accelerator if there is one.
        resume: continue from the newest checkpoint in ``out``.
        download: download missing data if possible.
        callbacks: callbacks of the training, such as a `ProgressBar`.
        target: published results, shown next to this run's results in the report.
        dataset: the data if it is loaded already, from `read_data`; ``None``: it is read.
    Returns: the report; ``None`` on all ranks but the first.
    Raises:
        FileExistsError: ``out`` contains something else than a run.
        ClaimedError: another run is writing to ``out``.
        The exceptions of loading, building and training.

    Examples:
        >>> from pathlib import Path
        >>> import revgnn
        >>> experiment = revgnn.Experiment(
        ...     dataset=revgnn.DatasetConfig(name="karate"),
        ...     model=revgnn.ModelConfig(num_layers=2),
        ...     train=revgnn.TrainConfig(epochs=2),
        ... )
        >>> report = revgnn.run_experiment(experiment, Path("runs/karate"), name="karate", data_root=Path("data"))
        >>> report["result"]["epochs"]
        2
    """
    check_device(device)
    out, data_root = Path(out), Path(data_root)
    check_out(out)
    with one_run(out):
        if dataset is None:
            dataset = read_data(run.dataset, run.loader, data_root, download=download)
        if not dataset.info.split_sizes.get("train"):
            raise ValueError(f"{dataset.name} has no training rows: it can be predicted, not learned from; label some")
        info = with_target_scale(dataset)
        asked, run, record = run, run.for_data(info), RunRecord(name, dataset, info)
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        model = make_model(run, info)
        source = _evaluated(dataset, batches, run)
        kept = KeepOutputs(source.batches, strides(info))
        own = [Checkpoints(_decides(run, info)), FinalScores(final_batches(batches)), *record.callbacks, kept]
        result = fit(
            model,
            batches,
            run.train,
            metric=_goal(run, dataset, info),
            out=out,
            resume=resume,
            callbacks=[*own, *callbacks],
            device=device,
        )
        if not is_writer():
            return None
        evaluation = describe_evaluation(dataset, info, source, kept.outputs)
        facts: Described = {"evaluation": evaluation, "changed": changed_fields(asked), "paper": target}
        return record.write(out, as_json(run), model, result, facts)


def _goal(run: Experiment, dataset: Dataset | Store, info: GraphInfo) -> Goal:
    """Return what training must know of the labels."""
    return Goal(
        metric=info.metric,
        num_outputs=info.num_outputs,
        scale=info.target_scale,
        class_weights=class_weights(dataset) if run.train.class_weight == "balanced" else None,
    )


def _evaluated(dataset: Dataset | Store, batches: Batches, run: Experiment) -> InferenceSource:
    """Return the final evaluation of a run, whose rows have the user's ids."""
    if isinstance(dataset, Store):
        return StoreSource(dataset, StoredViews(dataset, *run.loader.final_evaluation, run.train.seed))
    return DatasetSource(dataset, final_batches(batches) or batches)


def make_model(run: Experiment, info: GraphInfo) -> nn.Module:
    """Build the network of a run for a data set, with weights drawn from the run's seed.

    Raises: ValueError: the network does not fit the data.
    """
    torch.manual_seed(run.train.seed)
    return run.model.build(info.with_label_inputs() if run.train.labels.reuse else info)


def as_json(run: Experiment) -> Configuration:
    """Convert an experiment to JSON values, including the class of its model, for `experiment_of`."""
    model = run.model
    return {
        "dataset": asdict(run.dataset),
        "model": {"class": name_of(type(model)), **(asdict(model) if is_dataclass(model) else {})},
        "train": asdict(run.train),
        "batch_size": run.batch_size,
        "loader": asdict(run.loader),
    }


def experiment_of(facts: Configuration) -> Experiment:
    """Create an experiment from the result of `as_json`.

    Raises: ValueError: a field is unknown, missing or of another type; ImportError: the module of the model cannot be
        imported.
    """
    fields = dict(facts["model"])
    kind = find_object(str(fields.pop("class")))
    if not isinstance(kind, type):
        raise ValueError(f"model.class must name a class, got {kind!r}")
    model = from_json(kind, fields, "model") if is_dataclass(kind) else kind()
    return from_json(Experiment, {**facts, "model": model})


def find_model(name: str) -> ModelBuilder:
    """Import a user's model by ``package.module:Name`` and create it without arguments.

    Raises: ValueError: there is no such class, or it has no ``build(info)``; ImportError: its module cannot be
        imported.
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
    """Read the experiment of a finished run from its folder.

    Raises: FileNotFoundError: the folder has no finished run; ValueError: its configuration is invalid.
    """
    path, facts = read_facts(out)
    try:
        return experiment_of(facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what the run did: {error}; use the revgnn that wrote it") from error


def _decides(run: Experiment, info: GraphInfo) -> dict[str, object]:
    """Return the configuration that a resumed run must share, without the training configuration."""
    scale = {} if info.target_scale is None else {"target_scale": asdict(info.target_scale)}
    return {key: value for key, value in as_json(run).items() if key != "train"} | scale
