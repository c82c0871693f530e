"""The planner's closed forms against torch's own `MemTracker`, which adds up fake tensors by kind."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from revgnn.experiment import Experiment, make_batches, make_model
from revgnn.ops import using
from revgnn.planner import made_up, shape_of_config
from revgnn.planner.dry_run import Size, measure_trial
from revgnn.planner.synthetic import GraphShape
from revgnn.recipes import find_recipe
from revgnn.train import LOSSES
from revgnn.train.averaging import follow
from revgnn.train.optim import make_optimizer

predict_module = sys.modules["revgnn.planner.estimate"]
CPU = torch.device("cpu")
BOUND = 0.10
"""Of MemTracker's peak, by which the allocator's may differ."""
RECIPES = (
    "digits/revgnn",
    "ogbg-molhiv/revgen_graphnorm",
    "ogbn-arxiv/gcnii",
    "ogbn-arxiv/revgat_wide",
    "ogbn-arxiv/revgcn_deep",
    "ogbn-proteins/deq_gnn_64",
    "ogbn-proteins/wt_revgnn_224",
)


def recipe(name: str) -> tuple[Experiment, GraphShape]:
    run = replace(find_recipe(name)(), paper=None)
    return run, shape_of_config(run.dataset)


def kinds(tracker: object, which: str) -> dict[str, int]:
    """What a tracker has added up on the CPU, by kind."""
    found = tracker.get_tracker_snapshot(which)[CPU]  # type: ignore[attr-defined]
    return {str(getattr(kind, "value", kind)): size for kind, size in found.items()}


class _Squares(nn.Module):
    """A loss that every weight has a gradient of, without data."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        return torch.stack([parameter.square().sum() for parameter in self.model.parameters()]).sum()


@pytest.mark.parametrize("name", RECIPES)
def test_weights_gradients_and_optimizer_are_equal_to_the_byte(name: str) -> None:
    # Imported late: it takes seconds.
    from torch.distributed._tools.mem_tracker import MemTracker

    run, shape = recipe(name)
    data = made_up(shape.scaled(64 / shape.rows))
    with FakeTensorMode():
        model = make_model(run, data.info)
        optimizer = make_optimizer(run.train.optimizer, model.parameters(), lr=1e-3, weight_decay=0.0)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            # Held, for the tracker's hooks look for it in the backward.
            squares = _Squares(model)
            squares().backward()
            optimizer.step()
        found = kinds(tracker, "current")
    planned = predict_module.weight_kinds(run, *predict_module.count_weights(run, shape))
    assert planned == {
        "parameters": found["Parameter"],
        "gradients": found["Gradient"],
        "optimizer": found["Optstate"],
    }


def test_a_mean_of_the_weights_is_counted_beside_the_moments() -> None:
    run, shape = recipe(RECIPES[0])
    run = replace(run, train=replace(run.train, ema_decay=0.9))
    model = make_model(run, made_up(shape).info)
    optimizer = make_optimizer(run.train.optimizer, model.parameters(), lr=1e-3, weight_decay=0.0)
    _Squares(model)().backward()
    optimizer.step()
    follow(optimizer, 0.9)
    planned = predict_module.weight_kinds(run, *predict_module.count_weights(run, shape))
    assert planned["optimizer"] == sum(value.nbytes for state in optimizer.state.values() for value in state.values())


def test_activations_of_a_stored_net_on_plain_ops_agree() -> None:
    """What a graph derives is made before, for it depends on values, and fake tensors have none."""
    from torch.distributed._tools.mem_tracker import MemTracker

    run, shape = recipe("ogbn-arxiv/resgcn")
    run = replace(run, model=replace(run.model, num_layers=4))
    shape = shape.scaled(0.01)
    data = made_up(shape)
    batch = next(iter(make_batches(data, None, 0, run.loader).train(1)))
    rows, loss = batch.rows["train"], LOSSES[str(run.for_data(data.info).train.loss)]
    with using("reference"):
        moments = measure_trial(run, shape, Size(1.0, None))[0, "first gradient"]
        loss(make_model(run, data.info)(batch.x, batch.graph, None, seed=0)[rows], batch.y[rows]).backward()
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            model = make_model(run, data.info)
            x, y = fake.from_tensor(batch.x), fake.from_tensor(batch.y)
            tracker = MemTracker()
            tracker.track_external(model, x, y)
            with tracker:
                loss(model(x, batch.graph, None, seed=0)[fake.from_tensor(rows)], y[fake.from_tensor(rows)]).backward()
            peak = kinds(tracker, "peak")["Total"]
    assert max(moments)[0] == pytest.approx(peak, rel=BOUND)
