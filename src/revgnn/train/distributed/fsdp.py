"""Shards weights, gradients and optimizer state over the ranks (FSDP2), and converts tensors to and from shards.

The model is sharded in place: its parameters become DTensors, which are gathered before use and freed after. The
segments of a stack are gathered one at a time, all other parameters together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..model_hooks import LayerStack

_LOOKED_FOR = "segments while they are looked for"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sharded:
    """The FSDP modules of a model, each of which is gathered as a unit."""

    root: FSDPModule
    """The model."""
    segments: tuple[FSDPModule, ...]

    @classmethod
    def of(cls, model: nn.Module, device: torch.device) -> Sharded:
        """Shard a model over all ranks; the first rank's weights are used."""
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        segments = []
        for module in [module for module in model.modules() if isinstance(module, LayerStack)]:
            segments += [fully_shard(part, mesh=mesh, reshard_after_forward=True) for part in module.cut()]
        apart = {parameter for segment in segments for parameter in _module(segment).parameters()}
        root = fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=apart)
        # The root looks for its parts among its children, once; as roots of their own, they would hold buffers till the
        # end of the backward.
        children = nn.ModuleList(_module(segment) for segment in segments)
        model.add_module(_LOOKED_FOR, children)
        root._get_fsdp_state()._lazy_init()
        del model._modules[_LOOKED_FOR]
        return cls(root=root, segments=tuple(segments))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Context in which every rank holds all weights, so that each rank may call the model independently."""
        for module in (self.root, *self.segments):
            module.set_reshard_after_forward(False)
            module.unshard()
        try:
            yield
        finally:
            for module in (self.root, *self.segments):
                module.reshard()
            for segment in self.segments:
                segment.set_reshard_after_forward(True)

    @contextmanager
    def exchange(self, *, last: bool) -> Iterator[None]:
        """Reduce gradients in the last backward of a step only."""
        for module in (self.root, *self.segments):
            module.set_requires_gradient_sync(last)
            module.set_is_last_backward(last)
        yield


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor, which all ranks must do together; return any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_held(tensor: Tensor, held: Tensor) -> Tensor:
    """Return this rank's shard of a full tensor if ``held`` is a shard; otherwise the tensor unchanged."""
    if not isinstance(held, DTensor):
        return tensor
    return distribute_tensor(tensor.to(held.device), held.device_mesh, held.placements, src_data_rank=None)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load full weights into a model by name; if the model is sharded, each rank takes its own shards."""
    own = model.state_dict()
    model.load_state_dict({name: as_held(value, own[name]) for name, value in weights.items()})


def _module(module: FSDPModule) -> nn.Module:
    assert isinstance(module, nn.Module), "fully_shard gives the module back"
    return module
