"""The `GNN` module: encoder, optional first convolution, stack or equilibrium, and head"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import ops
from ..graph import Graph
from ..implicit.equilibrium import Equilibrium
from ..stack import FusedHead, Stack, draw_seed, fold_seed, has_hooks, is_watched, parts_of, split, uncompiled
from ..stack.fused import is_anything_watched
from ..stack.trimmed import TRIMMABLE
from .block import is_made_of_pure
from .convs import Conv, EdgeMap
from .equilibrium import EquilibriumOptions
from .fusable import is_bare, mapped
from .heads import ConvHead, NodeHead
from .inputs import read_inputs
from .layer_wise import SampleByHops

if TYPE_CHECKING:
    from torch_geometric.data import Data


class GNN(nn.Module):
    """A graph neural network: encoder, optional first convolution, stack or equilibrium, head.

    `revgnn.build_model` makes it. It takes a `Graph` or PyG's ``edge_index``, with edge features in the caller's order
    of edges, or a PyG ``Data``.

    torch.compile runs the network uncompiled behind one graph break, because its kernels are compiled already; it
    traces convolutions, norms and blocks on their own. torch.export exports a network in evaluation mode, for
    ``(x, graph)`` or ``(x, edge_index)`` with any number of nodes and edges; the exported program sorts an
    ``edge_index`` in every call. The dynamic shapes of a `Graph` are a list: those of indptr [N+1], indices [E], and,
    if present, edge_ids [E] and batch [N]. An equilibrium, which branches on its residual, cannot be exported.

    Examples:
        >>> import torch
        >>> import revgnn
        >>> model = revgnn.build_model(revgnn.ModelConfig(conv="sage", num_layers=8), in_channels=4, out_channels=2)
        >>> isinstance(model, revgnn.GNN)
        True
        >>> model(torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 2])
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
        uses_edge_weight: bool = False,
        input_dropout: float = 0.0,
        mask_dropout: float = 0.0,
        options: EquilibriumOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = options or EquilibriumOptions()
        self._penalty: Tensor | None = None
        self._intermediate: list[Tensor] = []
        self.encoder, self.stem, self.stack, self.head = encoder, stem, stack, head
        self.edge_encoder, self.uses_edge_attr = edge_encoder, uses_edge_attr
        self.uses_edge_weight = uses_edge_weight
        self.takes_edge_weight = all(one.takes_edge_weight for one in self.modules() if isinstance(one, Conv))
        self.input_dropout, self.mask_dropout = input_dropout, mask_dropout

    def forward(
        self,
        x: Tensor | Data,
        graph: Graph | Tensor | None = None,
        edge_attr: Tensor | None = None,
        *,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        hops: Sequence[int] | None = None,
    ) -> Tensor:
        """Compute logits.

        Args:
            x: [N, F] float features, or [N, columns] int64 categories; or a PyG ``Data`` or ``Batch`` alone.
            graph: a graph of N nodes and E edges, or an ``edge_index`` [2, E].
            edge_attr: [E, K] in the caller's order of edges, also with a `Graph` that was made from them; weights
                [E, 1] of a network that weighs edges; ignored by a convolution without edge features.
            edge_weight: [E] weights in that order, for convolutions that weigh messages (gcn, sage).
            batch: [N] ascending: the graph of each node, for graph-level answers and graph norms.
            batch_size: B; ``None``: the last entry of ``batch`` plus one.
            seed: seed of all random numbers of this step; ``None`` draws one from torch's generator in training.
            hops: nodes within 0, 1, ... hops of the rows that are asked for, where the nodes of a sample are in this
                order; each layer then has only the rows that later ones need (see `SampleByHops`).
        Returns: [N, T], or [B, T] for a graph-level network; the first ``hops[0]`` rows with ``hops``.
        """
        if uncompiled.is_compiled():
            return uncompiled.call(
                GNN.forward, self, x, graph, edge_attr, edge_weight=edge_weight, batch=batch, batch_size=batch_size,
                seed=seed, hops=hops,
            )  # fmt: skip
        x, found, edge_attr = read_inputs(
            x, graph, edge_attr, edge_weight=edge_weight, batch=batch, batch_size=batch_size
        )
        found, edge_attr = self._weighted(found, edge_attr)
        if seed is None and (self.training or any(part.training for part in parts_of(self))):
            seed = draw_seed()
        # In evaluation this package draws no random numbers; a user's own blocks draw from torch's generators.
        if hops is not None:
            return self._layer_wise(x, SampleByHops(found, edge_attr, hops), seed)[: hops[0]]
        given, seed = seed, seed or 0
        h = self._embed(x, found, edge_attr, seed)
        context = self._context(found, self._shared_mask(h, seed), edge_attr)
        if isinstance(self.stack, Stack):
            fused = self._fused_head(seed)
            deep: Tensor = self.stack(h, *context, seed=given, head=fused, overwrite=self._owns_stream())
            if fused is not None:
                return deep
        else:
            deep = self.stack(h, *context, seed=given)
        if isinstance(self.stack, Equilibrium) and self.training and torch.is_grad_enabled():
            weight = self.options.jacobian_weight
            if weight:
                with ops.using("reference"):  # the kernels have no second derivative
                    self._penalty = weight * self.stack.jacobian_penalty(deep, h, *context, seed=seed)
            self._intermediate = [self.head(state, found, seed) for state in self.stack.take_intermediate()]
        out: Tensor = self.head(deep, found, seed)
        return out

    def _owns_stream(self) -> bool:
        """Whether nobody else has the stream before the stack, without gradients: what an unmodified linear map or
        convolution makes, and no hook of the stack sees."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_watched(self.stack):
            return False
        last = self.encoder if self.stem is None else self.stem
        return isinstance(last, nn.Linear | Conv) and is_made_of_pure(last) and not is_anything_watched()

    def _layer_wise(self, x: Tensor, sample: SampleByHops, seed: int | None) -> Tensor:
        """Compute the logits of the rows that a sample asks for first, each layer on the rows that later ones need."""
        if not isinstance(self.stack, Stack):
            raise ValueError("hops are of layers, and an equilibrium has none; leave hops (loader.layer_wise) out")
        depth, hops_of_layer = self.stack.num_layers, self.stack.coupling.num_groups
        hops_of_head, step_seed = int(isinstance(self.head, ConvHead)), seed or 0

        def within(layer: int) -> tuple[Graph, Tensor | None]:
            return sample.within((depth - layer) * hops_of_layer + hops_of_head)

        graph, edge_attr = sample.within(depth * hops_of_layer + hops_of_head + (self.stem is not None))
        h = self._embed(x[: graph.num_nodes], graph, edge_attr, step_seed)
        mask = self._shared_mask(h, step_seed)

        def trim(layer: int) -> tuple[int, tuple[object, ...]]:
            graph, edge_attr = within(layer)
            rows = graph.num_nodes
            return rows, self._context(graph, None if mask is None else mask[:rows], edge_attr)

        rows, context = trim(0)
        deep = self.stack(h if rows == h.size(0) else h[:rows].clone(), *context, seed=seed, trim=trim)
        out: Tensor = self.head(deep, within(depth)[0], step_seed)
        return out

    def _weighted(self, graph: Graph, edge_attr: Tensor | None) -> tuple[Graph, Tensor | None]:
        """Make weights of edge features where the network weighs edges.

        Raises: ValueError: edges have weights that no convolution reads, or none where the network weighs them.
        """
        if graph.edge_weight is not None:
            self._check_weighs()
        if not self.uses_edge_weight or graph.edge_weight is not None:
            return graph, edge_attr
        if edge_attr is None or edge_attr.numel() != graph.num_edges:
            got = "none" if edge_attr is None else list(edge_attr.shape)
            raise ValueError(f"this network weighs edges: edge_attr must be [E, 1] weights, got {got}")
        return graph.weighted(edge_attr), None

    def _check_weighs(self) -> None:
        """Raise ValueError if edges have weights that no convolution reads."""
        if not any(isinstance(part, Conv) and part.takes_edge_weight for part in self.modules()):
            raise ValueError(
                "this network's convolution reads no edge weights; use conv='gcn' or 'sage', or leave edge_weight out"
            )

    def _fused_head(self, seed: int) -> FusedHead | None:
        """Return the head for fusion with the stack if it is row-wise and no hook observes stack or head."""
        if not isinstance(self.stack, Stack) or not isinstance(self.head, NodeHead) or torch.compiler.is_exporting():
            return None
        return None if is_watched(self.stack) or has_hooks(self.head) else self.head.fused(seed)

    def __getstate__(self) -> dict[str, object]:
        # What was not collected has an autograd graph, which cannot be copied or pickled.
        return {**self.__dict__, "_penalty": None, "_intermediate": []}

    def begin_epoch(self, epoch: int) -> str | None:
        """Be told which epoch (from 1) comes: an equilibrium is unrolled in its first ones, and says so."""
        if not isinstance(self.stack, Equilibrium):
            return None
        self.stack.begin_epoch()
        self.stack.mode = "unroll" if epoch <= self.options.pretrain_epochs else "solve"
        return self.stack.mode

    def auxiliary_loss(self, loss: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return and clear what the last training forward adds to the loss: Jacobian penalty, fixed-point correction.

        Args:
            loss: the loss of a step's logits.
        Returns: scalar; ``None``: it adds nothing.
        """
        penalty, self._penalty = self._penalty, None
        logits, self._intermediate = self._intermediate, []
        for weight, state in enumerate(reversed(logits), start=1):
            term = self.options.correction_decay**weight * loss(state)
            penalty = term if penalty is None else penalty + term
        return penalty

    def observe(self) -> dict[str, float]:
        """Return the metrics of an equilibrium's solves in this epoch; see `SolveStatistics`."""
        if not isinstance(self.stack, Equilibrium):
            return {}
        return {
            f"{direction} {name}": value
            for direction, found in self.stack.statistics.items()
            for name, value in found.summary().items()
        }

    @property
    def takes_hops(self) -> bool:
        """Whether the layers may have different numbers of rows: ``hops`` of `forward`."""
        return isinstance(self.stack, Stack) and self.stack.backprop in TRIMMABLE

    def _embed(self, x: Tensor, graph: Graph, edge_attr: Tensor | None, seed: int) -> Tensor:
        """Return [N, D], what precedes the stack: the encoder, and the first convolution where there is one."""
        h = self._encode(x, seed)
        if self.stem is None:
            return h
        edge_attr, weight, bias = self._edge_context(edge_attr)
        edge_map = None if weight is None else EdgeMap(weight, bias)
        stemmed: Tensor = self.stem(h, graph, edge_attr, edge_map=edge_map, seed=fold_seed(seed, _STEM))
        return stemmed

    def _context(self, graph: Graph, mask: Tensor | None, edge_attr: Tensor | None) -> tuple[object, ...]:
        """Return what the stack passes to every block."""
        return graph, None if mask is None else split(mask), *self._edge_context(edge_attr)

    def _encode(self, x: Tensor, seed: int) -> Tensor:
        if self.training and self.input_dropout > 0.0:
            keep = ops.keep_mask(fold_seed(seed, _INPUT), x.numel(), self.input_dropout, x.device).view_as(x)
            x = x * keep.to(x.dtype) * (1.0 / (1.0 - self.input_dropout))
        return mapped(self.encoder, x, wide=self.stem is None)

    def _edge_context(self, edge_attr: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if not self.uses_edge_attr or edge_attr is None:
            return None, None, None
        if self.edge_encoder is None:
            return edge_attr, None, None
        if not is_bare(self.edge_encoder):
            # A modified encoder is called, on [E, K].
            return self.edge_encoder(edge_attr), None, None
        return edge_attr, self.edge_encoder.weight, self.edge_encoder.bias

    def _shared_mask(self, h: Tensor, seed: int) -> Tensor | None:
        """Draw the dropout mask that all layers share: N x D bits or bytes; ``None``: each layer draws its own."""
        if not self.training or self.mask_dropout == 0.0:
            return None
        groups = self.stack.coupling.num_groups if isinstance(self.stack, Stack) else 1
        rows, width = h.shape
        return ops.draw_mask(fold_seed(seed, _MASK), rows, width, self.mask_dropout, h.device, groups=groups)


_STEM, _INPUT, _MASK = -2, -3, -4  # seeds of the network's own random numbers, distinct from those of layers
