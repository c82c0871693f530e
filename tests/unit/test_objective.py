"""Losses against their formulas, metrics against scikit-learn, and what counts when labels are missing."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from revgnn.train.objective import LOSSES, METRICS, LossName, MetricName, bce, cross_entropy, log_cross_entropy, rocauc


def _classes(n: int = 63, t: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, t, generator=generator), torch.randint(t, (n,), generator=generator)


def _tasks(n: int = 65, t: int = 4, missing: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(2, (n, t), generator=generator).float()
    y[torch.rand(n, t, generator=generator) < missing] = math.nan
    return torch.randn(n, t, generator=generator), y


def test_tables_and_choices_agree() -> None:
    assert set(LOSSES) == set(get_args(LossName))
    assert set(METRICS) == set(get_args(MetricName))


def test_cross_entropy_is_the_mean_negative_log_probability() -> None:
    logits, y = _classes()
    probability = logits.double().softmax(1)[torch.arange(len(y)), y]
    assert float(cross_entropy(logits.double(), y)) == pytest.approx(float(-probability.log().mean()), rel=1e-12)
    assert float(cross_entropy(logits, y)) == pytest.approx(sk.log_loss(y, logits.double().softmax(1)), rel=1e-5)


def test_log_cross_entropy_follows_its_formula_row_by_row() -> None:
    logits, y = _classes()
    eps = 1 - math.log(2)
    rows = []
    for row, label in zip(logits.double().tolist(), y.tolist(), strict=True):
        ce = math.log(sum(math.exp(v) for v in row)) - row[label]
        rows.append(math.log(eps + ce) - math.log(eps))
    assert float(log_cross_entropy(logits.double(), y)) == pytest.approx(sum(rows) / len(rows), rel=1e-12)


def test_log_cross_entropy_of_certainty_is_zero_and_of_a_coin_is_one_step_up() -> None:
    certain = torch.tensor([[80.0, 0.0]], dtype=torch.float64)
    coin = torch.zeros(1, 2, dtype=torch.float64)
    label = torch.tensor([0])
    assert float(log_cross_entropy(certain, label)) == pytest.approx(0.0, abs=1e-12)
    # CE = ln 2 makes eps + CE = 1.
    assert float(log_cross_entropy(coin, label)) == pytest.approx(-math.log(1 - math.log(2)), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_pass_gradcheck(name: str) -> None:
    if name in ("cross_entropy", "log_cross_entropy"):
        logits, y = _classes(7, 3)
    else:
        logits, y = _tasks(7, 3)
        y = y.double()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, y), logits.double().requires_grad_())


@pytest.mark.parametrize("name", ["bce", "mse"])
def test_missing_labels_count_nowhere(name: str) -> None:
    logits, y = _tasks()
    logits.requires_grad_()
    loss = LOSSES[name](logits, y)
    loss.backward()
    known = ~y.isnan()
    z, target = logits.detach()[known].double(), y[known].double()
    if name == "bce":
        expected = -(target * torch.sigmoid(z).log() + (1 - target) * torch.sigmoid(-z).log()).mean()
    else:
        expected = (z - target).square().mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert logits.grad is not None
    assert bool((logits.grad[~known] == 0).all())
    assert bool((logits.grad[known] != 0).all())


def test_bce_without_any_label_is_zero_with_zero_gradients() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = bce(logits, torch.full((3, 2), math.nan))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_accuracy_is_the_share_of_right_rows() -> None:
    logits, y = _classes(1000)
    assert METRICS["accuracy"].compute(logits, y) == pytest.approx(sk.accuracy_score(y, logits.argmax(1)), abs=1e-7)


def _auc_of_scikit(logits: torch.Tensor, y: torch.Tensor) -> float:
    areas = []
    for task in range(y.size(1)):
        known = ~y[:, task].isnan()
        if len(y[known, task].unique()) == 2:
            areas.append(sk.roc_auc_score(y[known, task], logits[known, task]))
    return float(np.mean(areas))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_rocauc_equals_scikit_over_labelled_entries_at_any_scale_of_logits(scale: float) -> None:
    logits, y = _tasks(1000, 5)
    logits = logits * scale
    assert rocauc(logits, y) == pytest.approx(_auc_of_scikit(logits, y), abs=1e-6)


def test_rocauc_counts_ties_as_half() -> None:
    _, y = _tasks(200, 3)
    logits = torch.randint(4, (200, 3), generator=torch.Generator().manual_seed(2)).float()
    assert rocauc(logits, y) == pytest.approx(_auc_of_scikit(logits, y), abs=1e-6)
    assert rocauc(torch.zeros(200, 3), y) == pytest.approx(0.5)


def test_rocauc_skips_tasks_without_both_classes() -> None:
    logits, y = _tasks(63, 4)
    y[:, 1] = torch.where(y[:, 1].isnan(), y[:, 1], 1.0)
    y[:, 2] = math.nan
    assert rocauc(logits, y) == pytest.approx(_auc_of_scikit(logits[:, [0, 3]], y[:, [0, 3]]), abs=1e-6)
    assert math.isnan(rocauc(logits[:, 1:3], y[:, 1:3]))


def test_rmse_and_mae_equal_scikit_over_labelled_entries() -> None:
    logits, y = _tasks(65, 2)
    known = ~y.isnan()
    expected = sk.root_mean_squared_error(y[known], logits[known])
    assert METRICS["rmse"].compute(logits, y) == pytest.approx(expected, rel=1e-5)
    assert METRICS["mae"].compute(logits, y) == pytest.approx(sk.mean_absolute_error(y[known], logits[known]), rel=1e-5)
    assert math.isnan(METRICS["rmse"].compute(logits, torch.full_like(y, math.nan)))


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_of_a_metric_is_that_of_better_predictions(name: str) -> None:
    if name == "accuracy":
        _, y = _classes(63, 3)
        right = torch.nn.functional.one_hot(y, 3).float()
        wrong = 1.0 - right
    else:
        _, y = _tasks(63, 3)
        right = y.nan_to_num(0.0)
        wrong = 1.0 - right
    metric = METRICS[name]
    assert (metric.compute(right, y) > metric.compute(wrong, y)) == metric.larger_is_better


@pytest.mark.parametrize(
    ("function", "logits", "y", "error", "match"),
    [
        (cross_entropy, torch.zeros(3, 2), torch.zeros(3), TypeError, "int64.*float32.*use bce"),
        (cross_entropy, torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), ValueError, r"\[4\] beside \[3, 2\]"),
        (log_cross_entropy, torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), ValueError, r"\[3, 1\]"),
        (bce, torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), TypeError, "floating point.*cross_entropy"),
        (bce, torch.zeros(3, 2), torch.zeros(3), ValueError, r"shape of the logits \[3, 2\], got \[3\]"),
        (rocauc, torch.zeros(3, 2), torch.zeros(3, 1), ValueError, r"\[3, 1\]"),
    ],
)
def test_wrong_labels_are_named(function, logits, y, error, match) -> None:
    with pytest.raises(error, match=match):
        function(logits, y)
