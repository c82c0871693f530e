"""An equilibrium (DEQ) instead of layers: one block, solved for its fixed point, differentiated implicitly."""

import torch
from torch.nn import functional as F

import revgnn
from revgnn.nn.model import EquilibriumOptions


def main() -> None:
    torch.manual_seed(0)
    x, edge_index, y = torch.randn(200, 16), torch.randint(200, (2, 400)), torch.randint(4, (200,))
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    config = revgnn.ModelConfig(
        conv="gcn",
        hidden_channels=32,
        coupling="residual",
        weight_tied=True,
        backprop="implicit",
        dropout=0.0,
        equilibrium=EquilibriumOptions(contraction=0.9),  # a fixed point exists, and every solver finds it
    )
    model = revgnn.build_model(config, in_channels=16, out_channels=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for epoch in range(1, 4):
        model.begin_epoch(epoch)
        loss = F.cross_entropy(model(x, edge_index), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(
            f"epoch {epoch}: loss {loss.item():.3f}", {name: f"{value:.3g}" for name, value in model.observe().items()}
        )


if __name__ == "__main__":
    main()
