"""A `MessagePassing` of your own with edge features inside a reversible layer: arguments after x go to every group."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

import revgnn


class Gated(MessagePassing):
    """Messages of the neighbours, each multiplied by a gate of its edge."""

    def __init__(self, width: int, edge_channels: int) -> None:
        super().__init__(aggr="mean")
        self.lin, self.gate = nn.Linear(width, width), nn.Linear(edge_channels, width)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x.relu()), gate=self.gate(edge_attr).sigmoid())

    def message(self, x_j: Tensor, gate: Tensor) -> Tensor:
        return gate * x_j


def main() -> None:
    torch.manual_seed(0)
    x, edge_index = torch.randn(200, 32), torch.randint(200, (2, 900))
    edge_attr = torch.rand(900, 3, requires_grad=True)
    layers = nn.ModuleList(revgnn.GroupAddRev(Gated(8, 3), num_groups=4) for _ in range(20))
    h = x
    for layer in layers:
        h = layer(h, edge_index, edge_attr)
    h.square().mean().backward()
    print(f"20 layers; the gradient of the edge features has norm {edge_attr.grad.norm():.3f}")


if __name__ == "__main__":
    main()
