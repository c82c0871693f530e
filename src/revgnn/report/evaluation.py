"""Describes the evaluation of a finished run: every metric beside the baselines, per class, and the worst rows.

Everything is computed from the same rows and by the same metrics, for the network and for the baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, GraphInfo, InferenceSource, Store
from ..data.tabular import table_width, take_rows
from ..train import METRICS
from ..train.split_rows import RowOutputs
from .baselines import Baseline, fit_baselines
from .facts import Confusion, Details, Evaluation, Line, Points

LARGEST_BYTES = 2**28
"""Bytes of logits of a split that are kept at most; of a larger split every k-th row is described."""
MOST_CLASSES = 20
"""Classes of a confusion matrix; the rarer ones are taken together."""
MOST_POINTS = 1000
"""Points of the picture of predicted against true values."""
WORST = 10
"""Number of worst rows."""
_NUMBERS_AT_ONCE = 2**20
"""Features that a baseline reads at once, 4 MiB."""


def strides(info: GraphInfo) -> dict[str, int]:
    """Return, for each evaluated split, every how many rows are described."""
    sizes = {split: info.split_sizes.get(split, 0) for split in ("valid", "test")}
    return {split: -(-4 * rows * info.num_outputs // LARGEST_BYTES) for split, rows in sizes.items() if rows}


def describe_evaluation(
    dataset: Dataset | Store, info: GraphInfo, source: InferenceSource, outputs: Mapping[str, RowOutputs]
) -> Evaluation:
    """Describe a run's outputs for its evaluated splits.

    Args:
        dataset: the data of the run.
        info: its metadata with the scale of the labels.
        source: looks up the user's ids.
        outputs: split -> the network's outputs.
    Returns: the metrics of every evaluated split, and details of the test split, else of the valid split.
    Cost: fits the baselines; see `fit_baselines`.
    """
    kept = {
        split: RowOutputs(ids=each.ids, logits=info.in_unit(each.logits).float(), y=each.y)
        for split, each in outputs.items()
    }
    baselines = fit_baselines(dataset)
    names = _metrics_of(info)
    metrics: dict[str, dict[str, dict[str, float | None]]] = {}
    for split, rows in kept.items():
        metrics[split] = {"network": _scores(names, rows.logits, rows.y)}
        for baseline in baselines:
            metrics[split][baseline.name] = _scores(names, _outputs_of(baseline, dataset, rows.ids), rows.y)
    facts: Evaluation = {
        "metrics": metrics,
        "baselines": [{"name": each.name, "rows": each.rows} for each in baselines],
        "training_rows": info.split_sizes["train"],
        "rows": {split: rows.ids.numel() for split, rows in kept.items()},
        "split": None,
    }
    if kept:
        split = "test" if "test" in kept else "valid"
        rows = kept[split]
        facts["split"], facts["worst"] = split, _worst(info, rows, source)
        return {**facts, **_DETAILS[info.task_spec.labels](info, rows)}
    return facts


def _metrics_of(info: GraphInfo) -> list[str]:
    """Return the metrics of a task, the one that selects the best epoch first."""
    names = [name for name, metric in METRICS.items() if info.task in metric.tasks]
    return sorted(names, key=lambda name: name != info.metric)


def _scores(names: list[str], logits: Tensor, y: Tensor) -> dict[str, float | None]:
    values = {name: METRICS[name].compute(logits, y) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _outputs_of(baseline: Baseline, dataset: Dataset | Store, ids: Tensor) -> Tensor:
    at_once = max(_NUMBERS_AT_ONCE // max(table_width(dataset.info), 1), 1)
    pieces = [baseline.predict(take_rows(dataset, piece.numpy())[0]) for piece in torch.split(ids, at_once)]
    return torch.cat(pieces)


# ---------------------------------------------------------------------- details by kind of label


def _class_details(info: GraphInfo, rows: RowOutputs) -> Details:
    """Precision, recall and F1 of every class, and the confusion matrix of the most frequent ones."""
    return _of_classes(_names(info), rows.y, rows.logits.argmax(1))


def _of_classes(names: list[str], y: Tensor, predicted: Tensor) -> Details:
    size = len(names)
    matrix = torch.bincount(y * size + predicted, minlength=size * size).view(size, size)
    right, chosen, actual = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    table: list[Line] = [
        {"class": name, "rows": int(actual[k]), **_of_counts(right[k], chosen[k], actual[k])}
        for k, name in enumerate(names)
    ]
    return {"classes": table, "confusion": _confusion(matrix, names)}


def _confusion(matrix: Tensor, names: list[str]) -> Confusion:
    """Return counts, true classes in rows and predicted ones in columns; rare classes together in the last place."""
    if len(names) > MOST_CLASSES:
        order = matrix.sum(1).argsort(descending=True, stable=True)
        place = torch.full_like(order, MOST_CLASSES - 1)
        place[order[: MOST_CLASSES - 1]] = torch.arange(MOST_CLASSES - 1)
        small = torch.zeros(MOST_CLASSES, MOST_CLASSES, dtype=matrix.dtype)
        small.index_put_((place[:, None], place[None, :]), matrix, accumulate=True)
        names = [*(names[k] for k in order[: MOST_CLASSES - 1].tolist()), f"{len(names) - MOST_CLASSES + 1} others"]
        matrix = small
    return {"names": names, "counts": matrix.tolist()}


def _flag_details(info: GraphInfo, rows: RowOutputs) -> Details:
    """Every metric of each label column; of a single column what `_class_details` gives of its two classes."""
    if info.task_spec.num_names is not None:
        known = ~rows.y[:, 0].isnan()
        return _of_classes(_names(info), rows.y[known, 0].long(), (rows.logits[known, 0] > 0).long())
    columns: list[Line] = []
    for column, title in enumerate(_names(info)):
        y = rows.y[:, column, None]
        facts: Line = {"column": title, "rows": int((~y.isnan()).sum()), "positive": int((y == 1).sum())}
        columns.append({**facts, **_scores(_metrics_of(info), rows.logits[:, column, None], y)})
    return {"columns": columns}


def _number_details(info: GraphInfo, rows: RowOutputs) -> Details:
    """Every metric of each label column, and a sample of true and predicted values."""
    columns: list[Line] = []
    points: list[Points] = []
    chosen = torch.linspace(0, rows.ids.numel() - 1, min(rows.ids.numel(), MOST_POINTS)).long()
    for column, title in enumerate(_names(info)):
        y, values = rows.y[:, column, None], rows.logits[:, column, None]
        known = chosen[~y[chosen, 0].isnan()]
        columns.append({"column": title, "rows": int((~y.isnan()).sum()), **_scores(_metrics_of(info), values, y)})
        points.append({"column": title, "true": y[known, 0].tolist(), "predicted": values[known, 0].tolist()})
    return {"columns": columns, "points": points}


_DETAILS: dict[str, Callable[[GraphInfo, RowOutputs], Details]] = {
    "classes": _class_details,
    "flags": _flag_details,
    "numbers": _number_details,
}


def _of_counts(right: Tensor, predicted: Tensor, actual: Tensor) -> Line:
    """Precision, recall and F1 from the counts of right, predicted and actual rows; ``None`` where undefined."""

    def share(count: Tensor, of: Tensor) -> float | None:
        return float(count / of) if int(of) else None

    return {
        "precision": share(right, predicted),
        "recall": share(right, actual),
        "f1": share(2 * right, predicted + actual),
    }


# ---------------------------------------------------------------------- the worst rows


def _worst(info: GraphInfo, rows: RowOutputs, source: InferenceSource) -> list[Line]:
    """Return the rows whose prediction is worst, with the user's ids: "id", "label", "prediction", and how bad."""
    errors, describe = _ERRORS[info.task_spec.labels](info, rows)
    worst = errors.nan_to_num(-1.0).argsort(descending=True, stable=True)[:WORST]
    worst = worst[errors[worst] >= 0]
    if not worst.numel():
        return []
    order = rows.ids[worst].argsort()
    ids = source.keys(rows.ids[worst][order]).ids.to_pylist()
    by_place = dict(zip(worst[order].tolist(), ids, strict=True))
    return [{"id": by_place[place], **describe(place)} for place in worst.tolist()]


Describe = Callable[[int], Line]


def _class_errors(info: GraphInfo, rows: RowOutputs) -> tuple[Tensor, Describe]:
    """One minus the probability of the label."""
    names, probability = _names(info), rows.logits.softmax(1)
    own = probability.gather(1, rows.y[:, None])[:, 0]

    def describe(place: int) -> Line:
        predicted = int(rows.logits[place].argmax())
        return {
            "label": names[int(rows.y[place])],
            "prediction": names[predicted],
            "probability of the label": float(own[place]),
        }

    return 1.0 - own, describe


def _flag_errors(info: GraphInfo, rows: RowOutputs) -> tuple[Tensor, Describe]:
    """One minus the probability of the label, in the worst column of each row."""
    probability = rows.logits.sigmoid()
    wrong = (rows.y - probability).abs()
    error, column = wrong.nan_to_num(-1.0).max(1)
    names = _names(info)

    def describe(place: int) -> Line:
        k = int(column[place])
        label, positive = int(rows.y[place, k]), bool(probability[place, k] > 0.5)
        if info.task_spec.num_names is not None:
            facts: Line = {"label": names[label], "prediction": names[int(positive)]}
        else:
            facts = {"column": names[k], "label": label, "prediction": int(positive)}
        return {**facts, "probability of the label": 1.0 - float(error[place])}

    return error, describe


def _number_errors(info: GraphInfo, rows: RowOutputs) -> tuple[Tensor, Describe]:
    """The absolute error, in the worst column of each row; columns are compared in their own spread."""
    absolute = (rows.y - rows.logits).abs()
    spread = torch.ones(rows.y.size(1)) if info.target_scale is None else torch.tensor(info.target_scale.std)
    error, column = (absolute / spread).nan_to_num(-1.0).max(1)
    names = _names(info)

    def describe(place: int) -> Line:
        k = int(column[place])
        facts: Line = {} if len(names) == 1 else {"column": names[k]}
        return {
            **facts,
            "label": float(rows.y[place, k]),
            "prediction": float(rows.logits[place, k]),
            "error": float(absolute[place, k]),
        }

    return error, describe


_ERRORS: dict[str, Callable[[GraphInfo, RowOutputs], tuple[Tensor, Describe]]] = {
    "classes": _class_errors,
    "flags": _flag_errors,
    "numbers": _number_errors,
}


def _names(info: GraphInfo) -> list[str]:
    """Return the names of classes or columns; their numbers where they have none."""
    count = info.num_outputs if info.task_spec.num_names is None else info.task_spec.num_names
    return list(info.class_names or map(str, np.arange(count).tolist()))
