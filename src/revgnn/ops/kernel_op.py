"""The `KernelOp` class: makes an autograd Function and a custom op from the plain functions of a kernel op.

Outside torch.compile an autograd Function runs the op, because a custom op has several times its overhead, which
matters for networks of a thousand small layers. Under torch.compile, and on tensor subclasses, a custom op of
`torch.library` runs it. Both call the same functions. The kernels support first-order gradients: if the backward is
recorded by autograd (``create_graph=True``), or a kernel cannot read a cotangent, gradients are computed by
differentiating the reference. A custom op, which may be part of a compiled graph, raises an error for second-order
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from ..graph import Graph
from ..stack.gradients import FunctionContext
from . import double_backward
from .checks import is_readable, is_transformed
from .choice import backend_for, lacks
from .operands import DTYPES
from .tracing import graph_of, is_traced, reverse_tensors

P = ParamSpec("P")
A = TypeVar("A", bound=NamedTuple)
O = TypeVar("O", bound=tuple[Tensor | None, ...])
Needs = Sequence[bool]
Results = Tensor | tuple[Tensor | None, ...]

_SCHEMAS: dict[object, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    int | None: "int?",
    float: "float",
    str: "str",
}
_GRAPH = ("indptr", "indices", "reverse_indptr", "reverse_indices", "reverse_edge_ids")


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelOp(Generic[P, A, O]):
    """A function of tensors with gradients, evaluated by the kernels of a backend.

    ``op(*arguments)`` runs the kernels where they can and the reference elsewhere; `on_kernels` has been asked before.

    Examples:
        >>> from revgnn.ops import KernelOp
        >>> from revgnn.ops.linear import LINEAR
        >>> isinstance(LINEAR, KernelOp)  # docs/extending.md writes one
        True
    """

    name: str
    """Name of the custom op: ``namespace::name``."""
    arguments: Callable[P, A]
    """NamedTuple of a call's arguments: first tensors, then the `Graph` if there is one, then numbers and strings."""
    kernels: Collection[str]
    """Names of the kernels that a backend must have."""
    outputs: Callable[[A, Needs], O]
    """Allocates the outputs of the forward, and so defines their shapes for tracers: first the results, then tensors
    for the backward, which are empty if no gradient needs them."""
    forward: Callable[[A, O], None]
    """Writes the outputs."""
    saved: Callable[[A, O, Needs], tuple[Tensor | None, ...]]
    """Returns the tensors to save for the backward: argument tensors, then outputs, each in its position, or ``None``
    if the backward does not need it."""
    backward: Callable[[A, O, Sequence[Tensor], Needs], Sequence[Tensor | None]]
    """Returns the gradients of the tensors, of their shapes and types, from what was saved and the results' cotangents;
    ``None`` where there is no tensor. What was not saved and needs one has the first result's shape and type."""
    reference: Callable[[A], Results]
    """The op in plain torch, differentiable any number of times."""
    again: Callable[[A, O], Results] | None = None
    """The same from what was saved, if `reference` needs more than that: what is differentiated where the backward is
    to be differentiated. Zeros take the place of tensors that were not saved."""
    num_results: int = 1
    """Number of outputs that are results and have gradients."""
    is_traceable: bool = True
    """Whether to make a custom op; otherwise tracers use the reference."""
    fields: dict[str, object] = field(init=False)
    """The types of the arguments by name."""
    num_tensors: int = field(init=False)
    """How many of them are tensors."""
    function: type[torch.autograd.Function] = field(init=False)
    custom: CustomOpDef | None = field(init=False)

    def __post_init__(self) -> None:
        fields = get_type_hints(self.arguments)
        is_tensor = [kind in (Tensor, Tensor | None) for kind in fields.values()]
        assert is_tensor == sorted(is_tensor, reverse=True), f"the tensors of {self.name} must come first"
        object.__setattr__(self, "kernels", frozenset(self.kernels))
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "num_tensors", sum(is_tensor))
        object.__setattr__(self, "function", _function(self))
        object.__setattr__(self, "custom", _CustomOp(self).forward_op if self.is_traceable else None)

    def __call__(self, *arguments: P.args, **none: P.kwargs) -> Tensor:
        """Run the kernels where they can, the reference elsewhere; returns the one result."""
        assert self.num_results == 1 and not none, f"{self.name} has one result and takes its arguments by position"
        x, *operands = (value for value in arguments if isinstance(value, Tensor))
        graphs = (value for value in arguments if isinstance(value, Graph))
        if self.runs(x, *operands, graph=next(graphs, None)):
            return self.on_kernels(*arguments, **none)[0]
        found = self.reference(self.arguments(*arguments, **none))
        assert isinstance(found, Tensor)
        return found

    def on_kernels(self, *arguments: P.args, **none: P.kwargs) -> tuple[Tensor, ...]:
        """Run the kernels on arguments for which `runs` holds; returns the results."""
        found: tuple[Tensor, ...]
        if self.custom is None or not is_traced(arguments[0]):
            found = self.function.apply(*arguments)  # type: ignore[no-untyped-call]
            return found
        flat: list[Any] = []
        for value in arguments:
            if isinstance(value, Graph):
                flat += value.indptr, value.indices, *reverse_tensors(value, *flat)
            else:
                flat.append(value)
        return _tuple(self.custom(*flat))[: self.num_results]

    def runs(self, x: Tensor, *operands: Tensor | None, graph: Graph | None = None) -> bool:
        """Whether there are kernels for operands that are right, and they can read their memory.

        The device's backend must have them, for these types and for rows that are not empty; under a transform of
        `torch.func`, and on tensors that wrap others, the reference runs.
        """
        backend = backend_for(x.device)
        if not backend.names.issuperset(self.kernels):
            if backend.names:
                lacks(backend, x.device, self.name)
            return False
        if x.dtype not in DTYPES or x.size(-1) == 0 or (graph is not None and graph.indices.dtype is not torch.int32):
            return False
        if torch.compiler.is_compiling():
            return self.is_traceable
        return (self.is_traceable or not is_traced(x)) and not is_transformed() and is_readable(x, *operands)


# ---------------------------------------------------------------------- the lean way
class _OpContext(FunctionContext):
    rest: Sequence[Any]
    """The arguments that are not tensors."""


def _function(op: KernelOp[P, A, O]) -> type[torch.autograd.Function]:
    """Make the autograd Function of an op."""
    make: Callable[..., A] = op.arguments
    outputs_of, forward_of, saved_of, backward_of = op.outputs, op.forward, op.saved, op.backward
    count, num_results = op.num_tensors, op.num_results

    def forward(ctx: _OpContext, *arguments: object) -> tuple[Tensor | None, ...]:
        a, needs = make(*arguments), ctx.needs_input_grad
        outputs = outputs_of(a, needs)
        forward_of(a, outputs)
        ctx.rest = arguments[count:]
        ctx.save_for_backward(*saved_of(a, outputs, needs))
        return outputs[:num_results]

    def backward(ctx: _OpContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs, rest, saved = ctx.needs_input_grad, ctx.rest, ctx.saved_tensors
        a = make(*saved[:count], *rest)
        # A caller's hooks may have packed them in another order.
        outputs: Any = tuple(None if tensor is None else tensor.contiguous() for tensor in saved[count:])
        cotangents = grads if num_results == 1 else tuple(grad for grad in grads if grad is not None)
        if double_backward.asks_reference(*cotangents):
            found = _by_reference(op, a, outputs, cotangents, needs)
        else:
            found = backward_of(a, outputs, cotangents, needs)
        return (*found, *(None,) * len(rest))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(op.name.partition("::")[2], (torch.autograd.Function,), methods)


def _by_reference(
    op: KernelOp[P, A, O], a: A, outputs: O, cotangents: Sequence[Tensor], needs: Needs
) -> Sequence[Tensor | None]:
    """Form the gradients in a way that can be differentiated again."""
    count = op.num_tensors
    # The gradient does not depend on what was not saved.
    inputs = [
        torch.zeros_like(cotangents[0]).requires_grad_() if value is None and kind is Tensor else value
        for value, kind in zip(a[:count], op.fields.values(), strict=False)
    ]

    def call(*tensors: Tensor | None) -> Results:
        given = a._replace(**dict(zip(a._fields, tensors, strict=False)))
        return op.reference(given) if op.again is None else op.again(given, outputs)

    return double_backward.gradients(call, inputs, cotangents, needs[:count])


# ---------------------------------------------------------------------- custom ops
class _CustomOp(Generic[A, O]):
    """The two custom ops of an op, itself and its gradients. Their arguments are flat, and a graph comes as tensors.

    ``tensors, graph, settings`` are those of the op; of the gradients ``cotangents, tensors and outputs that were
    saved, graph, settings, needs``.
    """

    def __init__(self, op: KernelOp[..., A, O]) -> None:
        self.op, self.num_tensors, self.num_results = op, op.num_tensors, op.num_results
        self.takes_graph = Graph in op.fields.values()
        self.settings_from = op.num_tensors + len(_GRAPH) * self.takes_graph
        num_outputs = len(get_args(get_type_hints(op.outputs)["return"]))
        self.num_saved = op.num_tensors + num_outputs
        fields = [(name, kind) for name, kind in op.fields.items() if kind is not Graph]
        named = [f"{_SCHEMAS[kind]} {name}" for name, kind in fields]
        tensors, settings = named[: op.num_tensors], named[op.num_tensors :]
        graph = [f"Tensor{'?' * name.startswith('reverse')} {name}" for name in _GRAPH if self.takes_graph]
        cotangents = [f"Tensor cotangent_{place}" for place in range(op.num_results)]
        saved = [f"Tensor? {name}" for name, _ in fields[: op.num_tensors]]
        saved += [f"Tensor? output_{place}" for place in range(num_outputs)]
        self.forward_op = _defined(op.name, self.forward, self.fake, [*tensors, *graph, *settings], num_outputs)
        self.forward_op.register_autograd(self.vjp, setup_context=self.setup)
        takes = [*cotangents, *saved, *graph, *settings, "bool[] needs"]
        name = f"{op.name}_backward"
        self.backward_op = _defined(name, self.backward, self.fake_backward, takes, op.num_tensors)
        double_backward.refuse_second(self.backward_op)

    def arguments(self, tensors: Sequence[Tensor | None], rest: Sequence[Any]) -> A:
        """The op's own, from its tensors and what follows them."""
        if self.takes_graph:
            rest = graph_of(*rest[: len(_GRAPH)]), *rest[len(_GRAPH) :]
        return self.op.arguments(*tensors, *rest)

    def given(self, flat: Sequence[Any]) -> tuple[A, O]:
        """The op's arguments, and what it writes; a graph without its reverse says that there are no gradients."""
        tensors, rest = flat[: self.num_tensors], flat[self.num_tensors :]
        has_gradient = not self.takes_graph or rest[2] is not None
        a = self.arguments(tensors, rest)
        return a, self.op.outputs(a, [has_gradient and value is not None for value in tensors])

    def fake(self, *flat: Any) -> O:
        return self.given(flat)[1]

    def forward(self, *flat: Any) -> O:
        a, outputs = self.given(flat)
        self.op.forward(a, outputs)
        return outputs

    def fake_backward(self, *flat: Any) -> tuple[Tensor, ...]:
        """Gradients are shaped as what they are of, and empty where none is needed."""
        first, saved, needs = flat[0], flat[self.num_results :], flat[-1]
        likes = [first if tensor is None else tensor for tensor in saved[: self.num_tensors]]
        return tuple(
            torch.empty_like(like, memory_format=torch.contiguous_format) if need else first.new_empty(0)
            for like, need in zip(likes, needs, strict=True)
        )

    def backward(self, *flat: Any) -> tuple[Tensor, ...]:
        cotangents, saved, needs = flat[: self.num_results], flat[self.num_results : -1], flat[-1]
        a = self.arguments(saved[: self.num_tensors], saved[self.num_saved :])
        outputs: Any = saved[self.num_tensors : self.num_saved]
        found = self.op.backward(a, outputs, cotangents, needs)
        # A custom op returns no None.
        return tuple(
            grad if need and grad is not None else cotangents[0].new_empty(0)
            for grad, need in zip(found, needs, strict=True)
        )

    def setup(self, ctx: _OpContext, inputs: Sequence[Any], output: Results) -> None:
        """What `vjp` finds in ``ctx``."""
        outputs: Any = _tuple(output)
        ctx.mark_non_differentiable(*outputs[self.num_results :])
        a = self.arguments(inputs[: self.num_tensors], inputs[self.num_tensors :])
        saved = self.op.saved(a, outputs, ctx.needs_input_grad)
        ctx.save_for_backward(*saved, *inputs[self.num_tensors : self.settings_from])
        ctx.rest = inputs[self.settings_from :]

    def vjp(self, ctx: _OpContext, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[: self.num_tensors])
        found = _tuple(self.backward_op(*cotangents[: self.num_results], *ctx.saved_tensors, *ctx.rest, needs))
        nothing = (None,) * (len(ctx.needs_input_grad) - self.num_tensors)
        return *(grad if need else None for grad, need in zip(found, needs, strict=True)), *nothing


def _defined(
    name: str,
    run: Callable[..., O],
    fake: Callable[..., O],
    takes: Sequence[str],
    num_returns: int,
) -> CustomOpDef:
    """Define one custom op from functions that return tuples."""
    schema = f"({', '.join(takes)}) -> ({', '.join(['Tensor'] * num_returns)})"
    custom = torch.library.custom_op(
        name, lambda *flat: _one(run(*flat)), mutates_args=(), device_types=("cpu", "cuda"), schema=schema
    )
    assert isinstance(custom, CustomOpDef)
    custom.register_fake(lambda *flat: _one(fake(*flat)))
    return custom


def _one(outputs: tuple[Tensor | None, ...]) -> Tensor | tuple[Tensor | None, ...] | None:
    """As a custom op returns it: a single tensor as itself."""
    return outputs[0] if len(outputs) == 1 else outputs


def _tuple(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
