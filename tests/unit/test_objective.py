"""Losses against their formulas, metrics against scikit-learn, and what counts when labels are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from revgnn.data import TASKS, TargetScale
from revgnn.train import TrainConfig
from revgnn.train.losses import LOSSES, bce, choose_loss, cross_entropy, log_cross_entropy
from revgnn.train.metrics import METRICS, check_metric, rocauc, tasks_of
from revgnn.train.objective import Objective


def _classes(n: int = 63, t: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, t, generator=generator), torch.randint(t, (n,), generator=generator)


def _tasks(n: int = 65, t: int = 4, missing: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(2, (n, t), generator=generator).float()
    y[torch.rand(n, t, generator=generator) < missing] = math.nan
    return torch.randn(n, t, generator=generator), y


def test_tables_and_tasks_agree() -> None:
    names = {task.name for task in TASKS.values()}
    for each in (*LOSSES.values(), *METRICS.values()):
        assert each.tasks and set(each.tasks) <= names
    for (level, name), task in TASKS.items():
        assert (task.level, task.name) == (level, name)
        assert task.name in LOSSES[task.loss].tasks and task.name in METRICS[task.metric].tasks


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_a_loss_is_the_tasks_unless_another_is_named_that_goes_with_it(task) -> None:
    assert TrainConfig().for_task(task, task.metric).loss == choose_loss([task], None) == task.loss
    for name, loss in LOSSES.items():
        if task.name in loss.tasks:
            assert TrainConfig(loss=name).for_task(task, task.metric).loss == name
        else:
            with pytest.raises(ValueError, match=f"loss='{name}' does not go with a {task.name} task; choose one of"):
                TrainConfig(loss=name).for_task(task, task.metric)
    for name, metric in METRICS.items():
        if task.name in metric.tasks:
            check_metric(task, name)
            assert task.loss == choose_loss(tasks_of(name), None)
        else:
            with pytest.raises(ValueError, match=f"'{name}' does not go with a {task.name} task.*{task.metric}"):
                check_metric(task, name)
    with pytest.raises(ValueError, match="loss='hinge' is unknown; choose one of cross_entropy, "):
        TrainConfig(loss="hinge")


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


def test_balanced_accuracy_and_macro_f1_equal_scikit_where_classes_are_missing() -> None:
    logits, y = _classes(200, 7)
    y = torch.where(y == 3, 2, y)  # nobody is of class 3, and it is predicted
    logits[:, 5] = -9.0  # class 5 is never predicted
    logits[:, 6], y = -9.0, torch.where(y == 6, 0, y)  # class 6 is neither
    predicted = logits.argmax(1)
    classes = y.unique().tolist()
    recall = sk.recall_score(y, predicted, labels=classes, average="macro", zero_division=0)
    assert METRICS["balanced_accuracy"].compute(logits, y) == pytest.approx(recall, abs=1e-6)
    macro = sk.f1_score(y, predicted, average="macro", zero_division=0)
    assert METRICS["macro_f1"].compute(logits, y) == pytest.approx(macro, abs=1e-6)
    assert math.isnan(METRICS["macro_f1"].compute(logits[:0], y[:0]))


@pytest.mark.parametrize("scale", [1e-3, 300.0])
def test_average_precision_and_f1_equal_scikit_over_labelled_entries(scale: float) -> None:
    logits, y = _tasks(400, 4)
    logits *= scale
    y[:, 3] = torch.where(y[:, 3].isnan(), y[:, 3], 0.0)  # without a yes: skipped
    known = ~y.isnan()
    columns = [(y[rows, at], logits[rows, at]) for at, rows in enumerate(known.unbind(1))][:3]
    precision = np.mean([sk.average_precision_score(truth, scores) for truth, scores in columns])
    assert METRICS["average_precision"].compute(logits, y) == pytest.approx(precision, abs=1e-6)
    harmonic = np.mean([sk.f1_score(truth, scores > 0) for truth, scores in columns])
    assert METRICS["f1"].compute(logits, y) == pytest.approx(harmonic, abs=1e-6)
    assert math.isnan(METRICS["f1"].compute(logits[:, 3:], y[:, 3:]))


def test_r2_equals_scikit_over_labelled_entries_far_from_zero() -> None:
    logits, y = _tasks(300, 3)
    y = torch.where(y.isnan(), y, y + torch.randn(y.shape, generator=torch.Generator().manual_seed(4)) + 1000.0)
    logits = y.nan_to_num(1000.0) + logits
    y[:, 2] = 7.0  # constant: skipped
    known = ~y.isnan()
    expected = np.mean([sk.r2_score(y[known[:, at], at].double(), logits[known[:, at], at].double()) for at in (0, 1)])
    assert METRICS["r2"].compute(logits, y) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(METRICS["r2"].compute(logits[:, 2:], y[:, 2:]))


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_of_a_metric_is_that_of_better_predictions(name: str) -> None:
    if "multiclass" in METRICS[name].tasks:
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


def test_weights_of_classes_are_those_of_torch_over_all_labels() -> None:
    logits, y = _classes()
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0])
    wanted = torch.nn.functional.cross_entropy(logits, y, weight=weights, reduction="sum") / len(y)
    objective = Objective(loss="cross_entropy", metric="accuracy", class_weights=weights)
    assert float(objective.training_loss(logits, y)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(objective.evaluation_loss(logits, y)) == pytest.approx(float(cross_entropy(logits, y)))
    logits, y = _tasks()
    weights = torch.rand(2, 4)
    entries = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.nan_to_num(0.0), reduction="none")
    weighted = (entries * torch.where(y == 1, weights[1], weights[0]))[~y.isnan()].mean()
    objective = Objective(loss="bce", metric="rocauc", class_weights=weights)
    assert float(objective.training_loss(logits, y)) == pytest.approx(float(weighted), rel=1e-5)


def test_a_scale_standardises_the_loss_and_restores_the_metric() -> None:
    y = torch.tensor([[1000.0, math.nan], [1002.0, 5.0]])
    scale = TargetScale(mean=(1001.0, 5.0), std=(1.0, 2.0))
    objective = Objective(loss="mse", metric="rmse", scale=scale)
    logits = torch.tensor([[-1.0, 9.0], [1.0, 1.0]])
    assert float(objective.evaluation_loss(logits, y)) == pytest.approx(1 / 3)
    assert objective.score(logits, y) == pytest.approx(math.sqrt(4 / 3))
    assert torch.equal(scale.standardise(scale.restore(logits)), logits)
