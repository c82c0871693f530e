"""Your own training with Lightning (`pip install lightning`): the network is an ordinary module."""

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import revgnn


class Task(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        config = revgnn.ModelConfig(conv="sage", num_layers=20, hidden_channels=32)
        self.model = revgnn.build_model(config, in_channels=8, out_channels=3)

    def training_step(self, data: Data, number: int) -> Tensor:
        return F.cross_entropy(self.model(data), data.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def main() -> None:
    graphs = [
        Data(x=torch.randn(50, 8), edge_index=torch.randint(50, (2, 200)), y=torch.randint(3, (50,))) for _ in range(8)
    ]
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Task(), DataLoader(graphs, batch_size=4))


if __name__ == "__main__":
    main()
