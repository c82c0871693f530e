"""Reads Cora, CiteSeer and PubMed in PyG's raw layout, with the public or the full split.

Reads ``<Name>/raw`` only and writes nothing, except that PyG writes downloads. The raw files are Python pickles, which
`planetoid` checks first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...run_lock import claimed
from ..dataset import Dataset
from ..info import Counts, GraphInfo
from .planetoid import check_arrays_only

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
PLANETOID = {
    name: GraphInfo(
        name=name.lower(),
        num_outputs=classes,
        in_channels=features,
        counts=Counts(nodes=nodes, edges=edges, splits=(("train", 20 * classes), ("valid", 500), ("test", 1000))),
    )
    for name, nodes, edges, features, classes in (
        ("Cora", 2_708, 10_556, 1_433, 7),
        ("CiteSeer", 3_327, 9_104, 3_703, 6),
        ("PubMed", 19_717, 88_648, 500, 3),
    )
}
"""Planetoid's names, as its folders are called, and what is known of each, under the public split."""


def read_planetoid(name: str, root: Path, *, full: bool = False, download: bool = False) -> Dataset:
    """Read a Planetoid data set: binary or TF-IDF word features, the public split or the full one.

    Args:
        name: ``Cora``, ``CiteSeer`` or ``PubMed``.
        root: looked into at ``planetoid/<name>/raw`` and ``<name>/raw``.
        full: whether every node that neither selects nor tests trains, not 20 of each class alone.
        download: let PyG fetch it into ``root/planetoid`` where it is in neither.
    Returns: the data set, features as they are stored.
    Raises:
        FileNotFoundError: it is missing, or a part of it is.
        ValueError: a file asks for anything but arrays; nothing of it was run.
    Source: Yang et al. 2016 (arXiv:1603.08861); the full split is Chen et al. 2018's (arXiv:1801.10247).
    """
    looked = (root / "planetoid" / name / "raw", root / name / "raw")
    folder = next((place for place in looked if place.is_dir()), None)
    if folder is None and not download:
        raise FileNotFoundError(
            f"{name} is in neither {looked[0]} nor {looked[1]}; name the folder that holds it with --data-root, "
            "or let PyG fetch it with --download"
        )
    with quiet_pyg():
        from torch_geometric.datasets import Planetoid
        from torch_geometric.io import read_planetoid_data

        if folder is None:
            # Other ranks and processes wait for the first one to download.
            with claimed(root / "planetoid" / name, beside=True, patience=math.inf):
                Planetoid(str(root / "planetoid"), name)
            folder = looked[0]
        missing = [part for part in _file_names(name) if not (folder / part).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; delete the folder and use --download")
        for part in _file_names(name)[:-1]:
            check_arrays_only(folder / part)
        data = read_planetoid_data(str(folder), name)
    return Dataset(
        info=PLANETOID[name],
        x=data.x,
        edge_index=data.edge_index,
        y=data.y,
        splits={
            "train": (~(data.val_mask | data.test_mask) if full else data.train_mask).nonzero().view(-1),
            "valid": data.val_mask.nonzero().view(-1),
            "test": data.test_mask.nonzero().view(-1),
        },
    )


@contextmanager
def quiet_pyg() -> Iterator[None]:
    """Hold back what PyG's import and its reader warn of about themselves, and the warning filters that they leave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _file_names(name: str) -> list[str]:
    return [f"ind.{name.lower()}.{part}" for part in _PARTS]
