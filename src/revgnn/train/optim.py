"""Makes optimizers, sets the learning rate of an epoch, checks and clips gradients, and saves optimizer states.

There is no scheduler state: the learning rate is a function of the epoch, so a resumed run has nothing to restore.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from .distributed.fsdp import as_held, whole

OptimizerName = Literal["adam", "adamw", "rmsprop"]
ScheduleName = Literal["constant", "cosine"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
"""Optimizers by name: the values of ``train.optimizer``.

Examples:
    >>> from revgnn.train import OPTIMIZERS
    >>> list(OPTIMIZERS)
    ['adam', 'adamw', 'rmsprop']
"""


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    decays: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer with torch's defaults over the parameters that require a gradient.

    Args:
        name: a key of `OPTIMIZERS`; "adam" and "rmsprop" add the decay to the gradient, "adamw" to the weight.
        lr: learning rate before any schedule.
        weight_decay: weight decay of every parameter; 0: none.
        decays: parameters with another one, as of `find_decays`; each value is a parameter group.
    Raises: ValueError: the name is unknown, or no parameter requires a gradient.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer={name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter with requires_grad: there is nothing to train")
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault((decays or {}).get(parameter, weight_decay), []).append(parameter)
    return OPTIMIZERS[name](
        [{"params": members, "weight_decay": decay} for decay, members in groups.items()],
        lr=lr,  # type: ignore[call-arg]
    )


def find_decays(model: nn.Module, weight_decays: Iterable[tuple[str, float]]) -> dict[nn.Parameter, float]:
    """Return the weight decay of the parameters inside the named submodules.

    Args:
        model: the model.
        weight_decays: name of a submodule or parameter, such as "stack" or "head.lin", and the decay; the last one of
            several that have a parameter in them counts.
    Raises: ValueError: a name without parameters; the message lists the submodules that have some.
    """
    found: dict[nn.Parameter, float] = {}
    for inside, decay in weight_decays:
        members = [each for name, each in model.named_parameters() if f"{name}.".startswith(f"{inside}.")]
        if not members:
            names = dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters())
            raise ValueError(
                f"train.weight_decays names {inside!r}, which has no parameters; choose of {', '.join(names)}"
            )
        found.update(dict.fromkeys(members, decay))
    return found


def learning_rate(
    epoch: int, *, lr: float, epochs: int, warmup_epochs: int = 0, schedule: ScheduleName = "constant"
) -> float:
    """Return the learning rate of an epoch, counted from 1.

    ``lr * epoch / warmup_epochs`` up to ``warmup_epochs``; then ``lr``, or half a cosine from ``lr`` towards 0, which
    would be reached in the epoch after the last.

    Args:
        epoch: 1..epochs.
        lr: the highest rate.
        epochs: the length of the run; only the cosine schedule uses it.
        warmup_epochs: length of the linear warm-up; 0: none.

    Examples:
        >>> from revgnn.train import learning_rate
        >>> [learning_rate(epoch, lr=0.1, epochs=10, warmup_epochs=2) for epoch in (1, 2, 3)]
        [0.05, 0.1, 0.1]
    """
    if epoch <= warmup_epochs:
        return lr * epoch / warmup_epochs
    if schedule == "constant":
        return lr
    done = (epoch - warmup_epochs - 1) / (epochs - warmup_epochs)
    return lr * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def check_and_clip(model: nn.Module, loss: Tensor, clip_norm: float | None) -> float:
    """Check that the loss and the gradients are finite, then clip the gradient norm to ``clip_norm``.

    The check comes first: clipping by a NaN norm would make every gradient NaN and hide the parameter that caused it.

    Args:
        model: after the backward pass.
        loss: the differentiated scalar.
        clip_norm: largest Euclidean norm over all gradients; ``None``: no clipping.
    Returns: the loss as a float.
    Raises: FloatingPointError: the message names the loss, or the first parameter with non-finite entries and their
        number.
    Cost: one pass over the gradients and one transfer from the device; a second pass to clip them.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value}")
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = whole(get_total_norm(gradients.values()))
    if not math.isfinite(float(norm)):
        raise FloatingPointError(_describe_bad(gradients))
    if clip_norm is not None:
        clip_grads_with_norm_(model.parameters(), clip_norm, norm)
    return value


def _describe_bad(gradients: dict[str, Tensor]) -> str:
    for name, gradient in gradients.items():
        gradient = whole(gradient)
        count = int((~torch.isfinite(gradient)).sum())
        if count:
            return f"the gradient of {name} has {count} of {gradient.numel()} entries that are NaN or infinite"
    largest = {name: float(whole(gradient).abs().max()) for name, gradient in gradients.items()}
    name = max(largest, key=lambda name: largest[name])
    return f"the gradient's norm overflows; its largest entry, {largest[name]:.3g}, is in {name}"


# ------------------------------------------------------------------ state by parameter name


def flatten_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    """Copy an optimizer's state to the CPU.

    Returns: ``<parameter>/<key>`` -> tensor, and the hyper-parameters of each group as JSON values.
    """
    state = optimizer.state_dict()
    names = _parameter_names(model, optimizer)
    tensors = {
        f"{names[index]}/{key}": whole(value.detach()).to("cpu", copy=True).contiguous()
        for index, entries in state["state"].items()
        for key, value in entries.items()
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return tensors, groups


def unflatten_state(
    tensors: Mapping[str, Tensor], groups: list[dict[str, object]], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, object]:
    """Convert the result of `flatten_state` back to the argument of ``optimizer.load_state_dict``.

    Raises: ValueError: the state belongs to another model or another type of optimizer; the message names the first
        entry that differs.
    """
    places = {name: index for index, name in enumerate(_parameter_names(model, optimizer))}
    own_parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in places:
            raise ValueError(f"the optimizer state {full_name} belongs to no trained parameter of this model")
        shape = own_parameters[name].shape
        if not value.is_floating_point() or value.shape not in (shape, torch.Size([])):
            raise ValueError(
                f"the optimizer state {full_name} must be floating point of shape {list(shape)} or a scalar, "
                f"got {value.dtype} {list(value.shape)}"
            )
        held = as_held(value, own_parameters[name]) if value.shape == shape else value
        state.setdefault(places[name], {})[key] = held
    own = optimizer.state_dict()["param_groups"]
    if [group.keys() - {"params"} for group in own] != [set(group) for group in groups]:
        raise ValueError("the optimizer state is of another kind of optimizer; use the configuration it was saved with")
    merged = [
        {"params": mine["params"], **{key: _like(mine[key], value) for key, value in saved.items()}}
        for mine, saved in zip(own, groups, strict=True)
    ]
    return {"state": state, "param_groups": merged}


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in the order of its state dict."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _like(own: object, saved: object) -> object:
    """Convert a saved hyper-parameter to the optimizer's type."""
    if isinstance(own, tuple) and isinstance(saved, list) and len(own) == len(saved):
        # JSON has no tuples, and Adam's betas are a tuple.
        return tuple(_like(one, other) for one, other in zip(own, saved, strict=True))
    numbers = (int, float)
    if type(own) is type(saved) or (type(own) in numbers and type(saved) in numbers):
        return saved
    raise ValueError(f"the optimizer has a hyper-parameter like {own!r} where the saved one is {saved!r}")
