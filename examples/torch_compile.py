"""`torch.compile`: a convolution is traced fully; a whole network, whose kernels are compiled, is one graph break."""

import torch

import revgnn


def main() -> None:
    torch.manual_seed(0)
    x, edge_index = torch.randn(100, 16), torch.randint(100, (2, 400))
    graph = revgnn.Graph.from_edge_index(edge_index, 100)
    conv = revgnn.SAGEConv(16, 16)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")  # leave backend out for inductor's kernels
    torch.testing.assert_close(compiled(x, graph), conv(x, graph))
    model = revgnn.build_model(
        revgnn.ModelConfig(conv="sage", num_layers=8, hidden_channels=32), in_channels=16, out_channels=4
    ).eval()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x, edge_index), model(x, edge_index))
    print("compiled and plain give the same")


if __name__ == "__main__":
    main()
