"""A data set of PyG, trained on with checkpoints, baselines and a report, and predicted: a few lines."""

import tempfile
from pathlib import Path

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import RandomNodeSplit

import revgnn
from revgnn.data import DATASETS, NamedDataset


def communities() -> Data:
    """Any data set of PyG stands here, such as ``Amazon(root, "Photo")[0]``."""
    y = torch.arange(300) % 3
    ends = torch.randint(300, (2, 6000))
    edge_index = ends[:, y[ends[0]] == y[ends[1]]]
    x = torch.nn.functional.one_hot(y, 3) + 2.0 * torch.randn(300, 3)
    return RandomNodeSplit(num_val=60, num_test=120)(Data(x=x, edge_index=edge_index, y=y))


def main() -> None:
    torch.manual_seed(0)
    data = revgnn.dataset_from_pyg(communities(), name="communities")
    DATASETS["communities"] = NamedDataset(read=lambda config, root, download: data, asks="a node: its community")
    experiment = revgnn.Experiment(
        dataset=revgnn.DatasetConfig(name="communities"),
        model=revgnn.ModelConfig(conv="sage", num_layers=16, hidden_channels=32, coupling="grouped"),
        train=revgnn.TrainConfig(epochs=20, lr=0.01),
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        revgnn.run_experiment(experiment, out, name="communities", data_root=Path(folder))
        table = revgnn.load(out).predict(data)
        right = torch.tensor(table["prediction"].to_pylist()) == data.y
        test = data.splits["test"]
        print(f"{len(table)} predictions; of the test nodes {right[test].float().mean():.0%} are right")
        print("files:", ", ".join(sorted(path.name for path in out.iterdir())))
    del DATASETS["communities"]


if __name__ == "__main__":
    main()
