"""Your own training loop with Accelerate: the network is an ordinary module."""

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import revgnn


def main() -> None:
    torch.manual_seed(0)
    graphs = [
        Data(x=torch.randn(50, 8), edge_index=torch.randint(50, (2, 200)), y=torch.randint(3, (50,))) for _ in range(8)
    ]
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    config = revgnn.ModelConfig(conv="sage", num_layers=20, hidden_channels=32)
    model = revgnn.build_model(config, in_channels=8, out_channels=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(graphs, batch_size=4))
    for epoch in range(3):
        for data in loader:
            data = data.to(accelerator.device)
            loss = F.cross_entropy(model(data), data.y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
