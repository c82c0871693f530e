"""A trained network outside of the training: every block of docs/serving.md, and ONNX files of every convolution."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from revgnn import GraphInfo, ModelConfig, build_model
from revgnn.cli import main
from revgnn.nn.convs import GATOptions, GENOptions, SAGEOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
F, K, T = 5, 3, 4
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
# The exporter's own: it copies what it traces, and names its next version.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}
    threads = torch.get_num_threads()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    try:
        for language, block in blocks:
            if language == "sh":
                assert main(shlex.split(block)[1:]) == 0
            elif HAS_ONNX or "onnx" not in block:
                exec(compile(block, str(PAGE), "exec"), seen)
    finally:
        torch.set_num_threads(threads)
    assert len(blocks) == 10 and (seen["narrow"].argmax(1) == seen["logits"].argmax(1)).float().mean() > 0.9


def drawn(seed: int, nodes: int, edges: int) -> tuple[Tensor, Tensor]:
    """Features and edges with self loops, repeats, and nodes that receive none."""
    generator = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(nodes - 3, (2, edges), generator=generator)
    edge_index[:, 1:4] = edge_index[:, :1]
    edge_index[1, 5:7] = edge_index[0, 5:7]
    return torch.randn(nodes, F, generator=generator), edge_index


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gcn": ({"conv": "gcn", "norm": "batch"}, {}),
    "sage max": ({"conv": "sage", "sage": SAGEOptions(aggr="max"), "coupling": "residual", "backprop": "store"}, {}),
    "gen of edges": ({"conv": "gen", "norm": "graph"}, {"edge_channels": K}),
    "gen power, of graphs": (
        {"conv": "gen", "gen": GENOptions(aggr="power", degree_scale=True, msg_norm=True)},
        {"level": "graph"},
    ),
    "gat": ({"conv": "gat", "gat": GATOptions(heads=2, attn_dst=True, add_self_loops=True)}, {}),
}


@needs_onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_answers_for_other_graphs(name: str, tmp_path: Path) -> None:
    import onnxruntime

    choices, facts = NETWORKS[name]
    model = build_model(
        ModelConfig(num_layers=3, hidden_channels=16, **choices),
        GraphInfo(in_channels=F, num_outputs=T, **facts),
    )
    model(*drawn(3, 30, 90), *([torch.rand(90, K)] if facts.get("edge_channels") else [])).sum()
    model.eval()  # with statistics of a batch
    names = ["x", "graph", "edge_attr"][: 3 if facts.get("edge_channels") else 2]

    def arguments(seed: int, nodes: int, edges: int) -> dict[str, Tensor]:
        x, edge_index = drawn(seed, nodes, edges)
        return dict(zip(names, (x, edge_index, torch.rand(edges, K)), strict=False))

    nodes, edges = Dim("nodes"), Dim("edges")
    shapes = {"x": {0: nodes}, "graph": {1: edges}, "edge_attr": {0: edges}}
    file = torch.onnx.export(
        model,
        tuple(arguments(0, 20, 60).values()),
        dynamic_shapes={each: shapes[each] for each in names},
        input_names=names,
        verbose=False,
    )
    assert file is not None
    file.save(str(tmp_path / "model.onnx"))
    assert {node.domain for node in file.model.graph} == {""}  # standard operators alone
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for seed, count, number in ((0, 20, 60), (1, 33, 7), (2, 12, 200)):
        given = arguments(seed, count, number)
        with torch.no_grad():
            expected = model(**given)
        (found,) = session.run(None, {each: value.numpy() for each, value in given.items()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


@needs_onnx
def test_what_onnx_does_not_allow_is_said() -> None:
    model, given = (
        build_model(ModelConfig(num_layers=2, hidden_channels=8), in_channels=F, out_channels=T),
        drawn(0, 20, 60),
    )
    with pytest.raises(RuntimeError, match=r"call eval\(\)"):
        torch.onnx.export(model, given, verbose=False)
    tied = ModelConfig(
        num_layers=2, hidden_channels=8, coupling="residual", backprop="implicit", weight_tied=True
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="cannot follow an equilibrium"):
        torch.onnx.export(build_model(tied, in_channels=F, out_channels=T).eval(), given, verbose=False)
    with pytest.raises(RuntimeError, match=r"revgnn\.csr"):
        torch.onnx.export(torch.export.export(model.eval(), given), verbose=False)
