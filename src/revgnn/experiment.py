"""A run from data to report: what it consists of, and the whole path on one page.

tables or data set -> batches -> model -> training -> checkpoints -> report. Every stage is one call to the piece that
knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .baselines import BaselineConfig, Shape, build_baseline
from .data import Dataset, DatasetConfig, LoaderConfig, Schema, Store, final_batches, make_batches, read_data
from .launcher import is_writer
from .nn.model import ModelConfig, build_model
from .overrides import from_json
from .run_folder import RunRecord, check_out, read_facts
from .target import Target
from .train import Callback, Checkpoints, FinalScores, Goal, TrainConfig, fit, one_run

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
        if not dataset.split_sizes.get("train"):
            raise ValueError(f"{dataset.name} has no training rows: it can be predicted, not learned from; label some")
        record = RunRecord(name, dataset)
        batches = make_batches(dataset, run.batch_size, run.train.seed, run.loader)
        model = make_model(run, dataset)
        own = [Checkpoints(_decides(run)), FinalScores(final_batches(batches)), *record.callbacks]
        result = fit(
            model,
            batches,
            run.train,
            metric=Goal(metric=dataset.metric, num_outputs=dataset.num_outputs),
            out=out,
            resume=resume,
            callbacks=[*own, *callbacks],
            device=device,
        )
        return record.write(out, asdict(run), model, result) if is_writer() else {}


def make_model(run: Experiment, dataset: Dataset | Store | Schema) -> nn.Module:
    """Build the network of a run for a data set, its weights drawn from the seed of the run.

    Raises: ValueError: where network and data do not go together.
    """
    torch.manual_seed(run.train.seed)
    labels = dataset.num_outputs if run.train.labels.reuse else 0
    if dataset.level == "graph" and (labels or isinstance(run.model, BaselineConfig)):
        raise ValueError(
            f"{dataset.name} is graph-level: labels as an input and the peers are of nodes; choose model and "
            "train.labels.reuse=false accordingly"
        )
    if isinstance(run.model, BaselineConfig):
        shape = Shape(
            in_channels=dataset.in_channels + labels,
            out_channels=dataset.num_outputs,
            edge_channels=dataset.edge_channels,
            label_channels=labels,
        )
        return build_baseline(run.model, shape)
    return build_model(
        run.model,
        in_channels=dataset.in_channels + labels,
        out_channels=dataset.num_outputs,
        edge_channels=dataset.edge_channels,
        categories=dataset.categories,
        level=dataset.level,
    )


def read_experiment(out: Path) -> Experiment:
    """Read what a finished run did from its folder.

    Raises: FileNotFoundError: the folder holds no finished run; ValueError: what it says cannot be.
    """
    path, facts = read_facts(out)
    try:
        return from_json(Experiment, facts["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what the run did: {error}; use the revgnn that wrote it") from error


def _decides(run: Experiment) -> dict[str, Any]:
    """The configuration that a resumed run must share; what the paper prints changes no weight."""
    return {key: value for key, value in asdict(run).items() if key not in {"train", "paper"}}
