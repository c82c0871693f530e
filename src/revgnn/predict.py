"""Predictions of a finished run as a table, keyed by the user's own ids and written piece by piece.

One Parquet file: id, split, prediction, probabilities (or scores, or nothing more for numbers), and the last hidden
state where it is wanted. It is written under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

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
from .data.readers.tables import readable_columns
from .data.task import lists
from .experiment import Device, Experiment, make_model, read_experiment, read_schema
from .files import replacing, room_for
from .run_lock import claimed
from .train import Inference, Sums, check_weights, load_best

_AT_ONCE = 2**16
"""Rows that are written together where all views had to be gone through first."""

Which = Literal["all", "train", "valid", "test"]


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """What is predicted, and how."""

    split: Which = "all"
    """Rows of this split alone."""
    embeddings: bool = False
    """Whether the last hidden state is written too."""
    parts: int | None = None
    """Pieces of the graph, one in memory at a time; ``None``: as the run reported its scores."""
    views: int | None = None
    """Partitions whose logits are averaged; ``None``: as the run reported its scores, or 1 where ``parts`` is given."""


def predict_run(
    folder: Path,
    out: Path,
    options: Predicting,
    *,
    data_root: Path,
    data: Path | None = None,
    device: Device = "auto",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Apply the selected weights of a finished run to its own graph, or to another one of the same features.

    Args:
        folder: of the run.
        out: the Parquet file to write; one that is there is replaced.
        options: see `Predicting`.
        data_root: where data lies, as in training.
        data: a folder of tables or a prepared graph, with labels and splits or without; ``None``: the data of the run.
        device: "auto" is an accelerator where there is one.
        progress: told rows that were gone through, and how many there are to go through.
    Returns: facts of what was written.
    Raises:
        FileNotFoundError, ValueError: no finished run; a graph that the model would misread.
        OSError: the disk is full, with what the predictions need and what is free; no file is left.
        ClaimedError: other predictions are being written to ``out``.
    """
    with claimed(out, beside=True):
        run, trained = read_experiment(folder), read_schema(folder)
        config = run.dataset if data is None else _other(run.dataset, data)
        loader = _evaluation(run, options, config)
        source = read_data(config, loader, data_root)
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
        # Closed whatever happens: while it is gone through, nothing in this process keeps gradients.
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


# ---------------------------------------------------------------------- what is applied to what


def _other(trained: DatasetConfig, data: Path) -> DatasetConfig:
    """The configuration of another graph, read as that of the run was."""
    path = str(data.resolve())
    if is_store(data):
        return DatasetConfig(name="prepared", path=path)
    if trained.name != "tables":
        trained = DatasetConfig(name="tables", path=path, undirected=trained.undirected, self_loops=trained.self_loops)
    return replace(trained, path=path, columns=readable_columns(data, trained.columns))


def _evaluation(run: Experiment, options: Predicting, config: DatasetConfig) -> LoaderConfig:
    """The loader of the run with the evaluation that is wanted; a prepared graph stays on disk."""
    loader = run.loader
    parts, views = loader.eval_parts, loader.eval_views
    if loader.final_parts is not None:
        parts, views = loader.final_parts, loader.final_views
    if options.parts is not None:
        # Views of other parts than the run's are asked for together with them.
        parts, views = options.parts, 1
    views = views if options.views is None else options.views
    if config.name == "prepared":
        return LoaderConfig(kind="stored", eval_parts=parts, eval_views=views)
    if loader.kind == "stored":
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
    """Yield tables of rows; with several views, all of them are gone through first."""
    done, total = 0, source.num_rows * views
    logits: Sums | None = None
    hidden: Sums | None = None
    for batch, answer in inference.answers(source.batches()):
        assert batch.ids is not None, "keyed graphs give ids"
        if views == 1:
            yield _table(source, batch.ids, answer.logits, answer.hidden, options, trained)
        else:
            logits = logits or Sums(answer.logits.size(1))
            logits.add(batch.ids, answer.logits)
            if answer.hidden is not None:
                hidden = hidden or Sums(answer.hidden.size(1))
                hidden.add(batch.ids, answer.hidden)
        done += batch.ids.numel()
        progress(done, total)
    for low in range(0, 0 if logits is None else len(logits), _AT_ONCE):
        assert logits is not None, "there are rows of it"
        ids, mean = logits.means(low, low + _AT_ONCE)
        yield _table(
            source, ids, mean, None if hidden is None else hidden.means(low, low + _AT_ONCE)[1], options, trained
        )


def _table(
    source: InferenceSource,
    rows: Tensor,
    logits: Tensor,
    hidden: Tensor | None,
    options: Predicting,
    trained: GraphInfo,
) -> pa.Table:
    """Put rows under the user's ids; those of other splits than the wanted one are left out."""
    keys = source.keys(rows)
    names = pa.array([*SPLITS, None])
    # Large strings are how tables are read, not what the user wrote; joins want one type.
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
    """Write tables one by one as row groups of one file, which appears when it is whole.

    Args:
        tables: of ``total`` rows at most.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    first = next(tables, None)
    if first is None:
        raise ValueError("the graph has no rows to predict")
    # Before compression, which may save half of it or nothing.
    needed = total * first.nbytes // max(first.num_rows, 1)
    metadata = {} if classes is None else {"classes": json.dumps(classes, ensure_ascii=False)}
    schema, rows = first.schema.with_metadata(metadata), 0
    room = room_for(f"{out.name} with {total} rows", needed, out.parent, then="predict again")
    with room, replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows
