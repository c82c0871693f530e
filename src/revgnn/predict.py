"""Write the predictions of a finished run to a Parquet file, with the user's ids, batch by batch.

Columns: id, split, prediction, probabilities (not for regression), and optionally the last hidden state. The file is
written under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .data import (
    SPLITS,
    Dataset,
    DatasetConfig,
    DatasetSource,
    GraphInfo,
    InferenceSource,
    LoaderConfig,
    Store,
    StoredViews,
    StoreSource,
    is_store,
    read_data,
)
from .data.task import lists
from .experiment import Device, Experiment, make_model, read_experiment
from .files import replacing, room_for
from .run_folder import read_schema
from .run_lock import claimed
from .train import Inference, Sums, check_weights, load_best

_ROWS_PER_TABLE = 2**16
"""Rows that are written together after averaging several views."""

Which = Literal["all", "train", "valid", "test"]


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """Options of a prediction."""

    split: Which = "all"
    """Write only the rows of this split."""
    embeddings: bool = False
    """Whether to write the last hidden state too."""
    parts: int | None = None
    """Number of parts of the graph, one in memory at a time; ``None``: as in the run's final evaluation."""
    views: int | None = None
    """Number of partitions whose logits are averaged; ``None``: as in the run's final evaluation, or 1 with
    ``parts``."""


def predict_run(
    folder: Path,
    out: Path,
    options: Predicting,
    *,
    data_root: Path,
    data: Path | None = None,
    device: Device = "auto",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, object]:
    """Apply the selected weights of a finished run to its own graph, or to another one of the same features.

    Args:
        folder: the run folder.
        out: the Parquet file to write; an existing one is replaced.
        options: see `Predicting`.
        data_root: the folder of data, as in training.
        data: a folder of tables or a prepared graph, with or without labels and splits; ``None``: the data of the run.
        device: "auto" uses an accelerator if there is one.
        progress: called with the rows that are done and the total.
    Returns: facts about the written file.
    Raises:
        FileNotFoundError, ValueError: no finished run, or a graph that does not fit the model.
        OSError: the disk is full; the message states needed and free bytes, and no file is left.
        ClaimedError: another process writes to ``out``.
    """
    with claimed(out, beside=True):
        run, trained = read_experiment(folder), read_schema(folder)
        config = run.dataset if data is None else _other(run.dataset, data)
        loader = _evaluation(run, options, config)
        source = read_data(config, loader, data_root, like=trained)
        _check(trained, source.info, reads_labels=run.train.labels.reuse)
        model = make_model(run, trained)
        weights = load_best(folder)
        check_weights(weights, model)
        model.load_state_dict(weights)
        model.to(_device(device))
        inference = Inference(
            model,
            labels=run.train.labels,
            num_outputs=trained.num_outputs,
            precision=run.train.precision,
            hidden=options.embeddings,
        )
        inference_source = _inference_source(run, source, loader)
        # Always closed, because gradients are disabled in this process while the generator is open.
        with closing(_tables(inference_source, inference, options, loader.eval_views, trained, progress)) as tables:
            rows = _write(tables, inference_source.num_rows, out, trained.class_names)
    return {
        "out": str(out),
        "rows": rows,
        "data": source.name,
        "task": trained.task,
        "split": options.split,
        "parts": loader.eval_parts,
        "views": loader.eval_views,
        "embeddings": options.embeddings,
    }


# ---------------------------------------------------------------------- data and model


def _other(trained: DatasetConfig, data: Path) -> DatasetConfig:
    """Return the data configuration of another graph, with the run's settings."""
    path = str(data.resolve())
    if is_store(data):
        return DatasetConfig(name="prepared", path=path)
    if trained.name != "tables":
        trained = DatasetConfig(name="tables", path=path, undirected=trained.undirected, self_loops=trained.self_loops)
    return replace(trained, path=path)


def _evaluation(run: Experiment, options: Predicting, config: DatasetConfig) -> LoaderConfig:
    """Return the run's loader with the requested evaluation; a prepared graph is read from disk part by part."""
    loader = run.loader
    parts, views = loader.eval_parts, loader.eval_views
    if loader.final_parts is not None:
        parts, views = loader.final_parts, loader.final_views
    if options.parts is not None:
        # With other parts, the run's number of views does not apply.
        parts, views = options.parts, 1
    views = views if options.views is None else options.views
    if config.name == "prepared":
        return LoaderConfig(kind="ondisk", eval_parts=parts, eval_views=views)
    if loader.kind == "ondisk":
        return LoaderConfig(eval_parts=parts, eval_views=views)
    return replace(loader, eval_parts=parts, eval_views=views, final_parts=None, final_views=1, prefetch=0)


def _check(trained: GraphInfo, own: GraphInfo, *, reads_labels: bool) -> None:
    trained.check_applies(own)
    if reads_labels and (own.num_outputs, own.class_names) != (trained.num_outputs, trained.class_names):
        raise ValueError(
            f"the model reads labels, and {own.name} has other classes than it was trained on; apply it to a graph "
            "with the same"
        )


def _inference_source(run: Experiment, source: Dataset | Store, loader: LoaderConfig) -> InferenceSource:
    if isinstance(source, Store):
        return StoreSource(source, StoredViews(source, loader.eval_parts, loader.eval_views, run.train.seed))
    return DatasetSource(source, run.batch_size, run.train.seed, loader)


def _device(device: Device) -> torch.device:
    found = None if device == "cpu" else torch.accelerator.current_accelerator()
    return torch.device("cpu") if found is None else found


# ---------------------------------------------------------------------- rows


def _tables(
    source: InferenceSource,
    inference: Inference,
    options: Predicting,
    views: int,
    trained: GraphInfo,
    progress: Callable[[int, int], None],
) -> Generator[pa.Table]:
    """Yield tables of predictions; several views are averaged first."""
    done, total = 0, source.num_rows * views
    logits: Sums | None = None
    hidden: Sums | None = None
    for batch, answer in inference.answers(source.batches()):
        assert batch.ids is not None, "batches of an inference source have ids"
        if batch.is_permuted:
            hidden_rows = None if answer.hidden is None else batch.in_order(answer.hidden)
            rows = torch.arange(source.num_rows)
            yield _table(source, rows, batch.in_order(answer.logits), hidden_rows, options, trained)
        elif views == 1:
            yield _table(source, batch.ids, answer.logits, answer.hidden, options, trained)
        else:
            logits = logits or Sums(answer.logits.size(1))
            logits.add(batch.ids, answer.logits)
            if answer.hidden is not None:
                hidden = hidden or Sums(answer.hidden.size(1))
                hidden.add(batch.ids, answer.hidden)
        done += batch.ids.numel()
        progress(done, total)
    for low in range(0, 0 if logits is None else len(logits), _ROWS_PER_TABLE):
        assert logits is not None, "an empty range otherwise"
        high = low + _ROWS_PER_TABLE
        ids, mean = logits.means(low, high)
        yield _table(source, ids, mean, None if hidden is None else hidden.means(low, high)[1], options, trained)


def _table(
    source: InferenceSource,
    rows: Tensor,
    logits: Tensor,
    hidden: Tensor | None,
    options: Predicting,
    trained: GraphInfo,
) -> pa.Table:
    """Make a table of rows with the user's ids, without rows of other splits than the requested one."""
    keys = source.keys(rows)
    names = pa.array([*SPLITS, None])
    # Tables are read as large strings; strings are the usual type, which joins need.
    ids = keys.ids.cast(pa.string()) if pa.types.is_large_string(keys.ids.type) else keys.ids
    columns = {"id": ids, "split": names.take(pa.array(keys.split.numpy() % len(names)))}
    columns |= trained.task_spec.answers(logits, trained.class_names)
    if hidden is not None:
        columns["embedding"] = lists(hidden)
    table = pa.table(columns)
    if options.split == "all":
        return table
    return table.filter(pa.array((keys.split == SPLITS.index(options.split)).numpy()))


def _write(tables: Iterator[pa.Table], total: int, out: Path, classes: tuple[str, ...] | None) -> int:
    """Write tables one by one as row groups of one file, which appears when it is complete.

    Args:
        tables: the tables, of at most ``total`` rows.
        total: upper bound of the number of rows, for the message of a full disk.
        out: the file.
        classes: class names, for the file's metadata.
    Returns: the number of rows.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    first = next(tables, None)
    if first is None:
        raise ValueError("the graph has no rows to predict")
    # An upper bound: compression may save half of it or nothing.
    needed = total * first.nbytes // max(first.num_rows, 1)
    metadata = {} if classes is None else {"classes": json.dumps(classes, ensure_ascii=False)}
    schema, rows = first.schema.with_metadata(metadata), 0
    room = room_for(f"{out.name} with {total} rows", needed, out.parent, then="predict again")
    with room, replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows
