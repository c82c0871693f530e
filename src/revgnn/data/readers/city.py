"""Reader of City-Networks in PyG's raw layout: Paris, Shanghai, Los Angeles and London.

Reads tensors only: torch refuses a file that contains code.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
from torch import Tensor

from ...run_lock import claimed
from ..dataset import Dataset
from ..info import Counts, GraphInfo
from .pyg import quiet_pyg

CITIES = {
    city: GraphInfo(
        name=f"city-{city}",
        num_outputs=10,
        in_channels=37,
        counts=Counts(nodes=nodes, edges=2 * roads, splits=(("train", nodes // 10),)),
    )
    for city, nodes, roads in (
        ("paris", 114_127, 182_511),
        ("shanghai", 183_917, 262_092),
        ("la", 240_587, 341_523),
        ("london", 568_795, 756_502),
    )
}
"""City -> what PyG's page says of its roads, each in both directions; a tenth of the nodes train."""
_FILES = {
    "x": "node_features_augmented",
    "edge_index": "edge_indices",
    "y": "10-chunk_16-hop_node_labels",
    "train": "train_mask",
    "valid": "valid_mask",
    "test": "test_mask",
}


def read_city(name: str, root: Path, *, download: bool = False) -> Dataset:
    """Read the roads of a city: which tenth of the nodes is a node in by its eccentricity within 16 hops?

    Args:
        name: one of `CITIES`.
        root: searched at ``city/NAME/raw/NAME`` and ``NAME/raw/NAME``.
        download: if it is in neither place, let PyG download it into ``root/city``.
    Returns: the network, with features as stored.
    Raises:
        FileNotFoundError: it is missing, or a part of it is.
        ValueError: a file holds something else than a tensor; nothing of it was run.
    Source: Liang et al. 2025 (arXiv:2503.09008).
    """
    looked = (root / "city" / name / "raw" / name, root / name / "raw" / name)
    folder = next((place for place in looked if place.is_dir()), None)
    if folder is None and not download:
        raise FileNotFoundError(
            f"the roads of {name} are in neither {looked[0]} nor {looked[1]}; name the folder that holds them with "
            "--data-root, or let PyG fetch them with --download"
        )
    if folder is None:
        with quiet_pyg():
            from torch_geometric.datasets import CityNetwork

            # Other ranks and processes wait for the first one to download.
            with claimed(root / "city" / name, beside=True, patience=math.inf):
                CityNetwork(str(root / "city"), name)
        folder = looked[0]
    found = {what: _tensor(folder / f"{file}.pt") for what, file in _FILES.items()}
    return Dataset(
        info=CITIES[name],
        x=found["x"].float(),
        edge_index=found["edge_index"].long(),
        y=found["y"].long(),
        splits={split: _numbers(found[split]) for split in ("train", "valid", "test")},
    )


def _tensor(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}; delete the folder and use --download")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} holds no tensor: {error}; delete the folder and use --download") from error
    if not isinstance(found, Tensor):
        raise ValueError(f"{path} must hold a tensor, got {type(found).__name__}; delete the folder and use --download")
    return found


def _numbers(split: Tensor) -> Tensor:
    """Return the node numbers of a split, which is stored as a mask or as numbers."""
    return split.nonzero().view(-1) if split.dtype == torch.bool else split.long().sort().values
