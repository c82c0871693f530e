"""The benchmarks compare like with like, refuse where tests are red, and report who fails; the document is fresh."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revgnn.data import GraphInfo
from revgnn.demo.picture import DARK
from revgnn.nn.model import GNN, build_model
from tolerances import relative_error

ROOT = Path(__file__).resolve().parents[2]
# The benchmarks are no part of the package: they are found from the root of the checkout, whatever started the suite.
sys.path.insert(0, str(ROOT))

from benchmarks import gate, run, table  # noqa: E402
from benchmarks.blocks import AUTOGRAD, measure_blocks  # noqa: E402
from benchmarks.clock import in_turns  # noqa: E402
from benchmarks.graphs import Task, make_task  # noqa: E402
from benchmarks.inference import WAYS, layerwise, measure_inference  # noqa: E402
from benchmarks.marks import CUDA_MARKS, MARKS, Mark  # noqa: E402
from benchmarks.needs import needs  # noqa: E402
from benchmarks.nets import PyGNet, own_net  # noqa: E402
from benchmarks.paper import config, gathered_bytes  # noqa: E402
from benchmarks.picture import draw_steps  # noqa: E402
from benchmarks.registry import (  # noqa: E402
    CAPTURES,
    CASES,
    ENTRANTS,
    GRAPHS,
    OPS,
    OTHER_PEERS,
    OWN,
    PAPERS,
    STEPS,
    Blocks,
    Inferring,
    OverDepth,
    cases_on,
)
from benchmarks.single_ops import _OPS  # noqa: E402
from benchmarks.steps import measure_over_depth, off_line  # noqa: E402
from benchmarks.trial import Settings, attempt, timed  # noqa: E402
from benchmarks.worker import measure  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*TypedStorage")

HIDDEN = 24
NAMES = {
    "gcn": {"lin.weight": "lin.weight", "lin.bias": "bias"},
    "sage": {"lin_l.weight": "lin_l.weight", "lin_l.bias": "lin_l.bias", "lin_r.weight": "lin_r.weight"},
    "gen": {
        "t": "aggr_module.t",
        "lins.0.weight": "mlp.0.weight",
        "lins.0.bias": "mlp.0.bias",
        "lin_edge.weight": "lin_edge.weight",
        "lin_edge.bias": "lin_edge.bias",
    },
    "gat": {"lin.weight": "lin.weight", "lin_root.weight": "res.weight", "attn_src": "att_src", "attn_dst": "att_dst"},
}
"""Our name of a parameter -> PyG's."""


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task("tiny")


# ---------------------------------------------------------------------- like with like
def _pairs(conv: str, ours: GNN, theirs: PyGNet) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Every parameter of ours with PyG's, in the order of ours."""
    found = {"encoder.weight": "encoder.weight", "encoder.bias": "encoder.bias"}
    found |= {f"head.{name}": name for name in ("norm.weight", "norm.bias", "lin.weight", "lin.bias")}
    for place in (f"{layer}.{group}" for layer in range(2) for group in range(2)):
        layer, group = place.split(".")
        mine, other = f"stack.layers.{place}", f"layers.{layer}.convs.{group}"
        found |= {f"{mine}.norm.{name}": f"{other}.norm.{name}" for name in ("weight", "bias")}
        found |= {f"{mine}.conv.{name}": f"{other}.conv.{twin}" for name, twin in NAMES[conv].items()}
    own = dict(ours.named_parameters())
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(p.numel() for p in own.values())
    return [(parameter, theirs.get_parameter(found[name])) for name, parameter in own.items()]


@pytest.mark.parametrize("rows", [False, True], ids=["edge_index", "csr"])
@pytest.mark.parametrize("name", STEPS)
def test_peers_are_the_same_network(name: str, rows: bool, task: Task) -> None:
    step = STEPS[name]
    ours = own_net(step, ENTRANTS["store"], task, layers=2, hidden=HIDDEN, dropout=0.0)
    entrant = ENTRANTS["pyg-csr" if rows else "pyg"]
    theirs = PyGNet(step, entrant, task, layers=2, hidden=HIDDEN, dropout=0.0)
    pairs = _pairs(step.conv, ours, theirs)
    for mine, other in pairs:
        other.data.copy_(mine.data.view_as(other))
    form = task.form(step.csr if rows else "edge_index", loops=not (rows and step.conv == "gcn"))
    form = form.double() if form.is_sparse_csr else form
    x, edge_attr = task.x.double(), task.edge_attr.double() if step.edge_features else None
    cotangent = torch.randn(task.num_nodes, task.num_classes, dtype=torch.float64)
    results = []
    for net, graph in ((ours, task.graph), (theirs, form)):
        out = net.double()(x, graph, edge_attr)
        kept = out.detach().clone()
        wanted = [pair[len(results)] for pair in pairs]
        results.append([kept, *torch.autograd.grad(out, wanted, cotangent)])
    for mine, other in zip(*results, strict=True):
        assert relative_error(other.view_as(mine), mine) < 1e-9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # read by the compiler
@pytest.mark.parametrize("name", [name for name, entrant in ENTRANTS.items() if entrant.compiled])
def test_a_compiled_peer_has_the_gradients_of_the_same_uncompiled(name: str, task: Task) -> None:
    grads = []
    for entrant in (ENTRANTS[name], replace(ENTRANTS[name], compiled=None)):
        torch.manual_seed(0)
        net = PyGNet(STEPS["revgcn"], entrant, task, layers=2, hidden=HIDDEN, dropout=0.0)
        nn.functional.cross_entropy(net(task.x, task.edge_index), task.y).backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    for mine, other in zip(*grads, strict=True):
        assert relative_error(mine, other) < 1e-5


def test_layer_by_layer_is_the_whole_graph(task: Task) -> None:
    net = PyGNet(STEPS["revsage"], ENTRANTS["pyg"], task, layers=3, hidden=HIDDEN).eval()
    with torch.no_grad():
        whole = net(task.x, task.edge_index)
    assert relative_error(layerwise(net, task, chunk=128), whole) < 1e-5


@pytest.mark.parametrize("name", OPS)
def test_peers_are_the_same_operation(name: str, task: Task) -> None:
    made = _OPS[OPS[name].op](replace(OPS[name], width=12), task)
    cotangent = torch.randn_like(made.own())

    def outputs(forward: Any) -> list[Tensor]:
        out = forward()
        return [out.detach(), *(torch.autograd.grad(out, made.inputs, cotangent) if made.inputs else ())]

    expected = outputs(made.own)
    assert made.peers
    for peer, forward in made.peers.items():
        for mine, other in zip(expected, outputs(forward), strict=True):
            assert relative_error(other, mine) < 2e-5, peer


def test_graphs_have_the_declared_sizes(task: Task) -> None:
    arxiv = GRAPHS["arxiv"]
    assert 2 * arxiv.num_pairs + arxiv.num_nodes == 2_484_941
    assert GRAPHS["arxiv8"].num_nodes == arxiv.num_nodes // 8
    assert GRAPHS["arxiv8"].num_pairs == arxiv.num_pairs // 8
    tiny = GRAPHS["tiny"]
    assert task.num_edges == 2 * tiny.num_pairs + tiny.num_nodes
    assert torch.unique(task.edge_index, dim=1).size(1) == task.num_edges
    assert task.graph.is_symmetric
    assert task.graph.edge_ids is None
    assert torch.equal(make_task("tiny").edge_index, task.edge_index)
    assert make_task("tiny", edges=0.5).num_edges == tiny.num_pairs + tiny.num_nodes


def test_entrants_take_turns() -> None:
    order = ""

    def note(letter: str) -> None:
        nonlocal order
        order += letter

    times = in_turns({"a": lambda: note("a"), "b": lambda: note("b")}, "cpu", repeats=2, warmup=1)
    assert order == "ababab"
    assert [len(taken.wall) for taken in times.values()] == [2, 2]
    assert len(in_turns({"a": lambda: note("a")}, "cpu", repeats=9, budget=1e-9)["a"].cpu) == 1


def test_straight_and_bent_growth() -> None:
    assert off_line([1, 2, 4], [3.0, 5.0, 9.0]) < 1e-12
    assert off_line([1, 2, 4], [1.0, 4.0, 16.0]) > 0.2


# ---------------------------------------------------------------------- the registry
def test_marks_and_cases_name_what_there_is() -> None:
    for mark in [*CUDA_MARKS, *MARKS]:
        assert mark.graph in CASES[mark.case].graphs
        if mark.figure[0] == "ratios":
            assert mark.figure[1] in {**STEPS, **OTHER_PEERS}[mark.case].against
    for name, case in CASES.items():
        assert needs(name)
        assert set(case.graphs) <= set(GRAPHS)
    assert {name for step in STEPS.values() for name in step.against} < set(ENTRANTS)


# ---------------------------------------------------------------------- for CUDA devices, as far as a CPU goes
def test_the_papers_sizes_are_for_cuda_alone() -> None:
    assert set(cases_on("cpu")) == set(CASES) - set(PAPERS) - set(CAPTURES)
    assert cases_on("cuda") == list(CASES)
    assert "test_triton.py::test_on_a_device[spmm weighted-*-float32]" in needs("paper-revgcn", "cuda")
    assert not any("test_ops" in test for test in needs("paper-revgcn", "cuda"))


@pytest.mark.parametrize(("name", "parameters"), [("paper-resgcn", 491_176), ("paper-revgen", 262_056)])
def test_rows_of_the_paper_have_its_parameters(name: str, parameters: int) -> None:
    net = build_model(config(PAPERS[name], PAPERS[name].layers), GraphInfo(in_channels=128, num_outputs=40))
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_of_the_paper_is_measured(name: str, task: Task) -> None:
    row = measure(name, "tiny", Settings(repeats=1, layers=3))
    paper = PAPERS[name]
    assert (row["paper_gb"], row["hidden"], row["layers"]) == (paper.paper_gb, paper.hidden, 3)
    assert set(row["ratios"]) == ({"pyg", "pyg-csr"} if paper.reversible else {"pyg-residual-csr"})
    # Weights with their gradients and moments at least (the stream is gone when the encoder's gradients come); not a
    # whole paper's memory.
    assert 4 * row["runs"][OWN]["parameters"] * 4 < row["peak_gb"] * 2**30 < 50e6
    passes = 3 if paper.reversible else 2
    assert gathered_bytes(paper, task, 3) == passes * 3 * task.num_edges * paper.hidden * 4
    assert row["of_ceiling"] > 0
    assert name in run.brief(row)


def test_a_captured_step_needs_a_device() -> None:
    row = measure("capture-revgen-edges", "tiny", Settings(repeats=1))
    assert row["runs"]["captured"]["skipped"] == "needs a CUDA device"
    assert "gain" not in row
    assert "captured skipped: needs a CUDA device" in run.brief(row)


@pytest.mark.gpu
def test_a_captured_step_trains() -> None:
    row = measure("capture-revgen-edges", "tiny", Settings(device="cuda", repeats=3))
    assert row["gain"] > 0


# ---------------------------------------------------------------------- depth, inference, other blocks
def test_steps_over_depth_are_measured_and_drawn(tmp_path: Path) -> None:
    row = measure_over_depth(OverDepth(step="revgcn", depths=(2, 6)), "tiny", Settings(repeats=1))
    own, reversible, stored = (
        [at["runs"][name]["peak_nd"] for at in row["points"]] for name in (OWN, "pyg-csr", "pyg-residual-csr")
    )
    assert own[1] < 1.2 * own[0]
    assert own[1] < reversible[1]
    assert stored[1] > 1.5 * stored[0]
    draw_steps(row, tmp_path / "steps.svg", DARK)
    text = (tmp_path / "steps.svg").read_text(encoding="utf-8")
    assert all(word in text for word in ("revgnn, reversible", "PyG, stored", "layers", DARK.paper))


def test_ways_of_inference_are_measured() -> None:
    row = measure_inference(Inferring(step="revsage", layers=3), "tiny", Settings(repeats=1))
    assert row["runs"].keys() == WAYS.keys()
    assert all(run["nodes_per_s"] > 0 for run in row["runs"].values())


def test_blocks_are_measured_fused_and_by_autograd() -> None:
    kinds = ("gcn", "sage-max")
    runs = measure_blocks(Blocks(kinds=kinds, layers=2), "tiny", Settings(repeats=1))["runs"]
    assert list(runs) == ["gcn", f"gcn {AUTOGRAD}", "sage-max"]
    fused, plain = (runs[name]["peak_nd"] for name in list(runs)[:2])
    assert fused < plain
    assert not runs["sage-max"]["is_fused"]


# ---------------------------------------------------------------------- no speed on a red gate
def test_the_gate(tmp_path: Path) -> None:
    file = tmp_path / "test_something.py"
    file.write_text(
        "import pytest\n\n@pytest.mark.parametrize('conv', ['gat', 'gcn'])\ndef test_conv(conv):\n"
        "    assert conv == 'gat'\n\ndef test_aggregate():\n    assert False\n",
        encoding="utf-8",
    )
    # Neither the other convolution nor a name with the three letters in it decides about this one.
    assert gate.check(("test_something.py::test_conv[gat]",), tmp_path).startswith("1 passed")
    with pytest.raises(gate.RedGateError, match=r"red: FAILED .*test_conv\[gcn\]"):
        gate.check(("test_something.py::test_conv[*]",), tmp_path)
    with pytest.raises(gate.RedGateError, match=r"no numerics test is named test_something.py::test_conv\[gen\]"):
        gate.check(("test_something.py::test_conv[gat]", "test_something.py::test_conv[gen]"), tmp_path)


def test_a_case_needs_its_own_convolution_norm_and_operations() -> None:
    found = " ".join(needs("revgcn"))
    for word in ("test_gcn_is_pygs", "[gcn-layer-2]", "[spmm weighted-", "[layer, mask-"):
        assert word in found
    for word in ("sage", "gat", "batch", "[gcn-layer-3]", "max"):
        assert word not in found
    assert "[gen-max-" not in " ".join(needs("revgen"))
    assert any("[gen edges max-" in test for test in needs("paper-revgnn-deep"))
    assert any("[gat-batch-2]" in test for test in needs("paper-revgat"))
    assert needs("spmm-64") == ("test_ops.py::test_value_and_every_gradient[spmm sum-*-float32]",)


@pytest.mark.slow
def test_every_test_that_a_case_needs_exists() -> None:
    every = {test for device in ("cpu", "cuda") for name in cases_on(device) for test in needs(name, device)}
    found = subprocess.run(
        [*gate.command(sorted(every)), "--collect-only"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_a_red_case_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    def red(needs: tuple[str, ...]) -> str:
        raise gate.RedGateError("its numerics tests are red: FAILED test_wrong")

    monkeypatch.setattr(gate, "check", red)
    out = tmp_path / "results.jsonl"
    assert run.main(["--case", "revgcn", "--graph", "tiny", "--out", str(out)]) == 1
    assert not out.exists()
    assert "revgcn on tiny refused: its numerics tests are red: FAILED test_wrong" in capsys.readouterr().err


# ---------------------------------------------------------------------- results
@pytest.mark.parametrize("case", ["revgen-edges", "spmm-64"])
def test_a_result_says_where_it_comes_from(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr(gate, "check", lambda needs: "1 passed")
    out = tmp_path / "results.jsonl"
    words = ["--case", case, "--graph", "tiny", "--threads", "1", "--repeats", "1", "--json", "--out", str(out)]
    assert run.main(words) == 0
    row = json.loads(out.read_text(encoding="utf-8"))
    assert row == json.loads(capsys.readouterr().out)
    assert set(row["versions"]) == {"python", "torch", "torch_geometric", "revgnn"}
    assert row["implementation"] in ("native", "reference")
    assert (row["threads"], row["numerics"], row["num_nodes"]) == (1, "1 passed", 400)
    assert row["machine"]["cores"] >= 1
    assert {"commit", "dirty", "date", "clock"} <= set(row)
    for name, entrant in row["runs"].items():
        assert 0 < entrant["min_s"] <= entrant["median_s"]
        assert entrant["peak_bytes"] > 0
        if name != OWN:
            assert row["ratios"][name] == pytest.approx(entrant["median_s"] / row["runs"][OWN]["median_s"])


def test_a_peer_that_fails_is_reported() -> None:
    def fail(found: dict[str, Any]) -> None:
        raise RuntimeError("no kernel\nand a trace")

    settings = Settings(memory_gb=1.0, excluded={"crashed": "the process was ended by SIGSEGV"})
    assert attempt("pyg", fail, settings, peer=True) == ({"failed": "RuntimeError: no kernel"}, None)
    assert attempt("crashed", fail, settings, peer=True)[0]["failed"] == "the process was ended by SIGSEGV"
    assert attempt("pyg", fail, settings, peer=True, need=2e9)[0]["skipped"].startswith("needs about 2.0 GB")
    found, made = attempt("pyg", fail, settings, peer=True, requires="a_module_that_is_not_there")
    assert (found["skipped"], made) == ("a_module_that_is_not_there is not installed", None)
    with pytest.raises(RuntimeError, match="no kernel"):
        attempt(OWN, fail, settings, peer=False)


def test_a_peer_may_fail_while_it_is_timed() -> None:
    calls: list[str] = []

    def second_fails() -> None:
        calls.append("pyg")
        if len(calls) == 2:
            raise MemoryError("no memory left")

    runs: dict[str, dict[str, Any]] = {OWN: {}, "pyg": {}}
    entrants = {OWN: lambda: None, "pyg": second_fails}
    times = timed(entrants, runs, Settings(repeats=3), ours=[OWN])
    assert list(times) == [OWN]
    assert len(times[OWN].wall) == 3
    assert calls == ["pyg"] * 2
    assert runs["pyg"] == {"failed": "MemoryError: no memory left"}
    calls.clear()
    with pytest.raises(MemoryError):
        timed(entrants, runs | {"pyg": {}}, Settings(repeats=3), ours=[OWN, "pyg"])


def test_a_peer_that_ends_the_process_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def ask(request: dict[str, Any]) -> tuple[list[dict[str, Any]], int, str]:
        asked.append(request["settings"]["excluded"])
        if len(asked) == 1:
            return [{"trying": OWN}, {"trying": "pyg"}], -11, ""
        return [{"trying": None}, {"result": {"case": "revgcn"}}], 0, ""

    monkeypatch.setattr(run, "_ask", ask)
    assert run.measure_apart("revgcn", "tiny", {"threads": 1}) == {"case": "revgcn"}
    assert asked[-1] == {"pyg": "the process was ended by SIGSEGV"}
    monkeypatch.setattr(run, "_ask", lambda request: ([{"trying": OWN}], -9, "Killed"))
    with pytest.raises(run.MeasurementError, match="revgcn on tiny: the process was ended by SIGKILL"):
        run.measure_apart("revgcn", "tiny", {"threads": 1})


# ---------------------------------------------------------------------- the table
def _write(folder: Path, *rows: dict[str, Any]) -> None:
    text = "".join(json.dumps({"device": "cpu", "graph": "arxiv8", **row}) + "\n" for row in rows)
    (folder / "cpu.jsonl").write_text(text, encoding="utf-8")


def _reached(folder: Path, case: str, figure: tuple[str, ...]) -> tuple[str, ...]:
    def wanted(mark: Mark) -> bool:
        return (mark.case, mark.graph, mark.figure) == (case, "arxiv8", figure)

    rows = dict(zip(MARKS, table.mark_rows(table.newest(folder)), strict=True))
    (found,) = (row for mark, row in rows.items() if wanted(mark))
    return found[3:]


def test_the_table_shows_the_newest_result(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {"case": "revgcn", "date": "2026-01-02", "ratios": {"pyg": 8.25}, "over_store": 1.5},
        {"case": "revgcn", "date": "2026-01-01", "ratios": {"pyg": 3.0}},
        {"case": "revgen", "date": "2026-01-01", "ratios": {}, "runs": {"pyg": {"failed": "RuntimeError: no"}}},
        {"case": "spmm-64", "date": "2026-01-01", "of_ceiling": 0.7},
        {"case": "no longer declared", "date": "2026-01-01"},
        {"case": "revsage", "date": "2026-01-01", "device": "cuda", "ratios": {"pyg": 9.0}},
    )
    assert _reached(tmp_path, "revgcn", ("ratios", "pyg")) == ("8.25 x faster", "≥ 8", "reached")
    assert _reached(tmp_path, "revgcn", ("over_store",)) == ("1.50 x as long", "≤ 1.45", "above")
    assert _reached(tmp_path, "revgen", ("ratios", "pyg")) == ("failed: RuntimeError: no", "≥ 8", "")
    assert _reached(tmp_path, "spmm-64", ("of_ceiling",)) == ("0.70 of it", "≥ 0.8", "below")
    assert _reached(tmp_path, "revsage", ("ratios", "pyg")) == (table.UNKNOWN, "≥ 4", "")


def test_blocks_without_results_say_so(tmp_path: Path) -> None:
    for name, block in table.BLOCKS.items():
        assert table.UNKNOWN in block(table.newest(tmp_path)), name


def test_the_document_is_fresh() -> None:
    text = table.DOCUMENT.read_text(encoding="utf-8")
    assert "<!-- generated: marks -->" in text
    assert text == table.filled(text, table.newest()), "run `python -m benchmarks.table --write`"
