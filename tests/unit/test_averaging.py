"""The running mean against its formula, and that it takes the place of the weights and gives it back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from revgnn.train.callbacks.ema import averaged, follow
from revgnn.train.optim import OPTIMIZERS, flatten_state, make_optimizer, unflatten_state


class Pair(nn.Module):
    """Two weights, the second of which may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.late = nn.Parameter(torch.randn(3, 2).double()), nn.Parameter(torch.randn(4).double())


def _walk(model: Pair, optimizer: torch.optim.Optimizer, steps: int, *, decay: float, begin: int = 0) -> list[Tensor]:
    """Steps with random gradients, the second weight's from the third step on; the first weight after each."""
    weights = []
    for step in range(begin, begin + steps):
        torch.manual_seed(step)
        model.used.grad = torch.randn(3, 2).double()
        model.late.grad = torch.randn(4).double() if step >= 2 else None
        optimizer.step()
        follow(optimizer, decay)
        weights.append(model.used.detach().clone())
    return weights


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_mean_is_that_of_its_formula(name: str, decay: float) -> None:
    torch.manual_seed(0)
    model = Pair()
    optimizer = make_optimizer(name, model.parameters(), lr=0.1, weight_decay=0.0)
    weights = _walk(model, optimizer, 40, decay=decay)
    expected = weights[0]
    for taken, weight in enumerate(weights, start=1):
        keep = min(decay, (1 + taken) / (10 + taken))
        expected = keep * expected + (1 - keep) * weight
    with averaged(optimizer):
        torch.testing.assert_close(model.used.detach(), expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(model.used, weights[-1])
    assert torch.equal(model.used, weights[-1])


def test_the_mean_is_given_back_whatever_happens_and_stays_as_it_was() -> None:
    model = Pair()
    optimizer = make_optimizer("adam", model.parameters(), lr=0.1, weight_decay=0.0)
    _walk(model, optimizer, 5, decay=0.9)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    kept = {name: value.clone() for name, value in flatten_state(model, optimizer)[0].items()}
    with pytest.raises(KeyError, match="on the way"), averaged(optimizer):
        raise KeyError("on the way")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    now = flatten_state(model, optimizer)[0]
    assert now.keys() == kept.keys() and all(torch.equal(value, now[name]) for name, value in kept.items())


def test_without_a_mean_the_weights_stay_in_their_place() -> None:
    model = Pair()
    optimizer = make_optimizer("adam", model.parameters(), lr=0.1, weight_decay=0.0)
    before = model.used.detach().clone()
    follow(optimizer, 0.9)
    with averaged(optimizer):
        assert torch.equal(model.used, before)
    model.used.grad = torch.ones(3, 2).double()
    optimizer.step()
    stepped = model.used.detach().clone()
    with averaged(optimizer):
        assert torch.equal(model.used, stepped)


def test_a_saved_mean_goes_on_as_if_it_had_never_been_saved() -> None:
    whole, cut = [], []
    for ways, saved in ((whole, False), (cut, True)):
        torch.manual_seed(0)
        model = Pair()
        optimizer = make_optimizer("rmsprop", model.parameters(), lr=0.1, weight_decay=0.0)
        _walk(model, optimizer, 4, decay=0.8)
        if saved:
            tensors, groups = flatten_state(model, optimizer)
            optimizer = make_optimizer("rmsprop", model.parameters(), lr=0.1, weight_decay=0.0)
            optimizer.load_state_dict(unflatten_state(tensors, groups, model, optimizer))
        _walk(model, optimizer, 3, decay=0.8, begin=4)
        with averaged(optimizer):
            ways += [model.used.detach().clone(), model.late.detach().clone()]
    assert all(torch.equal(one, other) for one, other in zip(whole, cut, strict=True))
