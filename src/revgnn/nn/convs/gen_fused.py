"""The fused evaluation of `GENConv`: value and gradients without autograd, with raw edge features or without."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ... import ops
from ...graph import Graph
from ...ops import cpu
from ...stack import WorkSpace
from ..fusable import is_plain
from .interface import EdgeMap, Gradients
from .mlp import FusedMLP


class EdgeFeatures(NamedTuple):
    """Raw edge features and their maps to the width of the messages: ``lin(edge_map(edge_attr))``."""

    attr: Tensor
    """[E, K] in the graph's order of edges."""
    lin: nn.Linear | None
    """The convolution's own map; ``None``: it has none."""
    edge_map: EdgeMap | None
    """The network's shared encoder; ``None``: it has none."""

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether kernels read the features, and something maps them; their own gradient is autograd's."""
        attr, lin, edge_map = self
        width = columns = attr.size(-1)
        fits = attr.dim() == 2 and width > 0 and not attr.requires_grad and ops.fits(attr, h, graph.num_edges, width)
        if edge_map is not None:
            columns = edge_map.weight.size(0)
            fits = fits and ops.fits(edge_map.weight, h, columns, width) and ops.fits(edge_map.bias, h, columns)
        if lin is None:
            return fits and edge_map is not None and columns == h.size(1)
        return fits and is_plain(lin, h, bias=True, widths=(columns, h.size(1)))

    def term(self) -> cpu.EdgeTerm:
        """Fold the maps into one, [K, d]."""
        with torch.autocast(self.attr.device.type, enabled=False):  # kernels read the folded map in float32
            weight, bias = folded(self.lin, self.edge_map)
        assert weight is not None, "something maps the features"
        return cpu.EdgeTerm(self.attr, weight.t().contiguous(), bias)

    def pull_back(self, dweight: Tensor, dbias: Tensor) -> Gradients:
        """Return the gradients of the maps from those of the folded one, [K, d] and [d]."""
        lin, edge_map, grad = self.lin, self.edge_map, dweight.t()
        found: Gradients = {}
        if edge_map is not None:
            back = grad if lin is None else lin.weight.t() @ grad
            found[edge_map.weight] = back
            if edge_map.bias is not None:
                found[edge_map.bias] = dbias if lin is None else lin.weight.t() @ dbias
        if lin is not None:
            own = grad if edge_map is None else grad @ edge_map.weight.t()
            if edge_map is not None and edge_map.bias is not None:
                own = own.addr_(dbias, edge_map.bias)
            found[lin.weight] = own
            if lin.bias is not None:
                found[lin.bias] = dbias
        return found


def folded(lin: nn.Linear | None, edge_map: EdgeMap | None) -> tuple[Tensor | None, Tensor | None]:
    """Return ``lin`` after ``edge_map`` as one map, a weight [d, K] and a bias [d]; ``None``: there is none."""
    if lin is None:
        return (None, None) if edge_map is None else (edge_map.weight, edge_map.bias)
    if edge_map is None:
        return lin.weight, lin.bias
    weight = lin.weight @ edge_map.weight
    if edge_map.bias is None:
        return weight, lin.bias
    inner = lin.weight @ edge_map.bias
    return weight, inner if lin.bias is None else inner + lin.bias


class FusedGEN(NamedTuple):
    """``MLP(h_i + aggr_j(relu(h_j + edge term) + 1e-7))``; a `FusedConv`."""

    aggr: ops.Aggr
    t: Tensor | float
    """Inverse temperature of a softmax: one number."""
    mlp: FusedMLP
    edges: EdgeFeatures | None

    def fuses(self, h: Tensor, graph: Graph) -> bool:
        """Whether the fused evaluation applies: a softmax, or with edge features also a maximum, sum or mean."""
        if isinstance(self.t, Tensor) and self.t.device != h.device:
            return False
        reads = self._is_softmax if self.edges is None else self.aggr != "power" and self.edges.fuses(h, graph)
        return reads and self.mlp.fuses(h)

    def add_value(self, to: Tensor, sign: int, h: Tensor, graph: Graph, seed: int, work: WorkSpace) -> None:
        """Aggregate into a buffer, and put the MLP of the sum with the root into ``to``."""
        y = self._reduced(h, graph, self._term(), work, keep=False)
        self.mlp.add_value(to, sign, h, y, work)

    def add_value_and_grad(
        self, to: Tensor, sign: int, h: Tensor, cotangent: Tensor, graph: Graph, seed: int, work: WorkSpace
    ) -> tuple[Tensor, Gradients]:
        """Evaluate the aggregation, the MLP and its gradients, then the gradients of the aggregation."""
        term = self._term()
        y = self._reduced(h, graph, term, work, keep=True)
        dz = work.empty("dz", h) if self._is_softmax else y  # only a softmax reads y again
        grads = self.mlp.add_value_and_grad(to, sign, h, y, cotangent, dz, work)
        grads |= self._pull_back(dz, h, y, graph, term, work)
        return h.add_(dz), grads

    def _reduced(self, h: Tensor, graph: Graph, term: cpu.EdgeTerm, work: WorkSpace, *, keep: bool) -> Tensor:
        """Return the aggregate; ``keep``: also what its gradients need, in the work space."""
        kernels, csr, y = ops.kernels(h), cpu.forward_csr(graph), work.empty("y", h)
        if self.aggr == "max":
            kernels.edge_max(h, csr, term, out=y, arg=_positions(h, work) if keep else None)
            return y
        softmax = self._is_softmax
        kernels.gen_aggr(
            h, csr, reduce=self._kind, out=y, edges=term,
            t=self._temperature(h) if softmax else None,
            lse=_normaliser(h, work) if softmax and keep else None,
            scratch=self._scratch(h, work),
        )  # fmt: skip
        return y

    def _pull_back(
        self, dy: Tensor, h: Tensor, y: Tensor, graph: Graph, term: cpu.EdgeTerm, work: WorkSpace
    ) -> Gradients:
        """Write the gradient of h over h, and return those of the edge maps and of t."""
        kernels, (attr, weight, _) = ops.kernels(h), term
        sums = (
            cpu.EdgeGrads() if weight is None else cpu.EdgeGrads(torch.empty_like(weight), torch.empty_like(weight[0]))
        )
        dt = torch.empty_like(self._temperature(h)) if self._is_softmax and isinstance(self.t, Tensor) else None
        if self.aggr == "max":
            arg = _positions(h, work)
            kernels.edge_max_backward(dy, arg, cpu.forward_csr(graph), cpu.EdgeTerm(attr, weight), sums)
            kernels.neighbour_max_backward(dy, arg, cpu.reverse_csr(graph), dx=h)
        else:
            softmax = self._is_softmax
            # The gradient of a source node reads only its own row of h, so it may overwrite h.
            kernels.gen_aggr_backward(
                dy, h, cpu.reverse_csr(graph), reduce=self._kind, dx=h, edges=term, edge_grads=sums,
                t=self._temperature(h) if softmax else None, dt=dt,
                y=y if softmax else None, lse=_normaliser(h, work) if softmax else None,
                indptr=graph.indptr, scratch=self._scratch(h, work),
                constant_weights=self.aggr == "softmax_sg",
            )  # fmt: skip
        grads: Gradients = {}
        if self.edges is not None and sums.weight is not None and sums.bias is not None:
            with torch.autocast(h.device.type, enabled=False):
                grads |= self.edges.pull_back(sums.weight, sums.bias)
        if dt is not None and isinstance(self.t, Tensor):
            grads[self.t] = dt.sum().to(self.t.dtype).view_as(self.t)
        return grads

    @property
    def _is_softmax(self) -> bool:
        return self.aggr in ("softmax", "softmax_sg")

    @property
    def _kind(self) -> str:
        """The reduction as kernels say it."""
        return "softmax" if self._is_softmax else self.aggr

    def _term(self) -> cpu.EdgeTerm:
        return cpu.EdgeTerm() if self.edges is None else self.edges.term()

    def _scratch(self, h: Tensor, work: WorkSpace) -> Tensor | None:
        has_scratch = self.edges is None and ops.kernels(h).node_scratch
        return work.empty("scratch", h, (h.size(0), 2 * h.size(1))) if has_scratch else None

    def _temperature(self, h: Tensor) -> Tensor:
        """Return [d], the same inverse temperature for every channel, in the type of sums over ``h``."""
        dtype = cpu.sum_dtype(h.dtype)
        if isinstance(self.t, Tensor):
            return self.t.detach().to(dtype).reshape(1).expand(h.size(1)).contiguous()
        return h.new_full((h.size(1),), self.t, dtype=dtype)


def _normaliser(h: Tensor, work: WorkSpace) -> Tensor:
    """Return the buffer of a softmax's normaliser, in the type of sums over ``h``."""
    return work.empty("lse", h, dtype=cpu.sum_dtype(h.dtype))


def _positions(h: Tensor, work: WorkSpace) -> Tensor:
    """Return the buffer of the edges that attain the maxima."""
    return work.empty("arg", h.new_empty(0, dtype=torch.int32), h.shape)
