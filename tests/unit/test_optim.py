"""The schedule by its formula, clipping against torch's own, and the check that comes before it."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import nn

from revgnn.train.optim import (
    OPTIMIZERS,
    OptimizerName,
    check_and_clip,
    find_decays,
    flatten_state,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    unflatten_state,
)
from tolerances import assert_close


def _stepped(name: str, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = make_optimizer(name, model.parameters(), lr=0.01, weight_decay=0.1)
    model(torch.randn(7, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_table_and_choices_agree() -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs_with_the_given_rate_and_decay(name: str) -> None:
    optimizer = make_optimizer(name, [nn.Parameter(torch.ones(2))], lr=0.25, weight_decay=0.5)
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    set_learning_rate(optimizer, 0.125)
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_an_optimizer_needs_a_known_name_and_something_to_train() -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ValueError, match="'sgd' is unknown; choose one of adam, adamw, rmsprop"):
        make_optimizer("sgd", [frozen], lr=0.1, weight_decay=0.0)
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer("adam", [frozen], lr=0.1, weight_decay=0.0)


def test_named_submodules_have_a_weight_decay_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    decays = find_decays(model, [("1", 0.5), ("1.bias", 0.0)])
    optimizer = make_optimizer("adam", model.parameters(), lr=0.1, weight_decay=0.1, decays=decays)
    found = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert [found[id(one)] for one in model.parameters()] == [0.1, 0.1, 0.5, 0.0]
    with pytest.raises(ValueError, match=r"weight_decays names 'layers', which has no parameters; choose of 0, 1"):
        find_decays(model, [("layers", 0.5)])
    # A name is not the beginning of another one.
    with pytest.raises(ValueError, match="names '1.b'"):
        find_decays(model, [("1.b", 0.5)])


def test_the_state_of_several_groups_is_restored() -> None:
    model, other = (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(2))
    optimizer, twin = (
        make_optimizer("adam", one.parameters(), lr=0.1, weight_decay=0.1, decays=find_decays(one, [("0", 0.5)]))
        for one in (model, other)
    )
    model(torch.randn(7, 3)).square().sum().backward()
    optimizer.step()
    twin.load_state_dict(unflatten_state(*flatten_state(model, optimizer), other, twin))
    for own, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[own]["exp_avg"], twin.state[reference]["exp_avg"])
    assert [group["weight_decay"] for group in twin.param_groups] == [0.5, 0.1]


def test_warm_up_rises_in_a_line_and_then_stays() -> None:
    rates = [learning_rate(epoch, lr=0.002, epochs=100, warmup_epochs=50) for epoch in range(1, 101)]
    assert rates[0] == pytest.approx(0.002 / 50)
    assert rates[24] == pytest.approx(0.001)
    assert rates[49:] == [0.002] * 51
    assert learning_rate(1, lr=0.002, epochs=100) == 0.002


def test_cosine_starts_at_the_top_passes_the_middle_and_ends_above_zero() -> None:
    rates = [learning_rate(e, lr=1.0, epochs=110, warmup_epochs=10, schedule="cosine") for e in range(1, 111)]
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("clip_norm", [0.1, 1e6])
def test_clipping_equals_torchs(clip_norm: float) -> None:
    model, _ = _stepped("adam")
    twin, _ = _stepped("adam")
    assert check_and_clip(model, torch.tensor(1.5), clip_norm) == 1.5
    nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
    for own, reference in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(own.grad, reference.grad)


def test_no_clipping_leaves_the_gradient() -> None:
    model, _ = _stepped("adam")
    before = [p.grad.clone() for p in model.parameters()]
    check_and_clip(model, torch.tensor(0.0), None)
    assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_bad_gradient_is_named_and_counted_and_not_spread() -> None:
    model, _ = _stepped("adam")
    model[1].weight.grad[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    with pytest.raises(FloatingPointError, match=r"gradient of 1\.weight has 3 of 10 entries"):
        check_and_clip(model, torch.tensor(0.0), 1.0)
    assert bool(model[0].weight.grad.isfinite().all())


def test_a_norm_that_overflows_is_named_where_every_entry_is_finite() -> None:
    model, _ = _stepped("adam")
    model[0].bias.grad.fill_(1e30)
    with pytest.raises(FloatingPointError, match=r"norm overflows; its largest entry, 1e\+30, is in 0\.bias"):
        check_and_clip(model, torch.tensor(0.0), None)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_bad_loss_is_named(loss: float) -> None:
    model, _ = _stepped("adam")
    with pytest.raises(FloatingPointError, match=f"the loss is {loss}"):
        check_and_clip(model, torch.tensor(loss), None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_comes_back_exactly(name: str) -> None:
    model, optimizer = _stepped(name)
    twin, fresh = _stepped(name, seed=1)
    twin.load_state_dict(model.state_dict())
    tensors, groups = flatten_state(model, optimizer)
    assert all(value.dtype == torch.float32 for value in tensors.values())
    fresh.load_state_dict(unflatten_state(tensors, groups, twin, fresh))
    for _ in range(3):
        for net, opt in ((model, optimizer), (twin, fresh)):
            opt.zero_grad()
            net(torch.ones(2, 3)).sum().backward()
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_state_of_something_else_is_refused() -> None:
    model, optimizer = _stepped("adam")
    tensors, groups = flatten_state(model, optimizer)
    with pytest.raises(ValueError, match="9.weight/exp_avg belongs to no trained parameter"):
        unflatten_state({"9.weight/exp_avg": torch.zeros(1)}, groups, model, optimizer)
    with pytest.raises(ValueError, match=r"0.weight/exp_avg must be floating point of shape \[5, 3\].*\[2\]"):
        unflatten_state({"0.weight/exp_avg": torch.zeros(2)}, groups, model, optimizer)
    with pytest.raises(ValueError, match=r"got torch.int64 \[5, 3\]"):
        unflatten_state({"0.weight/exp_avg": torch.zeros(5, 3).long()}, groups, model, optimizer)
    other, rmsprop = _stepped("rmsprop")
    with pytest.raises(ValueError, match="another kind of optimizer"):
        unflatten_state(tensors, groups, other, rmsprop)
