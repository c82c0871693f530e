"""Official checkpoints: logits and gradients of the definition, written out naively, and every weight used once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from revgnn.cli import main
from revgnn.interop import convert, from_official, load_converted
from tolerances import assert_close

N, E, SPECIES, K, T = 30, 150, 8, 8, 11


def official_weights(
    layers: int = 3,
    width: int = 12,
    groups: int = 2,
    mlp_layers: int = 2,
    species: int = SPECIES,
    dtype: torch.dtype = torch.double,
) -> dict[str, Tensor]:
    """Random weights under the official names."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        weights[f"{name}.bias"] = torch.randn(outputs, generator=generator)

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(size, generator=generator)
        weights[f"{name}.bias"] = 0.2 * torch.randn(size, generator=generator)

    if species:
        linear("node_one_hot_encoder", species, species)
    linear("node_features_encoder", 8 + species, width)
    linear("edge_encoder", K, width)
    d = width // groups
    sizes = [d] + [2 * d] * (mlp_layers - 1) + [d]
    for layer in range(layers):
        for group in range(groups):
            name = f"gcns.{layer}._fn.Fms.{group}"
            norm(f"{name}.norm", d)
            for k in range(mlp_layers):
                linear(f"{name}.gcn.mlp.{3 * k}", sizes[k], sizes[k + 1])
                if k < mlp_layers - 1:
                    norm(f"{name}.gcn.mlp.{3 * k + 1}", sizes[k + 1])
            linear(f"{name}.gcn.edge_encoder", width, d)
    norm("last_norm", width)
    linear("node_pred_linear", width, T)
    return {name: weight.to(dtype) for name, weight in weights.items()}


def inputs(dtype: torch.dtype = torch.double, species: int = SPECIES) -> tuple[Tensor, Tensor, Tensor]:
    """Features and one-hot species, edges (the last five nodes receive none, some edges come twice), edge features."""
    generator = torch.Generator().manual_seed(1)
    summed = 10 * torch.rand(N, 8, generator=generator)
    one_hot = torch.nn.functional.one_hot(torch.randint(SPECIES, (N,), generator=generator), SPECIES)[:, :species]
    edge_index = torch.stack(
        [torch.randint(N, (E,), generator=generator), torch.randint(N - 5, (E,), generator=generator)]
    )
    edge_index[:, :7] = edge_index[:, 7:14]
    x = torch.cat([summed, one_hot.float()], dim=1)
    return x.to(dtype), edge_index, torch.rand(E, K, generator=generator).to(dtype)


def definition(weights: dict[str, Tensor], x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
    """The official network without dropout, node by node and weight by weight."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        centred = h - h.mean(1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gen(name: str, h: Tensor, edges: Tensor) -> Tensor:
        messages = (h[edge_index[0]] + linear(f"{name}.edge_encoder", edges)).relu() + 1e-7
        rows = []
        for node in range(N):
            incoming = messages[edge_index[1] == node]
            rows.append(incoming.max(0).values if len(incoming) else torch.zeros_like(h[0]))
        out, k = h + torch.stack(rows), 0
        while f"{name}.mlp.{k + 1}.weight" in weights:
            out, k = norm(f"{name}.mlp.{k + 1}", linear(f"{name}.mlp.{k}", out)).relu(), k + 3
        return linear(f"{name}.mlp.{k}", out)

    if "node_one_hot_encoder.weight" in weights:
        x = torch.cat([x[:, :8], linear("node_one_hot_encoder", x[:, 8:])], dim=1)
    h, edges = linear("node_features_encoder", x), linear("edge_encoder", edge_attr)
    names = [name.split(".") for name in weights if name.startswith("gcns.")]
    layers, groups = 1 + max(int(n[1]) for n in names), 1 + max(int(n[4]) for n in names)
    for layer in range(layers):
        parts = list(h.chunk(groups, dim=1))
        y = sum(parts[2:], parts[1])
        for group in range(groups):
            name = f"gcns.{layer}._fn.Fms.{group}"
            y = parts[group] = parts[group] + gen(f"{name}.gcn", norm(f"{name}.norm", y).relu(), edges)
        h = torch.cat(parts, dim=1)
    return linear("node_pred_linear", norm("last_norm", h).relu())


SHAPES = [{}, {"groups": 3, "layers": 5}, {"groups": 4, "mlp_layers": 1}, {"mlp_layers": 3}, {"species": 0}]


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_and_gradients_are_those_of_the_definition(shape: dict[str, int], dtype: torch.dtype) -> None:
    weights = official_weights(**shape, dtype=dtype)
    x, edge_index, edge_attr = inputs(dtype, shape.get("species", SPECIES))
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    x_leaf, edge_leaf = x.clone().requires_grad_(), edge_attr.clone().requires_grad_()
    expected = definition(leaves, x_leaf, edge_index, edge_leaf)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected.backward(cotangent)

    network = from_official(weights, dropout=0.0)
    x.requires_grad_()
    edge_attr.requires_grad_()
    found = network(x, edge_index, edge_attr)
    found.backward(cotangent)

    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.double else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **tolerance)
    # Gradients have the shapes of weights, so they are translated as weights are.
    gradients = from_official({name: leaf.grad for name, leaf in leaves.items()}).state_dict()
    # A small gradient may be the difference of large terms: its error is measured by a hundredth of the largest then.
    floor = 0.01 * max(float(gradients[name].norm()) for name, _ in network.named_parameters())
    for name, parameter in network.named_parameters():
        error = float((parameter.grad - gradients[name]).norm())
        assert error <= tolerance["rtol"] * max(float(gradients[name].norm()), floor), name
    for actual, leaf in ((x.grad, x_leaf.grad), (edge_attr.grad, edge_leaf.grad)):
        assert float((actual - leaf).norm()) <= tolerance["rtol"] * float(leaf.norm())


def test_every_weight_is_used_once() -> None:
    weights = {name: torch.full_like(w, k) for k, (name, w) in enumerate(official_weights().items(), start=1)}
    found = sorted(float(w.unique()) for w in from_official(weights).state_dict().values())
    assert found == [float(k) for k in range(1, len(weights) + 1)]


def test_the_published_size_is_recognised() -> None:
    network = from_official(official_weights(layers=14, width=80, dtype=torch.float))
    per_layer = 2 * 10_000
    assert sum(p.numel() for p in network.parameters()) == 14 * per_layer + 160 + 11_224 - (112 - T) * 81
    assert network.stack.backprop == "reversible" and network.mask_dropout == 0.1


def test_checkpoints_come_wrapped() -> None:
    weights = official_weights()
    wrapped = {"epoch": 3, "model_state_dict": {f"module.{name}": w for name, w in weights.items()}}
    for name, value in from_official(weights).state_dict().items():
        assert torch.equal(from_official(wrapped).state_dict()[name], value)


def change(weights: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {**weights, name: value}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "expected a state dict of tensors"),
        ({"a.weight": torch.ones(2)}, "missing: node_features_encoder.weight, edge_encoder.weight, node_pred_linear"),
        ({"epoch": 3, **official_weights()}, "epoch must be a floating-point tensor, got int"),
        (change(official_weights(), "gcns.0._fn.Fms.0.gcn.t", torch.ones(1)), r"not known: gcns.0._fn.Fms.0.gcn.t$"),
        (
            {k: v for k, v in official_weights().items() if k not in ("last_norm.bias", "gcns.1._fn.Fms.1.norm.bias")},
            "missing: gcns.1._fn.Fms.1.norm.bias, last_norm.bias$",
        ),
        (
            {k: v for k, v in official_weights().items() if not k.startswith("gcns.")},
            "expected weights named gcns.0._fn.Fms.0.gcn.mlp.0.weight",
        ),
        (
            change(official_weights(), "gcns.2._fn.Fms.1.gcn.mlp.3.weight", torch.ones(6, 7).double()),
            r"gcns.2._fn.Fms.1.gcn.mlp.3.weight must have shape \[6, 12\] in a network of 3 layers, 12 channels and 2",
        ),
        (change(official_weights(), "edge_encoder.weight", torch.ones(3).double()), "must be matrices"),
        (change(official_weights(), "last_norm.bias", torch.ones(12)), "one dtype, got .*float32.*float64"),
        (change(official_weights(), "gcns.9._fn.Fms.0.norm.bias", torch.ones(6).double()), r"missing: .* and \d+ more"),
        (change(official_weights(width=12), "node_features_encoder.weight", torch.ones(13, 16)), "hidden_channels=13"),
    ],
)
def test_other_state_dicts_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_official(wrong)


def test_a_converted_checkpoint_is_the_same_network(tmp_path: Path) -> None:
    weights = official_weights(dtype=torch.float)
    torch.save({"epoch": 1, "model_state_dict": weights, "loss": 0.5}, tmp_path / "official.pth")
    facts = convert(tmp_path / "official.pth", tmp_path / "out" / "deep", dropout=0.2)
    assert (facts.num_layers, facts.hidden_channels, facts.num_groups, facts.out_channels) == (3, 12, 2, T)
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == ["model.json", "model.safetensors"]
    network = load_converted(tmp_path / "out" / "deep")
    assert network.mask_dropout == 0.2
    batch = inputs(torch.float)
    assert_close(network.eval()(*batch), from_official(weights).eval()(*batch))
    with pytest.raises(FileExistsError, match="choose another folder"):
        convert(tmp_path / "official.pth", tmp_path / "out" / "deep")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a checkpoint ran code",))


@pytest.mark.parametrize("content", ["code", "text", "cut", "list"])
def test_what_is_no_checkpoint_is_not_read(content: str, tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    if content == "code":
        torch.save({"model_state_dict": Harmful()}, path)
    elif content == "text":
        path.write_text("weights")
    elif content == "cut":
        torch.save(official_weights(), path)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"official.pth must (be a checkpoint that holds only tensors|hold a state)"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_checkpoint_is_named_whichever_byte_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    torch.save({"last_norm.bias": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="."):
            convert(path, tmp_path / "out")


def test_a_pickle_without_a_zip_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(ValueError, match="holds only tensors"):
        convert(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        ({"format": 2}, "format must be 1"),
        ({"num_layers": 2}, "not known: stack.layers.2"),
        ({"hidden_channels": 13}, "hidden_channels=13 must be divisible"),
        ({"shape": 1}, "unexpected keyword argument 'shape'"),
    ],
)
def test_a_folder_that_was_changed_is_refused(change_of: dict[str, int], message: str, tmp_path: Path) -> None:
    torch.save(official_weights(), tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    (tmp_path / "out" / "model.json").write_text(json.dumps({**facts, **change_of}))
    with pytest.raises(ValueError, match=f"does not hold a converted model: .*{message}"):
        load_converted(tmp_path / "out")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="model.json"):
        load_converted(tmp_path)


def test_the_command_line_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep.pth"
    torch.save(official_weights(), path)
    assert main(["convert", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_layers"] == 3
    assert load_converted(tmp_path / "deep").stack.num_layers == 3
    assert main(["convert", str(path), "--out", str(tmp_path / "other"), "--dropout", "0.2"]) == 0
    assert "hidden_channels       12" in capsys.readouterr().out
    for words, message in [
        ([str(path)], "the file exists already; choose another folder"),
        ([str(tmp_path / "none.pth")], "none.pth: No such file or directory"),
        ([str(tmp_path / "deep")], "name the folder to write with --out"),
    ]:
        assert main(["convert", *words]) == 2
        assert message in capsys.readouterr().err
