"""Your own PyG convolution in a deep reversible network: one class, which `ModelConfig` and `--set model.conv` name."""

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import revgnn
from revgnn.nn import Conv


class GIN(Conv):
    """PyG's GINConv, made from the two widths that a network knows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = pyg.GINConv(nn.Sequential(nn.Linear(in_channels, out_channels), nn.ReLU()))

    def forward(self, x, graph, edge_attr=None, *, edge_map=None, seed=None) -> Tensor:
        edges = graph.edge_index if isinstance(graph, revgnn.Graph) else graph
        return self.conv(x, edges)


def main() -> None:
    torch.manual_seed(0)
    x, edge_index, y = torch.randn(200, 16), torch.randint(200, (2, 1000)), torch.randint(4, (200,))
    config = revgnn.ModelConfig(conv=f"{__name__}:GIN", num_layers=16, hidden_channels=32)
    model = revgnn.build_model(config, in_channels=16, out_channels=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(3):
        loss = nn.functional.cross_entropy(model(x, edge_index), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
