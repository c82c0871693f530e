"""Autocast to bfloat16: products in bfloat16, the stream and its reconstruction in float32."""

import torch
from torch.nn import functional as F

import revgnn


def main() -> None:
    torch.manual_seed(0)
    x, edge_index, y = torch.randn(300, 16), torch.randint(300, (2, 1500)), torch.randint(4, (300,))
    model = revgnn.build_model(
        revgnn.ModelConfig(conv="sage", num_layers=32, hidden_channels=64, dropout=0.0), in_channels=16, out_channels=4
    )
    exact = model(x, edge_index).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x, edge_index)
        loss = F.cross_entropy(logits.float(), y)
    loss.backward()
    difference = (logits - exact).abs().max() / exact.abs().max()
    print(f"loss {loss.item():.3f}; bfloat16 changes the logits by {difference:.1%} of the largest")


if __name__ == "__main__":
    main()
