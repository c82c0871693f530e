"""A drop-in for ``torch_geometric.nn.GroupAddRev``: the same signature and parameters, any module inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..stack.couplings import GroupedAdditive
from ..stack.layer_run import Autocast
from ..stack.state import FloatState, StoredState
from .arguments import Arguments, SplitRule, names_after_x
from .chain import call_reversibly
from .evaluation import LayerCall, evaluated, joined

_HALF = (torch.bfloat16, torch.float16)
_COMPILED = "revgnn: a reversible layer runs as it is; compile its block, or set disable=True"


class GroupAddRev(nn.Module):
    """Grouped reversible layer around any graph convolution or module that keeps the width of x.

    ``x_0' = x_2 + ... + x_C;  x_i' = x_i + f_i(x_{i-1}')`` for i = 1..C, x cut into C groups of channels.

    Layers called one after another, each with the output of the one before, keep one state together: N x D at any
    depth. Nothing that the caller holds is freed or written to; an output may be used elsewhere too, and any number of
    backward passes may run where ``retain_graph`` is set. Blocks may draw random numbers (torch's, on the CPU and on
    the device of x) and move buffers: both happen once per step. Gradients reach x, parameters, and every tensor among
    the arguments (also inside tuples, lists and dictionaries), not tensors that a block finds elsewhere.

    Under autocast the stream is held, and returned, in float32. ``torch.compile`` leaves the layer out of its graphs
    (compile the block, or set ``disable``); under ``torch.func`` and ``torch.export`` it is evaluated as with
    ``disable``.

    Args:
        conv: one block f_i, from D/C to D/C channels, called as ``conv(x_i, *args, **kwargs)``; or a ``ModuleList`` of
            all C. From one block the others are copies, initialised again by their ``reset_parameters``, or by that of
            the modules inside; a parameter of a module without any stays a copy.
        split_dim: the dimension of x that is cut; not 0, where the nodes are.
        num_groups: C >= 2; may be left out with a ``ModuleList``.
        disable: whether to keep all activations and leave differentiation to autograd.
        num_bwd_passes: accepted for compatibility; any number works.
        split_args: which arguments are cut by groups like x, as positions (0 comes after x) or names; ``None``: tensors
            that lie on the nodes with x's width (a dropout mask), see `SplitRule`; ``[]``: none.
    Raises: ValueError: fewer than two groups, or another number than blocks.
    Cost: two evaluations of each block per step, one with ``disable`` or without gradients; N x D for a whole chain.
    Source: the paper, section 3; the interface of PyG 2.8.
    """

    def __init__(
        self,
        conv: nn.Module,
        split_dim: int = -1,
        num_groups: int | None = None,
        disable: bool = False,
        num_bwd_passes: int = 1,
        *,
        split_args: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__()
        self.convs = conv if isinstance(conv, nn.ModuleList) else _copies(conv, num_groups)
        if len(self.convs) < 2:
            raise ValueError(f"num_groups must be 2 or more for a grouped reversible layer, got {len(self.convs)}")
        if num_groups is not None and num_groups != len(self.convs):
            raise ValueError(f"num_groups={num_groups} but conv lists {len(self.convs)} blocks; leave num_groups out")
        if split_dim == 0:
            raise ValueError("split_dim=0 would cut the nodes; choose the dimension of the channels, such as -1")
        if num_bwd_passes < 1:
            raise ValueError(f"num_bwd_passes must be 1 or more, got {num_bwd_passes}")
        self.split_dim, self.disable, self.num_bwd_passes = split_dim, disable, num_bwd_passes
        self.split_args = None if split_args is None else tuple(split_args)
        self._names = names_after_x(self.convs[0])

    @property
    def num_groups(self) -> int:
        """C."""
        return len(self.convs)

    def reset_parameters(self) -> None:
        """Initialise every block again."""
        for conv in self.convs:
            _initialise(conv)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Evaluate the layer.

        Args:
            x: [N, D], or with more dimensions; D is divisible by the number of groups.
            args, kwargs: handed to every block, cut by groups where `SplitRule` says so.
        Returns: as x.
        Raises: ValueError: a width that does not divide, or an argument that may or may not be cut.
        """
        x, arguments = self._prepared(x, args, kwargs)
        if self.disable or torch.compiler.is_exporting():
            return self._plain(x, arguments)
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in (x, *arguments.tensors, *self.parameters())):
            return self._plain(x, arguments)
        out: Tensor = self._reversible(x, arguments)
        return out

    def inverse(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Give the x whose forward is y, for blocks that draw no random numbers; differentiated by autograd."""
        y, arguments = self._prepared(y, args, kwargs)
        state = StoredState(y.movedim(arguments.dim, -1), self.num_groups)
        branch = self._branch(arguments)
        GroupedAdditive(self.num_groups).backward(state, state.parts[:], lambda i, part, _: (branch(i, part), None))
        return joined(state, arguments.dim)

    def extra_repr(self) -> str:
        """Show what the blocks below do not."""
        return f"num_groups={self.num_groups}, split_dim={self.split_dim}, disable={self.disable}"

    def _prepared(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Arguments]:
        """The stream in the dtype in which it is held, and the arguments taken apart."""
        dim = self.split_dim if self.split_dim < 0 else self.split_dim - x.dim()
        if not -x.dim() < dim < 0:
            raise ValueError(f"split_dim={self.split_dim} is not a dimension of channels of x {list(x.shape)}")
        width = x.size(dim)
        if width % self.num_groups:
            below = width - width % self.num_groups
            choices = " or ".join(str(choice) for choice in (below, below + self.num_groups) if choice)
            raise ValueError(
                f"x has {width} channels at dimension {self.split_dim}, which must be divisible by "
                f"num_groups={self.num_groups}; choose {choices}"
            )
        if x.dtype in _HALF and torch.is_autocast_enabled(x.device.type):
            # A stream of half precision cannot be rebuilt: what a layer adds is rounded away.
            x = x.float()
        rule = SplitRule(num_groups=self.num_groups, names=self._names, chosen=self.split_args)
        return x, rule.take_apart(x, dim, args, kwargs)

    def _plain(self, x: Tensor, arguments: Arguments) -> Tensor:
        make_state = StoredState if torch.is_grad_enabled() else FloatState
        state = make_state(x.movedim(arguments.dim, -1), self.num_groups)
        GroupedAdditive(self.num_groups).forward(state, self._branch(arguments))
        return joined(state, arguments.dim)

    def _branch(self, arguments: Arguments) -> Any:
        def branch(i: int, part: Tensor) -> Tensor:
            args, kwargs = arguments.of_group(i, self.num_groups, arguments.tensors)
            return evaluated(lambda z: self.convs[i](z, *args, **kwargs), part, arguments.dim)

        return branch

    @torch.compiler.disable(reason=_COMPILED)  # type: ignore[untyped-decorator, no-untyped-call]
    def _reversible(self, x: Tensor, arguments: Arguments) -> Tensor:
        if torch._C._are_functorch_transforms_active():
            return self._plain(x, arguments)
        if any(is_lazy(parameter) for parameter in self.parameters()):
            with torch.no_grad():
                # They take their shapes from a first evaluation, and only then can be differentiated.
                self._plain(x, arguments)
        call = LayerCall(list(self.convs), arguments, Autocast.current(x.device.type), x.device)
        return call_reversibly(call, x, arguments.tensors)


def _copies(conv: nn.Module, num_groups: int | None) -> nn.ModuleList:
    if num_groups is None:
        raise ValueError("num_groups must say how many groups there are, unless conv is a ModuleList of their blocks")
    convs = nn.ModuleList([conv])
    for _ in range(num_groups - 1):
        convs.append(copy.deepcopy(conv))
        _initialise(convs[-1])
    return convs


def _initialise(module: nn.Module) -> None:
    """Initialise the outermost modules that know how."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
        return
    for child in module.children():
        _initialise(child)
