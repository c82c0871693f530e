"""A `Stack` of your own block: a pure function f(x, seed, *context) of one group's width; the stack does the rest."""

import torch
from torch import Tensor, nn

import revgnn


class Diffuse(nn.Module):
    """Average over the neighbours of an adjacency matrix, then one linear map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.lin = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor, seed: int, adjacency: Tensor) -> Tensor:
        return adjacency @ self.lin(self.norm(x).relu())


def main() -> None:
    torch.manual_seed(0)
    adjacency = (torch.rand(100, 100) < 0.05).float()
    adjacency = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    x = torch.randn(100, 32)
    gradients = []
    for backprop in ("reversible", "store"):
        torch.manual_seed(1)
        stack = revgnn.Stack(
            Diffuse, channels=32, num_layers=50, coupling="grouped", num_groups=2, backprop=backprop
        )  # fmt: skip
        stack(x, adjacency).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in stack.parameters()]))
        print(f"{backprop}: autograd keeps {revgnn.saved_bytes(lambda stack=stack: stack(x, adjacency)) / 1e3:.0f} kB")
    print(f"largest difference of the gradients: {(gradients[0] - gradients[1]).abs().max():.1e}")


if __name__ == "__main__":
    main()
