"""Baselines with few or no weights in propagation: SGC, SIGN, DAGNN and GCNII, each as in its authors' code"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.readers.pyg import quiet_pyg
from ...graph import Graph
from .plain import adjacency, normalised_adjacency


class SGC(nn.Module):
    """Propagate K times, then apply one linear map: ``A^K x W^T + b`` with A normalised, self loops included.

    PyG's ``SGConv`` computes the same with one message per edge, 50 GB on ogbn-products; this multiplies by a sparse
    matrix. The propagated features are cached as long as the features do not change.

    Source: Wu et al. 2019 (arXiv:1902.07153).
    """

    def __init__(self, in_channels: int, out_channels: int, *, hops: int) -> None:
        super().__init__()
        self.hops, self.lin, self._cache = hops, nn.Linear(in_channels, out_channels), _PropagationCache()

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        out: Tensor = self.lin(self._cache.get(x, graph, self.hops, lambda: [self._propagated(x, graph)])[0])
        return out

    def _propagated(self, x: Tensor, graph: Graph) -> Tensor:
        matrix = normalised_adjacency(graph, x.dtype)
        for _ in range(self.hops):
            x = matrix @ x
        return x


class SIGN(nn.Module):
    """An MLP over the concatenated features of 0 to K hops: ``MLP(concat_k drop(prelu(W_k A^k x)))``.

    Hops are those of PyG's ``transforms.SIGN``: ``D^-1/2 A D^-1/2`` without self loops, cached as long as the features
    do not change.

    Args:
        widths: F, the hidden widths (all equal), T; ``len(widths) - 2`` linear layers follow the concatenation.
        hops: K.
    Source: Rossi et al. 2020 (arXiv:2004.11198).
    """

    def __init__(self, widths: Sequence[int], *, hops: int, dropout: float, input_dropout: float) -> None:
        super().__init__()
        self.hops, self.dropout, self.input_dropout, self._cache = hops, dropout, input_dropout, _PropagationCache()
        self.branches = nn.ModuleList(nn.Linear(widths[0], widths[1]) for _ in range(hops + 1))
        inner = [(hops + 1) * widths[1], *widths[2:]]
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(inner))
        self.act = nn.ModuleList(nn.PReLU() for _ in range(len(self.lins)))

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        hops = [x, *self._cache.get(x, graph, self.hops, lambda: _hops(x, graph, self.hops))]
        branches = (
            lin(F.dropout(hop, self.input_dropout, self.training)) for lin, hop in zip(self.branches, hops, strict=True)
        )
        h = torch.cat(list(branches), dim=1)
        for act, lin in zip(self.act, self.lins, strict=True):
            h = lin(F.dropout(act(h), self.dropout, self.training))
        return h


class DAGNN(nn.Module):
    """An MLP, K propagations of its output, and a learned weight of each per node: ``sum_k sigmoid(s z_k) z_k``.

    Source: Liu et al. 2020 (arXiv:2007.09296), github.com/mengliu1998/DeeperGNN.
    """

    def __init__(self, widths: Sequence[int], *, hops: int, dropout: float) -> None:
        super().__init__()
        self.hops, self.dropout = hops, dropout
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:-1])
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        matrix = normalised_adjacency(graph, x.dtype)
        for lin, norm in zip(self.lins, self.norms, strict=False):
            x = F.dropout(norm(lin(x)).relu(), self.dropout, self.training)
        z = self.lins[-1](x)
        out: Tensor = self.score(z).sigmoid() * z
        for _ in range(self.hops):
            z = matrix @ z
            out = out + self.score(z).sigmoid() * z
        return out


class GCNII(nn.Module):
    """The GCNII variant that its authors ran on ogbn-arxiv.

    ``x' = relu(BN(A (x + x W_1) + alpha x_0 + x_0 W_2)) + x`` with A normalised. PyG's ``GCN2Conv`` has the same two
    matrices but interpolates them with the identity, and has neither the BatchNorm nor the outer skip connection.

    Source: Chen et al. 2020 (arXiv:2007.02133), github.com/chennnM/GCNII, PyG/ogbn-arxiv.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        initial: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.initial, self.dropout = initial, dropout
        self.lin_in, self.lin_out = nn.Linear(in_channels, hidden_channels), nn.Linear(hidden_channels, out_channels)
        square = (hidden_channels, hidden_channels)
        self.own = nn.ModuleList(nn.Linear(*square, bias=False) for _ in range(num_layers))
        self.first = nn.ModuleList(nn.Linear(*square, bias=False) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_channels) for _ in range(num_layers))
        for lin in (*self.own, *self.first):
            nn.init.xavier_uniform_(lin.weight)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        matrix = normalised_adjacency(graph, x.dtype)
        x_0 = x = self.lin_in(self._drop(x)).relu()
        for own, first, norm in zip(self.own, self.first, self.norms, strict=True):
            h = self._drop(x)
            h = matrix @ (h + own(h)) + self.initial * x_0 + first(x_0)
            x = norm(h).relu() + x
        out: Tensor = self.lin_out(self._drop(x))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GCN2(nn.Module):
    """GCNII as its authors ran it on citation graphs, from PyG's ``GCN2Conv``.

    ``x' = relu(((1 - b) I + b W) ((1 - alpha) A x + alpha x_0))`` with ``b = log(lambda / l + 1)`` in layer ``l`` and A
    normalised: every layer sees the encoded input, and deep layers change little of what they propagate. The features
    of a node are divided by their sum first.

    Source: Chen et al. 2020 (arXiv:2007.02133), github.com/chennnM/GCNII; PyG's examples/gcn2_cora.py.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        initial: float,
        identity: float,
        dropout: float,
    ) -> None:
        super().__init__()
        with quiet_pyg():
            from torch_geometric.nn import GCN2Conv
        self.dropout = dropout
        self.lin_in, self.lin_out = nn.Linear(in_channels, hidden_channels), nn.Linear(hidden_channels, out_channels)
        self.convs = nn.ModuleList(
            GCN2Conv(hidden_channels, initial, identity, layer, normalize=False) for layer in range(1, num_layers + 1)
        )

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """[N, F] -> [N, T]."""
        matrix = normalised_adjacency(graph, x.dtype)
        x = F.normalize(x, p=1.0)
        x_0 = x = self.lin_in(self._drop(x)).relu()
        for conv in self.convs:
            x = conv(self._drop(x), x_0, matrix).relu()
        out: Tensor = self.lin_out(self._drop(x))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class _PropagationCache:
    """Caches the last propagated features while their features and graph live unchanged, if these need no gradient."""

    def __init__(self) -> None:
        self._key: tuple[weakref.ref[Tensor], tuple[int | None, int], weakref.ref[Graph]] | None = None
        self._features: list[Tensor] = []

    def get(self, x: Tensor, graph: Graph, hops: int, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return the cached features for these arguments, or those of ``make()``."""
        if x.requires_grad and torch.is_grad_enabled():
            return make()
        key, state = self._key, (None if x.is_inference() else x._version, hops)
        if key is None or key[0]() is not x or key[1] != state or key[2]() is not graph:
            with torch.inference_mode(False), torch.no_grad():
                made = self._features = make()
            self._key = weakref.ref(x, lambda _: made.clear()), state, weakref.ref(graph, lambda _: made.clear())
        return self._features

    def __reduce__(self) -> tuple[type[_PropagationCache], tuple[()]]:
        return type(self), ()


def _hops(x: Tensor, graph: Graph, count: int) -> list[Tensor]:
    """Return ``A x, ..., A^count x`` with ``A`` normalised by degrees, as in PyG's SIGN transform."""
    scale = graph.in_degree.clamp(min=1).to(x.dtype).pow(-0.5).unsqueeze(1)
    scale = scale * (graph.in_degree > 0).unsqueeze(1)
    matrix, found = adjacency(graph, x.dtype), []
    for _ in range(count):
        x = scale * (matrix @ (scale * x))
        found.append(x)
    return found
