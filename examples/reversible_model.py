"""An existing PyG model becomes reversible by one call, with the modules and weights that it has."""

import torch
import torch_geometric.nn as pyg

import revgnn


def main() -> None:
    torch.manual_seed(0)
    x, edge_index = torch.randn(300, 16), torch.randint(300, (2, 1500))
    plain = pyg.GraphSAGE(in_channels=16, hidden_channels=32, num_layers=42, out_channels=4, norm="batch", dropout=0.2)
    deep = revgnn.reversible(plain)
    for name, model in (("PyG's", plain), ("reversible", deep)):
        kept = revgnn.saved_bytes(lambda model=model: model(x, edge_index))
        model(x, edge_index).square().mean().backward()
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, autograd keeps {kept / 1e3:.0f} kB")
    try:
        revgnn.reversible(pyg.GCN(16, 32, 8, jk="cat"))
    except ValueError as error:
        print(f"and where it cannot: {error}")


if __name__ == "__main__":
    main()
