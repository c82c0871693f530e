"""Embeddings of nodes: train on a data set, then ask the trained model of its run folder for the last hidden state."""

import tempfile
from pathlib import Path

import revgnn


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        experiment = revgnn.Experiment(
            dataset=revgnn.DatasetConfig(name="digits"),
            model=revgnn.ModelConfig(conv="sage", num_layers=4, hidden_channels=16),
            train=revgnn.TrainConfig(epochs=2),
        )
        out = Path(folder, "run")
        revgnn.run_experiment(experiment, out, name="embeddings", data_root=Path(folder), device="cpu")
        model = revgnn.load(out, device="cpu")
        data = revgnn.load_dataset(experiment.dataset, root=Path(folder))
        print("the first prediction:", model.predict(data).slice(0, 1).to_pylist()[0])
        print("embeddings:", tuple(model.embed(data).shape))


if __name__ == "__main__":
    main()
