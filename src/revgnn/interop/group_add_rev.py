"""`GroupAddRev`, a drop-in for PyG's layer of that name: same signature and parameters, blocks of any module"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..malloc import CachedBlocks
from ..stack.context import Autocast
from ..stack.couplings import GroupedAdditive
from ..stack.fused import has_hooks, is_anything_watched
from ..stack.lazy import initialise_lazy
from ..stack.recompute import is_transformed
from ..stack.repeatable import Checked
from ..stack.state import FloatState, StoredState
from .arguments import Arguments, ChannelSplitRule, names_after_x
from .chain import call_reversibly
from .evaluation import LayerCall, evaluated, joined

_HALF = (torch.bfloat16, torch.float16)
_COMPILED = "revgnn: a reversible layer runs uncompiled; compile its block, or set disable=True"


class GroupAddRev(nn.Module):
    """Grouped reversible layer around any graph convolution or module that keeps the width of x.

    ``x_0' = x_2 + ... + x_C;  x_i' = x_i + f_i(x_{i-1}')`` for i = 1..C, with x split into C groups of channels.

    Consecutive layers, each called with the output of the one before, share one saved state: N x D at any depth. No
    tensor of the caller's is freed or written to; an output may be used elsewhere too, and ``retain_graph`` allows any
    number of backward passes. Blocks may draw random numbers (torch's, on the CPU and on the device of x) and update
    buffers: both happen once per step. Gradients reach x, parameters, and every tensor among the arguments (also inside
    tuples, lists and dictionaries); a block that reads another one that needs a gradient, or does not repeat its value,
    is an error.

    Under autocast the stream is kept and returned in float32. ``torch.compile`` excludes the layer from its graphs
    (compile the block, or set ``disable``); under ``torch.func`` and ``torch.export`` it is evaluated as with
    ``disable``.

    Args:
        conv: one block f_i, from D/C to D/C channels, called as ``conv(x_i, *args, **kwargs)``; or a ``ModuleList`` of
            all C. One block is copied C - 1 times, and the copies are initialised by their ``reset_parameters``, or by
            those of their submodules; a parameter of a module without one stays a copy.
        split_dim: the dimension of x that is split; not 0, the dimension of nodes.
        num_groups: C >= 2; optional with a ``ModuleList``.
        disable: whether to keep all activations and leave differentiation to autograd.
        num_bwd_passes: accepted for compatibility; any number works.
        split_args: the arguments that are split by groups like x, as positions (0 is the first after x) or names;
            ``None``: tensors of x's width with a row per node (a dropout mask), see `ChannelSplitRule`; ``[]``: none.
    Raises: ValueError: fewer than two groups, or a number of groups that differs from that of blocks.
    Cost: two evaluations of each block per step, one with ``disable`` or without gradients; N x D for a whole chain.
    Source: the paper, section 3; the interface of PyG 2.8.

    Examples:
        >>> import torch
        >>> import torch_geometric.nn as pyg
        >>> from revgnn import GroupAddRev
        >>> layer = GroupAddRev(pyg.SAGEConv(8, 8), num_groups=2)
        >>> x, edge_index = torch.randn(5, 16), torch.tensor([[0, 1], [1, 2]])
        >>> torch.allclose(layer.inverse(layer(x, edge_index), edge_index), x, atol=1e-5)
        True
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
        self._checked = Checked()

    @property
    def num_groups(self) -> int:
        """C."""
        return len(self.convs)

    def reset_parameters(self) -> None:
        """Initialise every block again."""
        for conv in self.convs:
            initialise(conv)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Evaluate the layer.

        Args:
            x: [N, D], or with more dimensions; D is divisible by the number of groups.
            args, kwargs: passed to every block, split by groups according to `ChannelSplitRule`.
        Returns: the shape of x.
        Raises: ValueError: a width that the groups do not divide, or an argument that may or may not be split.
        """
        x, arguments = self._prepared(x, args, kwargs)
        if self.disable or torch.compiler.is_exporting():
            return self._stored(x, arguments)
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in (x, *arguments.tensors, *self.parameters())):
            return self._stored(x, arguments)
        out: Tensor = self._reversible(x, arguments)
        return out

    def inverse(self, y: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Return the x whose forward is y, for blocks without random numbers; differentiated by autograd."""
        y, arguments = self._prepared(y, args, kwargs)
        state = StoredState(y.movedim(arguments.dim, -1), self.num_groups)
        branch = self._branch(arguments)
        GroupedAdditive(self.num_groups).backward(state, state.parts[:], lambda i, part, _: (branch(i, part), None))
        return joined(state, arguments.dim)

    def extra_repr(self) -> str:
        """Show the settings that the blocks do not show."""
        return f"num_groups={self.num_groups}, split_dim={self.split_dim}, disable={self.disable}"

    def _prepared(self, x: Tensor, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[Tensor, Arguments]:
        """Check the call; return the stream in the dtype of the state, and the separated arguments."""
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
            # A half-precision stream cannot be reconstructed: its rounding loses what a layer adds.
            x = x.float()
        rule = ChannelSplitRule(num_groups=self.num_groups, names=self._names, chosen=self.split_args)
        return x, rule.apply(x, dim, args, kwargs)

    def _stored(self, x: Tensor, arguments: Arguments) -> Tensor:
        # Hooks may keep the input of a block, which must not be memory that goes on.
        is_kept = torch.is_grad_enabled() or torch.compiler.is_compiling()
        make_state = StoredState if is_kept or is_anything_watched() or has_hooks(self.convs) else FloatState
        state = make_state(x.movedim(arguments.dim, -1), self.num_groups)
        GroupedAdditive(self.num_groups).forward(state, self._branch(arguments))
        return joined(state, arguments.dim)

    def _branch(self, arguments: Arguments) -> Callable[[int, Tensor], Tensor]:
        def branch(i: int, part: Tensor) -> Tensor:
            args, kwargs = arguments.of_group(i, self.num_groups, arguments.tensors)
            return evaluated(lambda z: self.convs[i](z, *args, **kwargs), part, arguments.dim)

        return branch

    @torch.compiler.disable(reason=_COMPILED)  # type: ignore[untyped-decorator, no-untyped-call]
    def _reversible(self, x: Tensor, arguments: Arguments) -> Tensor:
        if is_transformed() or not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
            return self._stored(x, arguments)
        initialise_lazy(self, lambda: self._stored(x, arguments))
        cached = CachedBlocks(x)
        with cached.withheld():
            autocast = Autocast.current(x.device.type)
            call = LayerCall(list(self.convs), arguments, autocast, x.device, self._checked, cached)
            return call_reversibly(call, x, arguments.tensors)


def _copies(conv: nn.Module, num_groups: int | None) -> nn.ModuleList:
    if num_groups is None:
        raise ValueError("num_groups must be given, unless conv is a ModuleList of one block per group")
    convs = nn.ModuleList([conv])
    for _ in range(num_groups - 1):
        convs.append(copy.deepcopy(conv))
        initialise(convs[-1])
    return convs


def initialise(module: nn.Module) -> None:
    """Initialise a module by its ``reset_parameters``, or by those of its submodules."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
        return
    for child in module.children():
        initialise(child)
