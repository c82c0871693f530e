"""What holds in which surroundings: each way to differentiate, put into ordinary surroundings of PyTorch.

``python -m benchmarks.guarantees`` writes docs/guarantees.md. A cell compares the gradient with that of the stored twin
(the same weights, differentiated plainly, on the plain ops) in the same surroundings.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle
from torch.utils.module_tracker import ModuleTracker
from torch_geometric.nn import GroupAddRev as PygGroupAddRev
from torch_geometric.nn import SAGEConv as PygSAGEConv

import revgnn
from revgnn import ops
from revgnn.data import GraphInfo
from revgnn.implicit.equilibrium import Equilibrium
from revgnn.implicit.solvers import Solver
from revgnn.interop import GroupAddRev

from .pages import measured_on

DOCS = Path(__file__).resolve().parent.parent / "docs"

N, E, F, D, T = 40, 200, 8, 16, 5
LIMIT = 1e-6
"""Relative error of a gradient in float64 up to which it is right; an equilibrium's is that of its solves."""


# ---------------------------------------------------------------------- what is differentiated
class Net(nn.Module):
    """Encoder, some layers, head; what a person would write."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.layers, self.head = nn.Linear(F, D), nn.ModuleList(layers), nn.Linear(D, T)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[N, F] -> [N, T]."""
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, edge_index)
        out: Tensor = self.head(x)
        return out


class Ordinary(nn.Module):
    """A block as people write them: torch's norm and dropout, PyG's convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv, self.drop = nn.BatchNorm1d(channels), PygSAGEConv(channels, channels), nn.Dropout(0.3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[N, d] -> [N, d]."""
        out: Tensor = self.conv(self.drop(self.norm(x).relu()), edge_index)
        return out


class Seeded(Ordinary):
    """The same as a block of `revgnn.Stack`."""

    def forward(self, x: Tensor, seed: int, edge_index: Tensor) -> Tensor:  # type: ignore[override]
        """[N, d] -> [N, d]."""
        return super().forward(x, edge_index)


class Still(Ordinary):
    """The same with nothing that draws or moves, which PyG's reversible layer does not support."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm, self.drop = nn.LayerNorm(channels), nn.Identity()  # type: ignore[assignment]


class Contraction(nn.Module):
    """A block with a fixed point, for an equilibrium."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = PygSAGEConv(D, D), nn.Dropout(0.3)

    def forward(self, z: Tensor, seed: int, x: Tensor, edge_index: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        return torch.tanh(0.3 * self.conv(self.drop(z), edge_index) + x)


def _model(stored: bool, backprop: str, conv: str = "sage") -> nn.Module:
    config = revgnn.ModelConfig(
        conv=conv,  # type: ignore[arg-type]
        num_layers=4,
        hidden_channels=D,
        dropout=0.3,
        norm="batch",
        backprop="store" if stored else backprop,  # type: ignore[arg-type]
        gat=revgnn.nn.convs.GATOptions(heads=2),
    )
    return revgnn.build_model(config, GraphInfo(in_channels=F, num_outputs=T))


def _stack(stored: bool, backprop: str) -> nn.Module:
    backprop = "store" if stored else backprop
    return Net([revgnn.Stack(Seeded, channels=D, num_layers=4, coupling="grouped", backprop=backprop)])  # type: ignore[arg-type]


def _equilibrium(stored: bool) -> nn.Module:
    if stored:
        return Net([Equilibrium(Contraction(), mode="unroll", pretrain_steps=60)])
    solver = Solver(tol=1e-11, max_iter=100)
    return Net([Equilibrium(Contraction(), solver, backward=solver)])


def _layers(stored: bool, kind: Callable[..., nn.Module], block: Callable[[int], nn.Module]) -> nn.Module:
    return Net([kind(block(D // 2), num_groups=2, disable=stored) for _ in range(4)])


def _convs(stored: bool) -> nn.Module:
    return Net([conv(D, D) for conv in (revgnn.GCNConv, revgnn.SAGEConv, revgnn.GENConv)])


SUBJECTS: dict[str, Callable[[bool], nn.Module]] = {
    "model, store": partial(_model, backprop="store"),
    "model, reversible": partial(_model, backprop="reversible"),
    "model, checkpoint": partial(_model, backprop="checkpoint"),
    "own block, reversible": partial(_stack, backprop="reversible"),
    "own block, checkpoint": partial(_stack, backprop="checkpoint"),
    "own block, implicit": _equilibrium,
    "GroupAddRev": partial(_layers, kind=GroupAddRev, block=Ordinary),
    "convolutions": _convs,
    "PyG's GroupAddRev": partial(_layers, kind=PygGroupAddRev, block=Still),
}


# ---------------------------------------------------------------------- in which surroundings
@dataclass(frozen=True)
class Case:
    """One model and one batch."""

    model: nn.Module
    x: Tensor
    edge_index: Tensor
    y: Tensor

    def loss(self, model: Callable[..., Tensor] | None = None, x: Tensor | None = None) -> Tensor:
        """Of a forward in training, whose random numbers are the same every time."""
        torch.manual_seed(5)
        out = (self.model if model is None else model)(self.x if x is None else x, self.edge_index)
        return nn.functional.cross_entropy(out.double(), self.y)

    def grads(self) -> Tensor:
        """Of all parameters, one after another."""
        return _flat([parameter.grad for parameter in self.model.parameters()], list(self.model.parameters()))

    def linears(self) -> list[nn.Module]:
        """Some linear maps inside the layers."""
        return [m for name, m in self.model.named_modules() if isinstance(getattr(m, "weight", None), nn.Parameter)
                and m.weight.dim() == 2 and ("layers" in name or "block" in name)][::2]  # fmt: skip


def _flat(grads: list[Tensor | None], like: list[Tensor]) -> Tensor:
    pairs = zip(grads, like, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).detach().flatten() for g, p in pairs])


def plain(case: Case) -> Tensor:
    """Nothing around it"""
    case.loss().backward()
    return case.grads()


def inside_checkpoint(case: Case, *, use_reentrant: bool) -> Tensor:
    """Inside of `torch.utils.checkpoint`"""
    model = partial(checkpoint, case.model, use_reentrant=use_reentrant)
    case.loss(model, case.x.clone().requires_grad_()).backward()
    return case.grads()


def inside_selective_checkpoint(case: Case) -> Tensor:
    """Inside of `torch.utils.checkpoint` that keeps products"""
    products = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
    kept = partial(create_selective_checkpoint_contexts, products)
    model = partial(checkpoint, case.model, use_reentrant=False, context_fn=kept)
    case.loss(model, case.x.clone().requires_grad_()).backward()
    return case.grads()


def on_cpu(case: Case) -> Tensor:
    """`save_on_cpu`"""
    with torch.autograd.graph.save_on_cpu():
        loss = case.loss()
    loss.backward()
    return case.grads()


def packed(case: Case) -> Tensor:
    """saved-tensor hooks that copy, into another order of memory"""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(order="F"), torch.from_numpy):
        loss = case.loss()
    loss.backward()
    return case.grads()


def called_functionally(case: Case) -> Tensor:
    """`torch.func.functional_call`"""
    torch.manual_seed(1)
    new = {name: (p.detach() + 0.1 * torch.randn_like(p)).requires_grad_() for name, p in case.model.named_parameters()}
    case.loss(lambda *args: torch.func.functional_call(case.model, new, args)).backward()
    return _flat([value.grad for value in new.values()], list(new.values()))


def exchanged(case: Case) -> Tensor:
    """Parameters exchanged before the backward"""
    before, loss = list(case.model.parameters()), case.loss()
    for module in case.model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(torch.randn_like(parameter)))
    loss.backward()
    return _flat([parameter.grad for parameter in before], before)


def evaluating_before(case: Case) -> Tensor:
    """`eval()` before the backward"""
    loss = case.loss()
    case.model.eval()
    loss.backward()
    return case.grads()


def training_before(case: Case) -> Tensor:
    """`train()` before the backward of an evaluation"""
    case.model.eval()
    loss = case.loss()
    case.model.train()
    loss.backward()
    return case.grads()


def inside_inference_mode(case: Case) -> Tensor:
    """A backward inside `inference_mode`"""
    loss = case.loss()
    with torch.inference_mode():
        loss.backward()
    return case.grads().clone()


def validated_between(case: Case) -> Tensor:
    """A validation between forward and backward"""
    loss = case.loss()
    case.model.eval()
    with torch.no_grad():
        case.model(2 * case.x, case.edge_index)
    case.model.train()
    loss.backward()
    return case.grads()


def two_forwards(case: Case) -> Tensor:
    """Two forwards, then two backwards"""
    first, second = case.loss(), case.loss(x=2 * case.x)
    first.backward()
    second.backward()
    return case.grads()


def retained(case: Case) -> Tensor:
    """`retain_graph`, twice"""
    loss = case.loss()
    loss.backward(retain_graph=True)
    loss.backward()
    return case.grads()


def drawn_between(case: Case) -> Tensor:
    """Random numbers drawn between forward and backward"""
    loss = case.loss()
    torch.manual_seed(77)
    torch.rand(1000)
    loss.backward()
    return case.grads()


def parameter_hooks(case: Case) -> Tensor:
    """`Tensor.register_hook` on parameters"""
    for parameter in case.model.parameters():
        parameter.register_hook(lambda grad: 2 * grad)
    return plain(case)


def hooks_of_many(case: Case) -> Tensor:
    """`register_multi_grad_hook`"""
    calls: list[int] = []
    torch.autograd.graph.register_multi_grad_hook(list(case.model.parameters()), lambda grads: calls.append(len(grads)))
    grads = plain(case)
    return grads * len(calls)


def stepping_hooks(case: Case) -> Tensor:
    """`register_post_accumulate_grad_hook` that steps"""
    grads: dict[Tensor, Tensor] = {}

    def step(parameter: Tensor) -> None:
        assert parameter.grad is not None
        grads[parameter] = grads.get(parameter, 0) + parameter.grad
        parameter.grad = None

    for parameter in case.model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    case.loss().backward()
    return _flat([grads.get(parameter) for parameter in case.model.parameters()], list(case.model.parameters()))


def module_hooks(case: Case) -> Tensor:
    """Forward hooks that change what a layer gives"""
    for module in case.linears():
        module.register_forward_hook(lambda _module, _args, out: 3 * out)
    return plain(case)


def replaced_forwards(case: Case) -> Tensor:
    """Forwards replaced on the instance"""
    for module in case.linears():
        before = module.forward
        module.forward = lambda x, before=before: 3 * before(x)  # type: ignore[method-assign]
    return plain(case)


def hooks_removed(case: Case) -> Tensor:
    """Forward hooks and replaced forwards that are gone before the backward, and new ones"""
    modules = case.linears()
    handles = [module.register_forward_hook(lambda _module, _args, out: 1.5 * out) for module in modules]
    for module in modules[::2]:
        module.forward = lambda x, before=module.forward: 0.5 * before(x)  # type: ignore[method-assign]
    loss = case.loss()
    for handle in handles:
        handle.remove()
    for module in modules[::2]:
        del module.forward
    modules[0].register_forward_pre_hook(lambda _module, args: 0.5 * args[0])
    loss.backward()
    return case.grads()


def hooks_of_all(case: Case) -> Tensor:
    """Forward hooks of all modules that are gone before the backward, and other ones"""

    def scaled(by: float) -> RemovableHandle:
        kinds = (nn.Linear, nn.BatchNorm1d)
        return register_module_forward_hook(lambda module, _args, out: by * out if type(module) in kinds else None)

    handle = scaled(1.5)
    loss = case.loss()
    handle.remove()
    handle = scaled(0.1)
    loss.backward()
    handle.remove()
    return case.grads()


def classes_patched(case: Case) -> Tensor:
    """Forwards replaced on the class"""
    kinds = (nn.Linear, nn.BatchNorm1d, revgnn.SAGEConv, revgnn.GENConv)
    before = {kind: kind.forward for kind in kinds}
    own = {kind for kind in kinds if "forward" in vars(kind)}
    try:
        for kind, forward in before.items():
            kind.forward = lambda *args, forward=forward, **kwargs: 1.3 * forward(*args, **kwargs)  # type: ignore[assignment]
        return plain(case)
    finally:
        for kind, forward in before.items():
            if kind in own:
                kind.forward = forward  # type: ignore[assignment]
            else:
                del kind.forward


class Scaling(TorchFunctionMode):
    """Changes the result of every linear map."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: Any = None
    ) -> object:
        """Call the function."""
        out: Any = func(*args, **(kwargs or {}))
        return 1.25 * out if func is nn.functional.linear else out


def in_function_mode(case: Case) -> Tensor:
    """A mode of `torch.overrides` around the forward alone"""
    with Scaling():
        loss = case.loss()
    loss.backward()
    return case.grads()


def attributes_changed(case: Case) -> Tensor:
    """Plain attributes and classes of modules changed before the backward"""

    class Tripled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    loss = case.loss()
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
        if hasattr(module, "eps"):
            module.eps = 0.5
        if hasattr(module, "act_drop"):
            module.act_drop = dataclasses.replace(module.act_drop, dropout=0.9)  # type: ignore[type-var]
        if type(module) is nn.Linear:
            module.__class__ = Tripled
    before = [(type(module), vars(module).get("p"), vars(module).get("eps")) for module in case.model.modules()]
    loss.backward()
    assert before == [(type(module), vars(module).get("p"), vars(module).get("eps")) for module in case.model.modules()]
    return case.grads()


def counted(case: Case) -> Tensor:
    """`FlopCounterMode`"""
    with FlopCounterMode(display=False):
        return plain(case)


def tracked(case: Case) -> Tensor:
    """`ModuleTracker`"""
    with ModuleTracker():  # type: ignore[no-untyped-call]
        return plain(case)


def anomalies(case: Case) -> Tensor:
    """`detect_anomaly`"""
    with warnings.catch_warnings(), torch.autograd.detect_anomaly():
        return plain(case)


def parametrized(case: Case, *, by: Callable[..., object]) -> Tensor:
    """Spectral and weight norm of `torch.nn.utils.parametrizations`, pruning"""
    torch.manual_seed(2)
    for module in case.linears():
        by(module, "weight")
    return plain(case)


def cached(case: Case) -> Tensor:
    """Weight norm inside of `parametrize.cached()`"""
    for module in case.linears():
        parametrizations.weight_norm(module, "weight")
    with parametrize.cached():  # type: ignore[no-untyped-call]
        return plain(case)


def frozen(case: Case) -> Tensor:
    """Some parameters frozen"""
    for parameter in list(case.model.parameters())[::3]:
        parameter.requires_grad_(False)
    return plain(case)


def written_to(case: Case) -> Tensor:
    """An optimizer's step before the backward"""
    loss = case.loss()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.mul_(1.5)
    loss.backward()
    return case.grads()


def copied(case: Case) -> Tensor:
    """`deepcopy` and pickle after a step"""
    case.loss().backward()
    case.model.zero_grad()
    other = pickle.loads(pickle.dumps(copy.deepcopy(case.model)))
    torch.save(case.model, io.BytesIO())
    return plain(Case(other, case.x, case.edge_index, case.y))


def inferred_before(case: Case) -> Tensor:
    """`inference_mode` first, then training"""
    with torch.inference_mode():
        case.model(case.x, case.edge_index)
    return plain(case)


def penalty(case: Case) -> Tensor:
    """A gradient penalty (`create_graph`)"""
    x = case.x.clone().requires_grad_()
    (force,) = torch.autograd.grad(case.loss(x=x), x, create_graph=True)
    force.pow(2).sum().backward()
    return case.grads()


def second(case: Case, *, of: str) -> Tensor:
    """`torch.autograd.functional.hessian` and `hvp`"""
    if of == "hvp":
        # BatchNorm does not see the same step of all nodes.
        along = torch.linspace(-1, 1, case.x.numel(), dtype=case.x.dtype).sin_().view_as(case.x)
        return torch.autograd.functional.hvp(lambda x: case.loss(x=x), case.x, along)[1].flatten()
    return torch.autograd.functional.hessian(lambda x: case.loss(x=torch.cat([x, case.x[2:]])), case.x[:2]).flatten()


def many_at_once(case: Case) -> Tensor:
    """`functional.jacobian` with `vectorize=True`"""
    case.model.eval()

    def of_two(x: Tensor) -> Tensor:
        return torch.as_tensor(case.model(torch.cat([x, case.x[1:]]), case.edge_index)[:2])

    return torch.as_tensor(torch.autograd.functional.jacobian(of_two, case.x[:1], vectorize=True)).flatten()


def functional_grad(case: Case) -> Tensor:
    """`torch.func.grad`"""
    case.model.eval()
    return torch.func.grad(lambda x: case.loss(x=x))(case.x).flatten()


def forward_mode(case: Case) -> Tensor:
    """`torch.func.jvp`"""
    case.model.eval()
    return torch.func.jvp(lambda x: case.loss(x=x), (case.x,), (torch.ones_like(case.x),))[1].flatten()


def batched(case: Case) -> Tensor:
    """`torch.func.vmap` over features"""
    case.model.eval()
    return torch.func.vmap(lambda x: case.model(x, case.edge_index))(torch.stack([case.x, 2 * case.x])).flatten()


def in_half(case: Case) -> Tensor:
    """bfloat16 autocast"""
    case.model.float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(x=case.x.float())
    loss.backward()
    return case.grads()


SURROUNDINGS: dict[str, Callable[[Case], Tensor]] = {
    "nothing around it": plain,
    "`torch.utils.checkpoint`": partial(inside_checkpoint, use_reentrant=False),
    "`torch.utils.checkpoint`, reentrant": partial(inside_checkpoint, use_reentrant=True),
    "`torch.utils.checkpoint`, selective": inside_selective_checkpoint,
    "`save_on_cpu`": on_cpu,
    "saved-tensor hooks that copy, into another order of memory": packed,
    "`torch.func.functional_call`": called_functionally,
    "parameters exchanged before the backward": exchanged,
    "an optimizer's step before the backward": written_to,
    "`eval()` before the backward": evaluating_before,
    "`train()` before an evaluation's backward": training_before,
    "a validation between forward and backward": validated_between,
    "a backward inside `inference_mode`": inside_inference_mode,
    "two forwards, then two backwards": two_forwards,
    "`retain_graph`, backward twice": retained,
    "random numbers drawn before the backward": drawn_between,
    "`register_hook` on parameters": parameter_hooks,
    "`register_multi_grad_hook`": hooks_of_many,
    "`register_post_accumulate_grad_hook`": stepping_hooks,
    "forward hooks that change an output": module_hooks,
    "forwards replaced on the instance": replaced_forwards,
    "hooks and forwards changed before the backward": hooks_removed,
    "hooks of all modules changed before the backward": hooks_of_all,
    "forwards replaced on the class": classes_patched,
    "a mode of `torch.overrides` around the forward": in_function_mode,
    "attributes and classes of modules changed before the backward": attributes_changed,
    "`FlopCounterMode`": counted,
    "`ModuleTracker`": tracked,
    "`detect_anomaly`": anomalies,
    "spectral norm": partial(parametrized, by=parametrizations.spectral_norm),
    "weight norm": partial(parametrized, by=parametrizations.weight_norm),
    "`parametrize.cached`": cached,
    "pruning": partial(parametrized, by=partial(prune.l1_unstructured, amount=0.5)),
    "some parameters frozen": frozen,
    "`deepcopy`, pickle, `torch.save` after a step": copied,
    "`inference_mode`, then training": inferred_before,
    "a gradient penalty (`create_graph`)": penalty,
    "`functional.hessian`": partial(second, of="hessian"),
    "`functional.hvp`": partial(second, of="hvp"),
    "`functional.jacobian`, `vectorize=True`": many_at_once,
    "`torch.func.grad`": functional_grad,
    "`torch.func.jvp`": forward_mode,
    "`torch.func.vmap`": batched,
    "bfloat16 autocast": in_half,
}


def gradient(subject: str, surrounding: str, *, stored: bool) -> Tensor:
    """The gradient of one subject, or of its stored twin, in one surrounding."""
    torch.manual_seed(0)
    model = SUBJECTS[subject](stored).double()
    torch.manual_seed(3)
    edge_index, x, y = torch.randint(0, N, (2, E)), torch.randn(N, F).double(), torch.randint(0, T, (N,))
    with ops.using("reference" if stored else "auto"):
        return SURROUNDINGS[surrounding](Case(model, x, edge_index, y)).double()


def cell(subject: str, surrounding: str) -> str:
    """``right``, ``refused`` or how wrong: for one subject in one surrounding."""
    try:
        true: Tensor | None = gradient(subject, surrounding, stored=True)
    except RuntimeError:
        true = None  # torch itself refuses
    try:
        found = gradient(subject, surrounding, stored=False)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return "refused" if str(error) else "wrong: an error without words"
    except AssertionError as error:
        return f"wrong: {type(error).__name__}"
    if true is None:
        return "wrong: no error where torch gives one"
    error = float((found - true).norm() / true.norm())
    limit = 5e-2 if surrounding == "bfloat16 autocast" else LIMIT
    return "right" if error <= limit else f"wrong: {100 * error:.2g}% off"


def table() -> str:
    """The whole table as Markdown."""
    lines = ["| | " + " | ".join(SUBJECTS) + " |", "|---|" + "---|" * len(SUBJECTS)]
    lines += [
        f"| {surrounding} | " + " | ".join(cell(subject, surrounding) for subject in SUBJECTS) + " |"
        for surrounding in SURROUNDINGS
    ]
    return "\n".join(lines)


PAGE = """# Guarantees: correct gradients under other people's code

Generated by `benchmarks/guarantees.py`; {where}.

Users combine a reversible layer with PyTorch features that its author did not foresee. Each row of the table is such a
feature, each column a way to differentiate. Each cell compares the gradient with that of the same weights with every
activation stored, under the same feature, in float64 on the plain ops.

- **right**: the relative error of the whole gradient is at most {limit:.0e} (5e-2 under bfloat16).
- **refused**: an error states the rule and the remedy before a wrong gradient can be used. torch itself refuses an
  optimizer's step before the backward, for every network. Second derivatives are refused where an autograd Function
  makes the first; use `backprop="store"`, `backprop="checkpoint"` or `disable=True` for them. Many cotangents at once
  are refused by kernels and by whatever evaluates again; pass them one by one.
- **wrong**: no error, and a gradient with the error that the cell shows.

The blocks have dropout and BatchNorm, whose running statistics change in every forward. "own block" is a block as users
write it: torch's BatchNorm and dropout around PyG's convolution. "convolutions" are single layers on the kernels. The
blocks in PyG's own reversible layer have neither dropout nor BatchNorm, because it does not support them.

{table}

## How it works

- The backward recomputes a block in the state of its forward: with the same parameters, buffers, training flags,
  hooks (also those of all modules), replaced forwards, classes, plain attributes (numbers, texts, functions, frozen
  dataclasses), autocast, modes of `torch.overrides`, default dtype and random numbers. Afterwards it restores the state
  that the caller had. So a hook that removes itself in the forward is called again in the backward, and a counter
  counts one evaluation per step.
- Lazy modules are evaluated once more, in evaluation mode, before the first step, so that they have shapes.
- Gradients are computed at detached leaves, so hooks of parameters run once, on the whole gradient.
- In the first step of a run each block is evaluated twice and the values are compared. An error names the layer whose
  values differ (random numbers of Python, a counter), or that uses a tensor which would get no gradient.

## What is not guaranteed

- Two threads may train one model, because repetitions take turns. Meanwhile ``model.parameters()`` may list the tensors
  of another thread's repetition, so list parameters before. A thread of other code that draws from torch's global
  generator disturbs a block's dropout, as it disturbs `torch.utils.checkpoint`.
- Lists, dictionaries, tensors that are no buffers, and other objects that can change have the values of the backward,
  not of the forward. So has a forward that was replaced on a class.
- A tensor that a block of a reversible or checkpointed stack leaves on itself, or to a hook (an auxiliary loss),
  has no gradient: make it a part of the stream, or choose `backprop="store"`.
- The input of a block is memory of the stream, which later layers write to. Hooks get a copy; a block that keeps its
  input must clone it.
- An equilibrium evaluates one map: what the first evaluation changes (a hook that removes itself) is changed back for
  the others.
- Writes that torch's version counters do not see (through ``.data``, by a fused optimizer, or by another program) are
  not detected.
- Compiled autograd, an experiment of torch, does not follow these backwards.
"""


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (DOCS / "guarantees.md").write_text(PAGE.format(where=measured_on("cpu"), limit=LIMIT, table=table()))


if __name__ == "__main__":
    main()
