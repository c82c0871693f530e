"""A PyG model becomes reversible at any depth by one import: `GroupAddRev` of revgnn instead of PyG's."""

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import revgnn
from revgnn import GroupAddRev  # instead of: from torch_geometric.nn import GroupAddRev


class Net(nn.Module):
    def __init__(self, in_channels: int, width: int, out_channels: int, num_layers: int) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(in_channels, width), nn.Linear(width, out_channels)
        self.layers = nn.ModuleList(
            GroupAddRev(pyg.SAGEConv(width // 2, width // 2), num_groups=2) for _ in range(num_layers)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, edge_index)
        return self.head(x.relu())


def main() -> None:
    x, edge_index = torch.randn(300, 16), torch.randint(300, (2, 1500))
    for depth in (4, 16, 64):
        model = Net(16, 32, 4, depth)
        kept = revgnn.saved_bytes(lambda model=model: model(x, edge_index))
        model(x, edge_index).square().mean().backward()
        print(f"{depth:>2} layers: autograd keeps {kept / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
