"""Logits are computed in one place: what is predicted is what was evaluated, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rank_jobs import node_dataset
from revgnn.data import LoaderConfig, make_batches
from revgnn.nn.model import ModelConfig, build_model
from revgnn.train import Forward, Goal, Inference, LabelOptions, TrainConfig, fit, predict
from revgnn.train.metric_accumulator import MetricAccumulator

CLASSES = 3
PARTS = LoaderConfig(kind="random", num_parts=4, eval_parts=2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("loader", [LoaderConfig(), PARTS], ids=["whole", "parts"])
def test_predicted_logits_are_those_that_were_evaluated(
    monkeypatch: pytest.MonkeyPatch, precision: Any, reuse: bool, loader: LoaderConfig
) -> None:
    evaluated: dict[tuple[int, str], Tensor] = {}
    add = MetricAccumulator.add

    def noted(self: MetricAccumulator, number: int, logits: Tensor, *rest: Any) -> None:
        evaluated[number, self.split] = logits
        add(self, number, logits, *rest)

    data, labels = node_dataset(), LabelOptions(reuse=reuse)
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(conv="sage", num_layers=4, hidden_channels=16, norm="batch"),
        data.info.with_label_inputs() if reuse else data.info,
    )
    batches = make_batches(data, seed=0, loader=loader)
    # One epoch: the weights that were evaluated are those that are selected.
    config = TrainConfig(epochs=1, lr=0.05, precision=precision, labels=labels)
    with monkeypatch.context() as patch:
        patch.setattr(MetricAccumulator, "add", noted)
        fit(model, batches, config, metric=Goal(metric="accuracy", num_outputs=CLASSES), device="cpu")
    options: dict[str, Any] = {"labels": labels, "num_outputs": CLASSES}
    inference = Inference(model, precision=precision, hidden=True, **options)
    predicted = list(inference.answers(batches.evaluate()))
    assert len(predicted) == (1 if loader.kind == "full" else 2)
    for number, (batch, answer) in enumerate(predicted):
        for split, rows in batch.rows.items():
            assert torch.equal(answer.logits[rows], evaluated[number, split]), (number, split)
    forward = Forward(model, precision=precision, **options)
    whole = predict(model, batches, forward)
    for batch, answer in predicted:
        ids = torch.arange(len(whole)) if batch.ids is None else batch.ids
        assert torch.equal(whole[ids], answer.logits)
    # What is held equal does depend on the precision and on the labels.
    other = predict(
        model, batches, Forward(model, precision="bf16" if precision == "float32" else "float32", **options)
    )
    assert not torch.equal(other, whole)
    if reuse:
        options["labels"] = replace(labels, refine=0)
        assert not torch.equal(predict(model, batches, Forward(model, precision=precision, **options)), whole)


def test_a_batch_that_comes_again_is_moved_once() -> None:
    (batch,) = make_batches(node_dataset()).evaluate()
    forward = Forward(build_model(ModelConfig(num_layers=2, hidden_channels=8), node_dataset().info))
    assert forward(batch, seed=0)[1] is forward(batch, seed=0)[1]
    assert forward(replace(batch), seed=0)[1] is not forward(batch, seed=0)[1]


def test_logits_are_at_least_as_wide_as_float32() -> None:
    (batch,) = make_batches(node_dataset()).evaluate()
    double = replace(batch, x=batch.x.double())
    model = torch.nn.Linear(5, CLASSES).double()
    model.forward = lambda x, *rest, **more: torch.nn.functional.linear(x, model.weight, model.bias)  # type: ignore[method-assign]
    assert Forward(model)(double)[0].dtype == torch.float64
    assert Forward(model.bfloat16())(replace(batch, x=batch.x.bfloat16()))[0].dtype == torch.float32
