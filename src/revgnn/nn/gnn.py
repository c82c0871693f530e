"""The whole network in one module: encoder, first convolution, depth, head, and what they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import Graph, as_graph
from ..implicit.equilibrium import Equilibrium
from ..stack import FusedHead, Stack, draw_seed, fold_seed, has_hooks, is_watched, parts_of, split, uncompiled
from .convs import EdgeMap
from .heads import NodeHead


class GNN(nn.Module):
    """Encoder, first convolution (where there is one), stack or equilibrium, head.

    Made by `revgnn.build_model`. Takes a `Graph` (edge features in its order) or PyG's ``edge_index`` (in that order).

    torch.compile runs the whole network as it is, in one break of the code around it: its kernels are compiled already.
    Convolutions, norms and blocks alone are traced. torch.export records a network in evaluation, for ``(x, graph)`` or
    ``(x, edge_index)`` of any numbers of nodes and edges; an ``edge_index`` is sorted in every call of the program. The
    dynamic shapes of a `Graph` are a list: of indptr [N+1], indices [E], and of edge_ids [E] and batch [N] where it has
    them. An equilibrium, which branches on its residual, is not exported.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        stem: nn.Module | None,
        stack: Stack | Equilibrium,
        head: nn.Module,
        edge_encoder: nn.Linear | None = None,
        uses_edge_attr: bool = False,
        input_dropout: float = 0.0,
        mask_dropout: float = 0.0,
        pretrain_epochs: int = 0,
        jacobian_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.pretrain_epochs, self.jacobian_weight = pretrain_epochs, jacobian_weight
        self._penalty: Tensor | None = None
        self.encoder, self.stem, self.stack, self.head = encoder, stem, stack, head
        self.edge_encoder, self.uses_edge_attr = edge_encoder, uses_edge_attr
        self.input_dropout, self.mask_dropout = input_dropout, mask_dropout

    def forward(
        self, x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None = None, *, seed: int | None = None
    ) -> Tensor:
        """Compute logits.

        Args:
            x: [N, F] float features, or [N, columns] int64 categories.
            graph: N nodes and E edges, or an ``edge_index`` [2, E].
            edge_attr: [E, K]; dropped where the convolution takes none.
            seed: of every random choice of this step; ``None`` draws one from torch's generator in training.
        Returns: [N, T], or [B, T] for a graph-level net.
        """
        if uncompiled.is_compiled():
            answer: Tensor = uncompiled.call(GNN.forward, self, x, graph, edge_attr, seed=seed)
            return answer
        found = as_graph(graph, x.size(0), x.device)
        if edge_attr is not None and isinstance(graph, Tensor):
            edge_attr = found.sort_edges(edge_attr)
        if seed is None and (self.training or any(part.training for part in parts_of(self))):
            seed = draw_seed()
        # In evaluation nothing of this package draws; blocks of one's own draw from torch's generators.
        given, seed = seed, seed or 0
        h = self._encode(x, seed)
        edges = self._edge_context(edge_attr)
        if self.stem is not None:
            edge_map = None if edges[1] is None else EdgeMap(edges[1], edges[2])
            h = self.stem(h, found, edges[0], edge_map=edge_map, seed=fold_seed(seed, _STEM))
        mask = self._shared_mask(h, seed)
        context = (found, None if mask is None else split(mask), *edges)
        fused = self._fused_head(seed)
        if fused is not None:
            answer = self.stack(h, *context, seed=given, head=fused)
            return answer
        deep = self.stack(h, *context, seed=given)
        if self.jacobian_weight and self.training and torch.is_grad_enabled():
            assert isinstance(self.stack, Equilibrium), "build_model gives the weight to an equilibrium only"
            with ops.using("reference"):  # the kernels have no second derivative
                self._penalty = self.jacobian_weight * self.stack.jacobian_penalty(deep, h, *context, seed=seed)
        out: Tensor = self.head(deep, found, seed)
        return out

    def _fused_head(self, seed: int) -> FusedHead | None:
        """The head as a part of the stack, where it goes row by row and no hook waits for what stands between them."""
        if not isinstance(self.stack, Stack) or not isinstance(self.head, NodeHead) or torch.compiler.is_exporting():
            return None
        return None if is_watched(self.stack) or has_hooks(self.head) else self.head.fused(seed)

    def __getstate__(self) -> dict[str, Any]:
        # A penalty that nobody has asked for has a graph, which copies and pickles cannot have.
        return {**self.__dict__, "_penalty": None}

    def begin_epoch(self, epoch: int) -> None:
        """Be told which epoch (from 1) comes: an equilibrium is unrolled in its first ones."""
        if isinstance(self.stack, Equilibrium):
            self.stack.mode = "unroll" if epoch <= self.pretrain_epochs else "solve"

    def auxiliary_loss(self) -> Tensor | None:
        """Hand over what the last training forward adds to the loss; ``None``: nothing."""
        penalty, self._penalty = self._penalty, None
        return penalty

    def observe(self) -> dict[str, float]:
        """Give what is worth watching of the last step: the residuals of an equilibrium and the solves that failed."""
        if not isinstance(self.stack, Equilibrium):
            return {}
        found: dict[str, float] = {}
        for direction, trace in (("forward", self.stack.forward_trace), ("backward", self.stack.backward_trace)):
            if trace is not None:
                found[f"{direction} residual"] = trace.residual
                found[f"{direction} iterations"] = trace.iterations
        found.update({f"{direction} failures": count for direction, count in self.stack.failures.items()})
        return found

    def _encode(self, x: Tensor, seed: int) -> Tensor:
        if self.training and self.input_dropout > 0.0:
            keep = ops.keep_mask(fold_seed(seed, _INPUT), x.numel(), self.input_dropout, x.device).view_as(x)
            x = x * keep.to(x.dtype) * (1.0 / (1.0 - self.input_dropout))
        out: Tensor = self.encoder(x)
        return out

    def _edge_context(self, edge_attr: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if not self.uses_edge_attr or edge_attr is None:
            return None, None, None
        if self.edge_encoder is None:
            return edge_attr, None, None
        return edge_attr, self.edge_encoder.weight, self.edge_encoder.bias

    def _shared_mask(self, h: Tensor, seed: int) -> Tensor | None:
        """One mask of the stream's shape for the whole network, at any depth: N x D bits or bytes."""
        if not self.training or self.mask_dropout == 0.0:
            return None
        groups = self.stack.coupling.num_groups if isinstance(self.stack, Stack) else 1
        rows, width = h.shape
        return ops.draw_mask(fold_seed(seed, _MASK), rows, width, self.mask_dropout, h.device, groups=groups)


_STEM, _INPUT, _MASK = -2, -3, -4  # draws of the network itself, apart from every layer's
