"""Nodes and edges as one reversible stream, as networks on meshes have them (MeshGraphNets).

Node states and edge states are the two groups: first every edge reads its ends, then every node sums its edges.
``e' = e + f(e, x_source, x_target); x' = x + g(x, sum of e')`` can be undone, so neither is kept over layers.
"""

import torch
from torch import Tensor, nn

import revgnn


class MeshLayer(nn.Module):
    """One group of the layer: the edges' update, or the nodes'; both read the other group's rows."""

    def __init__(self, width: int, of_edges: bool) -> None:
        super().__init__()
        self.of_edges = of_edges
        inside = 2 * width if of_edges else width
        self.mlp = nn.Sequential(nn.Linear(inside, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, other: Tensor, edge_index: Tensor, num_nodes: int) -> Tensor:
        source, target = edge_index
        if self.of_edges:  # other: node states in the first rows
            value = self.mlp(torch.cat([other[source], other[target]], dim=1))
        else:  # other: edge states in the first rows
            value = self.mlp(other.new_zeros(num_nodes, other.size(1)).index_add(0, target, other[: source.numel()]))
        return nn.functional.pad(value, (0, 0, 0, other.size(0) - value.size(0)))


def main() -> None:
    torch.manual_seed(0)
    num_nodes, num_edges, width = 60, 200, 16
    edge_index = torch.randint(num_nodes, (2, num_edges))
    rows = max(num_nodes, num_edges)  # both groups are padded to the longer one
    nodes = nn.functional.pad(torch.randn(num_nodes, width), (0, 0, 0, rows - num_nodes))
    edges = nn.functional.pad(torch.randn(num_edges, width), (0, 0, 0, rows - num_edges))
    h = torch.cat([edges, nodes], dim=1)  # f_1 reads the last group, the nodes, and updates the first, the edges
    layers = [
        revgnn.GroupAddRev(nn.ModuleList([MeshLayer(width, True), MeshLayer(width, False)]), split_args=[])
        for _ in range(15)
    ]
    for layer in layers:
        h = layer(h, edge_index, num_nodes)
    h.square().mean().backward()
    print(
        f"15 layers; node states {list(h[:num_nodes, width:].shape)}, edge states {list(h[:num_edges, :width].shape)}"
    )


if __name__ == "__main__":
    main()
