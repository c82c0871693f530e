"""Convert checkpoints of the paper's official ogbn-proteins code to networks of this package, without pickles.

The official RevGCN names its weights after its own modules. Widths, depth and groups follow from names and shapes; a
checkpoint does not contain aggregation and dropout.
"""

from __future__ import annotations

import errno
import json
import pickle
import re
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import ops
from ..data.info import GraphInfo
from ..nn.convs import GENOptions
from ..nn.model import GNN, ModelConfig

FORMAT = 1
_WEIGHTS, _FACTS = "model.safetensors", "model.json"
_LARGEST_FACTS = 2**16
_SHOWN = 4
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    struct.error,
)
"""The exceptions that torch raises for a damaged file, depending on the wrong byte."""


@dataclass(frozen=True, kw_only=True)
class OfficialModel:
    """The architecture of an official network, from its checkpoint and from the arguments of the conversion.

    Examples:
        >>> from revgnn.interop import OfficialModel
        >>> small = OfficialModel(
        ...     num_layers=3, hidden_channels=16, num_groups=2, mlp_layers=2, species=8, in_channels=16,
        ...     edge_channels=8, out_channels=112, aggr="max", dropout=0.1,
        ... )
        >>> small.build().stack.num_layers
        3
    """

    num_layers: int
    hidden_channels: int
    num_groups: int
    mlp_layers: int
    """Number of linear layers of each convolution's MLP."""
    species: int
    """Width of the one-hot species among the inputs; 0: none."""
    in_channels: int
    """Width of the node features, species included."""
    edge_channels: int
    out_channels: int
    aggr: ops.Aggr
    dropout: float

    def build(self) -> GNN:
        """Build the network with new weights."""
        config = ModelConfig(
            conv="gen",
            num_layers=self.num_layers,
            hidden_channels=self.hidden_channels,
            num_groups=self.num_groups,
            norm="layer",
            dropout=self.dropout,
            species=self.species,
            gen=GENOptions(aggr=self.aggr, mlp_layers=self.mlp_layers),
        )
        return config.build(
            GraphInfo(in_channels=self.in_channels, num_outputs=self.out_channels, edge_channels=self.edge_channels)
        )


def from_official(state_dict: Mapping[str, object], *, aggr: ops.Aggr = "max", dropout: float = 0.1) -> GNN:
    """Build this package's network from the state dict of an official proteins RevGCN (RevGNN-Deep, RevGNN-Wide).

    The network takes x [N, 16], the 8 summed edge features of each node followed by its one-hot species, and edge_attr
    [E, 8].

    Args:
        state_dict: tensors by their official names; or a checkpoint with them under ``model_state_dict``. All names may
            start with ``module.``, as DataParallel writes them.
        aggr: aggregation of messages; max in the published networks.
        dropout: dropout of further training; 0.1 for RevGNN-Deep, 0.2 for RevGNN-Wide.
    Returns: the network, in training mode, in the dtype of the weights.
    Raises: ValueError: names that are missing or unknown, or shapes that do not fit together.
    Source: the paper's official code, examples/ogb_eff/ogbn_proteins.

    Examples:
        >>> import torch
        >>> from revgnn.interop import from_official
        >>> model = from_official(torch.load("RevGNN-Deep.pth", weights_only=True))
        >>> model(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]]), torch.randn(2, 8)).shape
        torch.Size([3, 112])
    """
    model, weights = _translated(state_dict, aggr, dropout)
    return _loaded(model, weights)


def convert(path: Path, out: Path, *, aggr: ops.Aggr = "max", dropout: float = 0.1) -> OfficialModel:
    """Convert an official checkpoint file to a folder with ``model.safetensors`` and ``model.json``.

    Args:
        path: a file that the official code saved with ``torch.save``; only tensors are loaded, no code runs.
        out: the folder; created if missing.
        aggr, dropout: as in `from_official`.
    Returns: the network's architecture.
    Raises: ValueError: a file that is not a checkpoint of tensors, or one of another network. FileExistsError: the
        folder already has a converted model.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.interop import convert
        >>> found = convert(Path("RevGNN-Deep.pth"), Path("converted"))  # a checkpoint of the official code
        >>> sorted(path.name for path in Path("converted").iterdir())
        ['model.json', 'model.safetensors']
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: the file sends torch to nowhere
            raise
        # Without torch's advice to load it unsafely.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path} must be a checkpoint that holds only tensors: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(content).__name__}")
    model, weights = _translated(content, aggr, dropout)
    out.mkdir(parents=True, exist_ok=True)
    for name in (_WEIGHTS, _FACTS):
        if (out / name).exists():
            raise FileExistsError(errno.EEXIST, "the file exists already; choose another folder", str(out / name))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / _WEIGHTS)
    # model.json is written last, so that a folder with it is complete.
    facts = {"format": FORMAT, **asdict(model)}
    (out / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return model


def load_converted(folder: Path) -> GNN:
    """Load the network that `convert` wrote to a folder, in training mode.

    Raises: ValueError: files that `convert` did not write. OSError: a file is missing.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.interop import convert, load_converted
        >>> found = convert(Path("RevGNN-Deep.pth"), Path("revgnn-deep"))
        >>> type(load_converted(Path("revgnn-deep"))).__name__
        'GNN'
    """
    path = folder / _FACTS
    if path.stat().st_size > _LARGEST_FACTS:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {_LARGEST_FACTS} are read")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
            raise ValueError(f"its format must be {FORMAT}")
        return _loaded(OfficialModel(**facts), load_file(folder / _WEIGHTS))
    except (TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a converted model: {error}; convert the checkpoint again") from error


# ---------------------------------------------------------------------- names


def _official_name(name: str) -> str:
    """Return the official name of a weight of this package's network."""
    for pattern, official in _NAMES:
        if match := pattern.fullmatch(name):
            return official(match)
    raise AssertionError(f"every weight has an official name, but {name} has none")


def _layer(match: re.Match[str], rest: str) -> str:
    return f"gcns.{match[1]}._fn.Fms.{match[2]}.{rest}"


_BLOCK = r"stack\.layers\.(\d+)\.(\d+)\."

# The official MLP is one list of linear, norm, ReLU, linear, ...: three entries per hidden layer.
_NAMES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"encoder\.one_hot\.(\w+)"), lambda m: f"node_one_hot_encoder.{m[1]}"),
    (re.compile(r"encoder\.(?:lin\.)?(\w+)"), lambda m: f"node_features_encoder.{m[1]}"),
    (re.compile(r"edge_encoder\.(\w+)"), lambda m: f"edge_encoder.{m[1]}"),
    (re.compile(r"head\.norm\.(\w+)"), lambda m: f"last_norm.{m[1]}"),
    (re.compile(r"head\.lin\.(\w+)"), lambda m: f"node_pred_linear.{m[1]}"),
    (re.compile(_BLOCK + r"norm\.(\w+)"), lambda m: _layer(m, f"norm.{m[3]}")),
    (re.compile(_BLOCK + r"conv\.lins\.(\d+)\.(\w+)"), lambda m: _layer(m, f"gcn.mlp.{3 * int(m[3])}.{m[4]}")),
    (re.compile(_BLOCK + r"conv\.norms\.(\d+)\.(\w+)"), lambda m: _layer(m, f"gcn.mlp.{3 * int(m[3]) + 1}.{m[4]}")),
    (re.compile(_BLOCK + r"conv\.lin_edge\.(\w+)"), lambda m: _layer(m, f"gcn.edge_encoder.{m[3]}")),
]


def _translated(
    content: Mapping[str, object], aggr: ops.Aggr, dropout: float
) -> tuple[OfficialModel, dict[str, Tensor]]:
    """Return the architecture of an official state dict, and its tensors by this package's names, each exactly once."""
    official = _tensors(content)
    model = _described(official, aggr, dropout)
    with torch.device("meta"):
        own = model.build().state_dict()
    names = {name: _official_name(name) for name in own}
    _check_names(names.values(), official)
    for name, tensor in own.items():
        found = official[names[name]]
        if found.shape != tensor.shape:
            raise ValueError(
                f"{names[name]} must have shape {list(tensor.shape)} in a network of {model.num_layers} layers, "
                f"{model.hidden_channels} channels and {model.num_groups} groups, got {list(found.shape)}"
            )
    return model, {name: official[names[name]].detach() for name in own}


def _tensors(content: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, without DataParallel's prefix."""
    inner = content.get("model_state_dict", content)
    if not isinstance(inner, Mapping) or not inner:
        raise ValueError("expected a state dict of tensors by name, or a checkpoint with one under model_state_dict")
    prefix = "module." if all(str(name).startswith("module.") for name in inner) else ""
    tensors = {str(name).removeprefix(prefix): value for name, value in inner.items()}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a floating-point tensor, got {what}; pass the model's state dict alone")
    return tensors


def _described(official: Mapping[str, Tensor], aggr: ops.Aggr, dropout: float) -> OfficialModel:
    """Derive depth, widths and groups from names and shapes."""
    matrices = ("node_features_encoder.weight", "edge_encoder.weight", "node_pred_linear.weight")
    _check_present(matrices, official)
    blocks = [match for name in official if (match := re.match(r"gcns\.(\d+)\._fn\.Fms\.(\d+)\.", name))]
    linear = [int(match[1]) for name in official if (match := re.search(r"\.gcn\.mlp\.(\d+)\.", name))]
    if not blocks or not linear:
        raise ValueError("expected weights named gcns.0._fn.Fms.0.gcn.mlp.0.weight and so on; is it a proteins RevGCN?")
    widths = [official[name].shape for name in matrices]
    if any(len(shape) != 2 for shape in widths):
        raise ValueError(f"{', '.join(matrices)} must be matrices, got {[list(shape) for shape in widths]}")
    one_hot = official.get("node_one_hot_encoder.weight")
    return OfficialModel(
        num_layers=1 + max(int(match[1]) for match in blocks),
        hidden_channels=widths[0][0],
        num_groups=1 + max(int(match[2]) for match in blocks),
        mlp_layers=1 + max(linear) // 3,
        species=0 if one_hot is None else one_hot.size(0),
        in_channels=widths[0][1],
        edge_channels=widths[1][1],
        out_channels=widths[2][0],
        aggr=aggr,
        dropout=dropout,
    )


def _loaded(model: OfficialModel, weights: Mapping[str, Tensor]) -> GNN:
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) != 1:
        raise ValueError(f"all weights must have one dtype, got {sorted(map(str, dtypes))}")
    network = model.build().to(dtypes.pop())
    _check_names(network.state_dict(), weights)
    network.load_state_dict(dict(weights))
    return network


def _check_present(wanted: Collection[str], names: Collection[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"missing: {_few(missing)}; is it the state dict of a proteins RevGCN?")


def _check_names(wanted: Collection[str], names: Collection[str]) -> None:
    missing, unknown = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    if missing or unknown:
        faults = [f"{what}: {_few(found)}" for what, found in (("missing", missing), ("not known", unknown)) if found]
        raise ValueError(f"every weight must be there once, and no other; {'; '.join(faults)}")


def _few(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
