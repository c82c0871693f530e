"""The kernels for CUDA: interpreted on the CPU at tiny shapes, compiled without a device, and run where there is one.

Values and every gradient, bits, the memory law, and the choice of the implementation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from op_cases import CASES, DTYPES, GRAPHS, NAMES, K, calls, check, custom_ops, results
from revgnn import ops
from revgnn.graph import Graph
from revgnn.measure import peak_memory, saved_bytes
from revgnn.ops import cpu, reference, triton
from tolerances import assert_close

pytestmark = [
    pytest.mark.skipif(not triton.AVAILABLE, reason=triton.STATE),
    pytest.mark.usefixtures("poison"),
]
interpreted = pytest.mark.skipif(
    not triton.interpreted(), reason="kernels are compiled here: TRITON_INTERPRET is not 1"
)


def _awkward() -> Graph:
    """Isolated nodes, a hub of more edges than a tile has on both sides, a path, repeated edges and self loops."""
    hub, leaves = torch.full((40,), 3), torch.arange(40) % 7
    some = torch.tensor([[0, 1, 1, 1, 5, 2, 8], [1, 2, 2, 2, 5, 8, 9]])
    return Graph.from_edge_index(torch.cat([torch.stack([hub, leaves]), torch.stack([leaves, hub]), some], 1), 12)


AWKWARD = _awkward()


# ---------------------------------------------------------------------- values and gradients, interpreted
def _every_case() -> list[tuple[str, str, int, torch.dtype]]:
    """(case, graph, width, dtype); 41 with edges and 131 are several blocks of columns, the last not full."""
    cases = []
    for name, case in CASES.items():
        widths = (1, 41) if "edges" in name else (1, 63, 131)
        cases += [(name, "awkward", width, torch.float32) for width in widths if width > name.startswith("layer")]
        cases += [(name, "awkward", 5, dtype) for dtype in (torch.float64, torch.bfloat16)]
        cases += [
            (name, graph, 5, torch.float32) for graph in ("no nodes", "no edges", "one loop")[: 3 * case.over_edges]
        ]
    return cases


@interpreted
@pytest.mark.parametrize(("name", "graph", "width", "dtype"), _every_case())
def test_value_and_every_gradient(
    name: str, graph: str, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one width rows are long, walked by programs of many warps, from 20 edges on: the hub's."""
    if width == 1:
        monkeypatch.setattr(import_module("revgnn.ops.triton.launch"), "LONG", 20)
    check(name, AWKWARD if graph == "awkward" else GRAPHS[graph], width, "triton", dtype)


@interpreted
@pytest.mark.parametrize("number", range(9))
def test_opcheck(number: int) -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 1, 0, 0]]), 4)
    op, arguments = list(custom_ops(graph))[number]
    with ops.using("triton"):
        opcheck(op.default, arguments)


# ---------------------------------------------------------------------- what a fused step uses
@interpreted
def test_spmm_adds_scales_strides_and_widens() -> None:
    nodes, wide = AWKWARD.num_nodes, torch.randn(AWKWARD.num_nodes, 20).bfloat16()
    x, src, dst, weight = wide[:, 3:16], torch.rand(nodes), torch.rand(nodes), torch.rand(AWKWARD.num_edges)
    out = torch.ones(nodes, 30)
    triton.spmm(
        x,
        cpu.forward_csr(AWKWARD),
        out=out[:, 10:23],
        weight=weight,
        src_scale=src,
        dst_scale=dst,
        accumulate=True,
    )
    expected = torch.ones(nodes, 30, dtype=torch.float64)
    with ops.using("reference"):
        expected[:, 10:23] += dst[:, None].double() * ops.spmm(x.double() * src[:, None], AWKWARD, weight.double())
    assert_close(out.double(), expected, dtype=torch.float32)


@interpreted
@pytest.mark.parametrize("kind", ["layer", "batch", "none"])
def test_norm_backward_adds_and_strides(kind: str) -> None:
    x, grad, wide = torch.randn(50, 13)[:, 2:9], torch.randn(50, 7), torch.ones(50, 10)
    mean, rstd = (torch.empty(50 if kind == "layer" else 7) for _ in range(2))
    if kind == "batch":
        triton.batch_stats(x, eps=1e-5, mean=mean, rstd=rstd)
    triton.norm_act_drop(x, kind=kind, out=torch.empty(50, 7), mean=mean, rstd=rstd)
    leaf = x.detach().clone().requires_grad_()
    with ops.using("reference"):
        (expected,) = torch.autograd.grad(ops.norm_act_drop(leaf, norm=kind), leaf, grad)  # type: ignore[arg-type]
    more = {"dweight": torch.empty(7), "dbias": torch.empty(7), "mean": mean, "rstd": rstd}
    triton.norm_act_drop_backward(grad, x, kind=kind, dx=wide[:, 1:8], accumulate=True, **more)
    assert_close(wide[:, 1:8], expected + 1)
    assert bool((wide[:, [0, 8, 9]] == 1).all())


@interpreted
def test_batch_statistics_survive_a_large_mean() -> None:
    x = torch.randn(300, 40) + 1e4
    mean, rstd, var = torch.empty(40), torch.empty(40), torch.empty(40)
    triton.batch_stats(x, eps=0.0, mean=mean, rstd=rstd, var=var)
    exact = x.double()
    assert_close(mean, exact.mean(0).float())
    assert_close(var, exact.var(0, correction=0).float())
    assert_close(rstd, exact.var(0, correction=0).rsqrt().float())


@interpreted
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**40 + 7, 2**63 - 1])
def test_a_mask_from_a_seed_is_the_references(seed: int) -> None:
    out = torch.empty(3, 50)
    triton.norm_act_drop(torch.ones(3, 50), kind="none", out=out, drop=cpu.Drop(p=0.5, seed=seed))
    expected = reference.keep_mask(seed, 150, 0.5, out.device)
    assert torch.equal(out > 0, expected.view(3, 50))
    with ops.using("triton"):
        assert torch.equal(ops.keep_mask(seed, 150, 0.5, out.device), expected)
        assert ops.keep_mask(seed, 0, 0.5, out.device).numel() == 0


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_nan_reaches_the_output() -> None:
    x = torch.zeros(AWKWARD.num_nodes, 20)
    x[int(AWKWARD.indices[0]), 3] = float("nan")
    hit = int(AWKWARD.destinations[0])
    attr, weight = torch.ones(AWKWARD.num_edges, K), torch.ones(20, K)
    with ops.using("triton"):
        assert ops.spmm(x, AWKWARD, reduce="max")[hit, 3].isnan()
        for reduce in ("softmax", "sum", "max"):
            assert ops.gen_aggr(x, AWKWARD, reduce=reduce)[hit, 3].isnan()
            assert ops.gen_aggr(x, AWKWARD, attr, weight, reduce=reduce)[hit, 3].isnan()
        values = x.view(AWKWARD.num_nodes, 2, 10)
        assert ops.attention(values, AWKWARD, torch.zeros(AWKWARD.num_nodes, 2))[hit, 0, 3].isnan()
        assert ops.norm_act_drop(x, norm="none")[int(AWKWARD.indices[0]), 3].isnan()


@interpreted
def test_minus_infinity_is_a_maximum() -> None:
    x = torch.full((AWKWARD.num_nodes, 2), -float("inf"), requires_grad=True)
    with ops.using("triton"):
        out = ops.spmm(x, AWKWARD, reduce="max")
        (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert int((out[:, 0] == -float("inf")).sum()) == int((AWKWARD.in_degree > 0).sum()) == int(grad[:, 0].sum())


@interpreted
@pytest.mark.parametrize("name", ["spmm", "max", "softmax", "edges softmax", "edges max", "attention"])
def test_nothing_per_edge_and_channel_is_made_or_saved(name: str) -> None:
    graph = Graph.from_edge_index(torch.randint(0, 2, (2, 300)), 2)
    call, leaves = calls(graph, 64)[name]
    per_edge = graph.num_edges * 64 * 4
    with ops.using("triton"):
        results(call, leaves)
        assert saved_bytes(lambda: call(*leaves)) < per_edge / 2
        assert peak_memory(lambda: results(call, leaves)) < per_edge


# ---------------------------------------------------------------------- without the interpreter
def _in_a_process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


_SUM = (
    "import logging; logging.basicConfig(level='INFO'); import torch\n"
    "from revgnn import ops\nfrom revgnn.graph import Graph\n"
    "graph = Graph.from_edge_index(torch.tensor([[0], [1]]), 2)\n"
    "for _ in range(2): print(ops.spmm(torch.ones(2, 1), graph).sum().item(), ops.implementation('cpu'))"
)


def test_the_environment_chooses() -> None:
    run = _in_a_process("-c", _SUM, REVGNN_OPS="triton", TRITON_INTERPRET="1")
    assert run.stdout.count("1.0 triton") == 2, run.stderr
    assert run.stderr.count("ops on cpu run on the kernels for Triton in its interpreter") == 1


def test_the_cpu_without_the_interpreter_is_an_error() -> None:
    run = _in_a_process("-c", _SUM, REVGNN_OPS="triton")
    assert "REVGNN_OPS=triton, but the tensors are on the CPU" in run.stderr
    assert run.stdout == ""


def test_triton_is_not_imported_before_it_is_needed() -> None:
    run = _in_a_process("-c", f"{_SUM}\nimport sys; print('triton' in sys.modules)")
    assert run.stdout.splitlines()[-1] == "False", run.stderr


def test_without_triton_a_cuda_device_runs_on_the_reference_and_says_so() -> None:
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'triton' else find(name, *more)\n"
        "from revgnn import ops; print(ops.implementation('cuda'))"
    )
    run = _in_a_process("-c", code)
    assert run.stdout.strip() == "reference", run.stderr
    assert "several times slower: triton is not installed" in run.stderr
    assert "triton is not installed" in _in_a_process("-c", code, REVGNN_OPS="triton").stderr


@pytest.mark.slow
def test_every_kernel_compiles_for_a_device_that_is_not_here(tmp_path: Path) -> None:
    """The interpreter is forgiving about types; the compiler is not, and needs no device."""
    script = Path(__file__).with_name("compile_kernels.py")
    run = _in_a_process(str(script), "90", TRITON_CACHE_DIR=str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    compiled = json.loads(run.stdout)
    assert set(compiled) == {*CASES, "keep mask"}
    assert {"_spmm", "_edge_dot"} <= set(compiled["spmm weighted"])
    assert all(compiled.values())


# ---------------------------------------------------------------------- on a device
_HUB = torch.stack([torch.arange(5000) % 900, torch.zeros(5000, dtype=torch.int64)])
LARGER = {
    "random": GRAPHS["random"],
    "star": GRAPHS["star"],
    "repeated": GRAPHS["repeated"],
    "hub": Graph.from_edge_index(torch.cat([_HUB, _HUB.flip(0)], 1), 1000),  # rows of more than 512 edges, both ways
}


def _every_larger_case() -> list[tuple[str, str, int]]:
    """(case, graph, width): every graph at one width, and every width on one graph."""
    shapes = [(graph, 80) for graph in LARGER] + [("random", width) for width in (1, 5, 63, 64, 112, 300)]
    return [(name, *shape) for name in CASES for shape in shapes if shape[1] > name.startswith("layer")]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("name", "graph", "width"), _every_larger_case())
def test_on_a_device(name: str, graph: str, width: int, dtype: torch.dtype) -> None:
    check(name, LARGER[graph], width, "auto", dtype, "cuda")


def _on_cuda(graph: Graph, width: int, name: str) -> tuple[object, list[Tensor]]:
    with torch.device("cuda"):
        call, leaves = calls(graph.to("cuda"), width)[name]
    return call, leaves


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in NAMES if name != "power"])
def test_the_same_bits_twice_on_a_device(name: str) -> None:
    call, leaves = _on_cuda(GRAPHS["random"], 80, name)
    assert ops.implementation("cuda") == "triton"
    for one, other in zip(results(call, leaves), results(call, leaves), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_break_on_a_device(name: str) -> None:
    torch.compiler.reset()
    call, leaves = _on_cuda(GRAPHS["random"], 8, name)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found, value in zip(results(compiled, leaves), results(call, leaves), strict=True):
        assert_close(found, value)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_nothing_per_edge_and_channel_is_made_or_saved_on_a_device(name: str) -> None:
    graph = Graph.from_edge_index(torch.randint(0, 100, (2, 20_000)), 100)
    call, leaves = _on_cuda(graph, 64, name)
    results(call, leaves)
    assert peak_memory(lambda: results(call, leaves), device="cuda") < graph.num_edges * 64 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(9))
def test_opcheck_on_a_device(number: int) -> None:
    with torch.device("cuda"):
        op, arguments = list(custom_ops(GRAPHS["random"].to("cuda")))[number]
    opcheck(op.default, arguments)
