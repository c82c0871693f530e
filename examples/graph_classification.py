"""Graph-level answers with PyG's `DataLoader`: the network takes the batch that the loader gives."""

import torch
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import revgnn


def drawn(label: int) -> Data:
    """A ring, or a ring with chords."""
    nodes = torch.arange(12)
    edges = torch.stack([nodes, (nodes + 1) % 12])
    if label:
        edges = torch.cat([edges, torch.stack([nodes, (nodes + 5) % 12])], dim=1)
    return Data(x=torch.randn(12, 4), edge_index=torch.cat([edges, edges.flip(0)], dim=1), y=torch.tensor([label]))


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader([drawn(number % 2) for number in range(64)], batch_size=16, shuffle=True)
    info = revgnn.GraphInfo(in_channels=4, num_outputs=2, level="graph")
    config = revgnn.ModelConfig(conv="gen", num_layers=8, hidden_channels=32, dropout=0.0, norm="graph")
    model = revgnn.build_model(config, info)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for epoch in range(5):
        right = 0
        for data in loader:
            logits = model(data)  # or model(data.x, data.edge_index, batch=data.batch)
            loss = F.cross_entropy(logits, data.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((logits.argmax(1) == data.y).sum())
        print(f"epoch {epoch}: {right} of 64 right")


if __name__ == "__main__":
    main()
