"""The folder in which a trained model is kept and shared: safetensors, a JSON configuration and a model card"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .data import GraphInfo
from .experiment import Experiment, as_json, experiment_of
from .files import check_format, check_plain, read_object, room_for, versions_of, write_whole

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_FORMAT = 1
_OURS = "revgnn."


def write_shared(
    folder: Path, run: Experiment, info: GraphInfo, module: nn.Module, scores: Mapping[str, float]
) -> None:
    """Write a model to a folder; arguments as in `TrainedModel.save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    size = sum(value.nbytes for value in state.values())
    with room_for(WEIGHTS, size, folder, then="save the model again"):
        save_file(state, folder / WEIGHTS)
    facts = {
        "format": _FORMAT,
        "experiment": as_json(run),
        "reads": asdict(info.without_counts()),
        "scores": dict(scores),
        "versions": versions_of("revgnn", "torch"),
    }
    write_whole(folder / CONFIG, json.dumps(facts, indent=1, default=str) + "\n")
    write_whole(folder / CARD, _card(run, info, sum(p.numel() for p in module.parameters()), scores))


def find_files(source: str) -> tuple[Path, Path]:
    """Return the files of configuration and weights of a folder, or of a model on the hub, which are downloaded."""
    folder = Path(source)
    if folder.is_dir():
        return folder / CONFIG, folder / WEIGHTS
    if source.count("/") != 1 or source.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"{source} is neither a folder nor the id owner/name of a model on the hub")
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source} is no folder here, and to read it from the hub needs huggingface_hub: pip install 'revgnn[hub]'"
        ) from error
    # The hub's cache has links to its files.
    config, weights = (Path(hf_hub_download(source, name)).resolve() for name in (CONFIG, WEIGHTS))
    return config, weights


def read_shared(files: tuple[Path, Path], *, own_code: bool) -> tuple[Experiment, GraphInfo, dict[str, Tensor]]:
    """Read what `write_shared` wrote, as files of whoever; arguments and errors as in `from_pretrained`."""
    config, weights = files
    facts = read_object(config)
    check_format(config, facts, _FORMAT, remedy="; use the revgnn that wrote it")
    check_plain(weights)
    try:
        if not own_code:
            _refuse_own_code(facts["experiment"]["model"])
        run, info = experiment_of(facts["experiment"]), GraphInfo.from_json(facts["reads"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{config} does not describe a model: {error}") from error
    try:
        return run, info, load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from error


def _refuse_own_code(model: Mapping[str, object]) -> None:
    named = [model["class"], *(value for value in model.values() if isinstance(value, str) and ":" in value)]
    other = next((name for name in named if not str(name).startswith(_OURS)), None)
    if other is not None:
        raise ValueError(f"it names the class {other!r}, which is not of revgnn; if you trust it, pass own_code=True")


def _card(run: Experiment, info: GraphInfo, parameters: int, scores: Mapping[str, float]) -> str:
    """Return the model card: what the model reads and answers, its scores, and how to use it."""
    model = as_json(run)["model"]
    named = ", ".join(f"{key}={value}" for key, value in model.items() if isinstance(value, str | int | float))
    rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in scores.items())
    table = f"| score | value |\n|---|---:|\n{rows}" if rows else "No scores were given.\n"
    answers = ", ".join(info.class_names) if info.class_names else f"{info.num_outputs} outputs"
    return (
        f"---\nlibrary_name: revgnn\ntags: [graph-neural-network]\n---\n\n# A graph network for {info.name}\n\n"
        f"It reads {info.in_channels} feature columns of each node and answers {info.task_spec} ({answers}), "
        f"with {parameters:,} parameters.\n\n{table}\n"
        '```python\nimport revgnn\n\nmodel = revgnn.from_pretrained("this folder, or its id on the hub")\n'
        "table = model.predict(data)  # a torch_geometric.data.Data with x and edge_index\n```\n\n"
        f"Configuration: {named}.\n"
    )
