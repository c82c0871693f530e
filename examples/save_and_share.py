"""Keep a trained model in a folder, and read it again: safetensors, JSON and a model card, no pickle."""

import tempfile
from pathlib import Path

import torch

import revgnn


def main() -> None:
    data = revgnn.load_dataset(revgnn.DatasetConfig(name="digits"), root=Path())
    run = revgnn.Experiment(
        dataset=revgnn.DatasetConfig(name="digits"),
        model=revgnn.ModelConfig(conv="sage", num_layers=4, hidden_channels=16),
        train=revgnn.TrainConfig(),
    )
    network = run.model.build(data.info)  # train it here, in a loop of your own
    with tempfile.TemporaryDirectory() as folder:
        revgnn.TrainedModel(run, data.info, network).eval().save_pretrained(folder, scores={"test accuracy": 0.1})
        print(sorted(path.name for path in Path(folder).iterdir()))
        again = revgnn.from_pretrained(folder, device="cpu")
        torch.testing.assert_close(again(data.x, data.edge_index), network.eval()(data.x, data.edge_index))
        print(Path(folder, "README.md").read_text()[:200])


if __name__ == "__main__":
    main()
