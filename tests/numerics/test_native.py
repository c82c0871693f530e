"""The compiled kernels below the ops: every instruction set, the work-space arguments, bits, and the memory law."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from op_cases import NAMES, K, calls, custom_ops, leaf, results
from revgnn import ops
from revgnn.graph import Graph
from revgnn.measure import peak_memory, saved_bytes
from revgnn.ops import cpu, reference
from revgnn.ops.cpu import abi
from tolerances import assert_close

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "revgnn_kernels.h"
NUM_NODES, NUM_EDGES = 63, 500


@pytest.fixture
def graph() -> Graph:
    return Graph.from_edge_index(torch.randint(0, NUM_NODES - 3, (2, NUM_EDGES)), NUM_NODES)


@pytest.fixture
def any_isa() -> Iterator[None]:
    """Whatever instruction set a test chooses, the best one runs after it."""
    before = cpu.isa()
    yield
    cpu.use_isa(before)


@pytest.fixture
def any_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _runs(isa: str) -> bool:
    before = cpu.isa()
    try:
        cpu.use_isa(isa)
    except ValueError:
        return False
    cpu.use_isa(before)
    return True


# ---------------------------------------------------------------------- the interface
def test_structs_mirror_the_header() -> None:
    """Field by field, and of the size that C gives them, with the graph as a struct within."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.search(r"REVGNN_ABI_VERSION (\d+)", text)[1] == str(abi.VERSION)
    structs = re.findall(r"typedef struct \{(.*?)\} revgnn_(\w+);", text, flags=re.DOTALL)
    made: dict[str, type[ctypes.Structure]] = {}
    for body, name in structs:
        fields = re.findall(r"(\S.*?)\s*(\*?)(\w+);", body)
        kinds = [ctypes.c_void_p if star else _C_TYPES.get(kind, made.get("csr")) for kind, star, _ in fields]
        entries = list(zip((field for *_, field in fields), kinds, strict=True))
        made[name] = type(name, (ctypes.Structure,), {"_fields_": entries})
    kernels = re.findall(r"^  K\((\w+)\)", text, flags=re.MULTILINE)
    assert sorted(kernels) == sorted(abi.FORMATS)
    for kernel, code in abi.FORMATS.items():
        kinds = [_CODES.get(kind, "qqPPP") for _, kind in made[f"{kernel}_args"]._fields_]
        assert "".join(kinds) == code, kernel
        assert struct.calcsize(f"@{code}0q") == ctypes.sizeof(made[f"{kernel}_args"]), kernel


_C_TYPES = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
}
_CODES = dict(zip([*_C_TYPES.values(), ctypes.c_void_p], "iIqQdP", strict=True))


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="'mmx' cannot run here; in use is"):
        cpu.use_isa("mmx")


# ---------------------------------------------------------------------- choice of the implementation
def test_the_choice_can_be_changed_for_a_while(graph: Graph) -> None:
    with ops.using("reference"):
        assert ops.implementation("cpu") == "reference"
    with ops.using("auto"):
        assert ops.implementation("cpu") == "native"
        assert ops.implementation(torch.device("meta")) == "reference"


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="must be one of auto, native, triton, reference, got 'fast'"),
        ops.using("fast"),
    ):
        pass


def _in_a_process(code: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


def test_the_environment_chooses() -> None:
    code = "from revgnn import ops; print(ops.implementation('cpu'))"
    assert _in_a_process(code, REVGNN_OPS="reference").strip() == "reference"
    assert "REVGNN_OPS must be one of auto, native, triton, reference, got 'fast'" in _in_a_process(
        code, REVGNN_OPS="fast"
    )


def test_without_the_library_the_reference_runs_and_says_so_once() -> None:
    code = (
        "import pathlib, torch; pathlib.Path.is_file = lambda self: False\n"
        "from revgnn import ops\nfrom revgnn.graph import Graph\n"
        "graph = Graph.from_edge_index(torch.tensor([[0], [1]]), 2)\n"
        "for _ in range(2): print(ops.spmm(torch.ones(2, 1), graph).sum().item(), ops.implementation('cpu'))"
    )
    said = _in_a_process(code, REVGNN_OPS="auto")
    assert said.count("1.0 reference") == 2
    assert said.count("ops on cpu run on the reference implementation") == 1
    assert "the compiled kernels are not installed" in _in_a_process(code, REVGNN_OPS="native")


@pytest.mark.parametrize("width", [1, 5, 8, 16, 63, 300])
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16"])
def test_every_instruction_set_agrees_with_the_reference(isa: str, width: int, graph: Graph, any_isa: None) -> None:
    if not _runs(isa):
        pytest.skip(f"this machine or build has no {isa}")
    for name, (call, leaves) in calls(graph, width).items():
        if name == "layer" and width == 1:
            continue  # one channel minus its mean is rounding noise
        with ops.using("reference"):
            expected = results(lambda *leaves: call(*(leaf.double() for leaf in leaves)), leaves)  # noqa: B023
        cpu.use_isa(isa)
        for found, value in zip(results(call, leaves), expected, strict=True):
            scale = max(1.0, float(value.abs().max()), NUM_EDGES**0.5)
            assert_close(found.double() / scale, value.double() / scale, dtype=torch.float32)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "power"])  # whose gradient of p is torch's own sum
def test_the_same_bits_twice_and_with_any_number_of_threads(name: str, any_threads: None) -> None:
    graph = Graph.from_edge_index(torch.randint(0, 1000, (2, 8000)), 1000)
    call, leaves = calls(graph, 40)[name]
    every = []
    for threads in (1, 1, 2, 5):
        torch.set_num_threads(threads)
        every.append(results(call, leaves))
    for other in every[1:]:
        assert all(torch.equal(a, b) for a, b in zip(every[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_per_edge_and_channel_is_made_or_saved(name: str) -> None:
    graph = Graph.from_edge_index(torch.randint(0, 100, (2, 20_000)), 100)
    _ = graph.reverse
    width, call, leaves = 64, *calls(graph, 64)[name]
    per_edge = graph.num_edges * width * 4
    small = 3 * graph.num_edges * max(K, 8) * 4 + 20 * graph.num_nodes * 2 * width * 4
    assert small < per_edge
    results(call, leaves)
    assert saved_bytes(lambda: call(*leaves)) < small
    assert peak_memory(lambda: results(call, leaves)) < small


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_break(name: str, graph: Graph) -> None:
    torch.compiler.reset()
    call, leaves = calls(graph, 8)[name]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found, value in zip(results(compiled, leaves), results(call, leaves), strict=True):
        assert_close(found, value)


# ---------------------------------------------------------------------- custom ops
@pytest.mark.parametrize("number", range(9))
def test_opcheck(number: int, graph: Graph) -> None:
    op, arguments = list(custom_ops(graph))[number]
    opcheck(op.default, arguments)


def test_a_missing_reverse_is_made_inside_a_compiled_function(graph: Graph) -> None:
    torch.compiler.reset()
    x = leaf(NUM_NODES, 3)
    compiled = torch.compile(lambda x: ops.spmm(x, graph), fullgraph=True, backend="aot_eager")
    assert "reverse" not in graph.__dict__
    (found,) = torch.autograd.grad(compiled(x).sum(), [x])
    (expected,) = torch.autograd.grad(reference.spmm(x, graph).sum(), [x])
    assert_close(found, expected)


# ---------------------------------------------------------------------- what a fused step uses
def test_spmm_adds_scales_and_strides(graph: Graph) -> None:
    wide = torch.randn(NUM_NODES, 20)
    x, src, dst, weight = wide[:, 3:16], torch.rand(NUM_NODES), torch.rand(NUM_NODES), torch.rand(NUM_EDGES)
    out = torch.ones(NUM_NODES, 30)
    cpu.spmm(
        x,
        cpu.forward_csr(graph),
        out=out[:, 10:23],
        weight=weight,
        src_scale=src,
        dst_scale=dst,
        accumulate=True,
    )
    expected = torch.ones(NUM_NODES, 30, dtype=torch.float64)
    expected[:, 10:23] += dst[:, None].double() * reference.spmm(x.double() * src[:, None], graph, weight.double())
    assert_close(out.double(), expected, dtype=torch.float32)


def test_spmm_reads_half_precision_into_float32(graph: Graph) -> None:
    x, out = torch.randn(NUM_NODES, 33).bfloat16(), torch.empty(NUM_NODES, 33)
    cpu.spmm(x, cpu.forward_csr(graph), out=out)
    assert_close(out.double(), reference.spmm(x.double(), graph), dtype=torch.float32)


def test_norm_writes_half_precision_from_float32() -> None:
    x, out = torch.randn(50, 33), torch.empty(50, 33, dtype=torch.bfloat16)
    cpu.norm_act_drop(x, kind="layer", out=out)
    assert_close(out, reference.norm_act_drop(x).bfloat16())


@pytest.mark.parametrize("kind", ["layer", "batch", "none"])
@pytest.mark.parametrize("width", [7, 33, 63])
def test_norm_backward_adds(kind: str, width: int) -> None:
    x, grad = torch.randn(50, width), torch.randn(50, width)
    mean, rstd = torch.empty(width), torch.empty(width)
    if kind == "layer":
        mean, rstd = torch.empty(50), torch.empty(50)
    elif kind == "batch":
        cpu.batch_stats(x, eps=1e-5, mean=mean, rstd=rstd)
    out, dweight, dbias = torch.empty(50, width), torch.empty(width), torch.empty(width)
    cpu.norm_act_drop(x, kind=kind, out=out, mean=mean, rstd=rstd)
    fresh, added = torch.empty(50, width), torch.ones(50, width)
    for dx, accumulate in ((fresh, False), (added, True)):
        cpu.norm_act_drop_backward(
            grad,
            x,
            kind=kind,
            dx=dx,
            dweight=dweight,
            dbias=dbias,
            mean=mean,
            rstd=rstd,
            accumulate=accumulate,
        )
    assert_close(added, fresh + 1)


def test_batch_statistics_survive_a_large_mean() -> None:
    x = torch.randn(1000, 40) + 1e4
    mean, rstd, var = torch.empty(40), torch.empty(40), torch.empty(40)
    cpu.batch_stats(x, eps=0.0, mean=mean, rstd=rstd, var=var)
    exact = x.double()
    assert_close(mean, exact.mean(0).float())
    assert_close(var, exact.var(0, correction=0).float())
    assert_close(rstd, exact.var(0, correction=0).rsqrt().float())


@pytest.mark.parametrize("scratch", [True, False])
@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize("temperature", [1.0, -0.5])
def test_softmax_backward_by_node_and_by_edge(scratch: bool, spread: float, temperature: float, graph: Graph) -> None:
    """Beyond a spread of 60 the way by node would leave float32's range: the kernel must notice by itself."""
    x, grad = torch.randn(NUM_NODES, 20) * spread, torch.randn(NUM_NODES, 20)
    t, y, lse, dx, dt = torch.full((20,), temperature), *(torch.empty(NUM_NODES, 20) for _ in range(3)), torch.empty(20)
    cpu.gen_aggr(x, cpu.forward_csr(graph), reduce="softmax", out=y, t=t, lse=lse)
    cpu.gen_aggr_backward(
        grad,
        x,
        cpu.reverse_csr(graph),
        reduce="softmax",
        dx=dx,
        t=t,
        dt=dt,
        y=y,
        lse=lse,
        scratch=torch.empty(NUM_NODES, 40) if scratch else None,
    )
    exact, exact_t = x.double().requires_grad_(), t.double().requires_grad_()
    expected = torch.autograd.grad(reference.gen_aggr(exact, graph, t=exact_t), [exact, exact_t], grad.double())
    # Logits of this size have spread * 1e-7 of rounding; d t sums their products with messages over the nodes.
    for found, value, scale in zip((dx, dt), expected, (spread, spread**2 * NUM_NODES**0.5), strict=True):
        scale *= float(expected[0].abs().max())
        assert_close(found.double() / scale, value / scale, dtype=torch.float32)


def test_a_nan_reaches_the_output(graph: Graph) -> None:
    """A kernel that compared it away would hide a diverged run."""
    x = torch.zeros(NUM_NODES, 20)
    x[int(graph.indices[0]), 3] = float("nan")
    hit = int(graph.destinations[0])
    attr, weight = torch.ones(NUM_EDGES, K), torch.ones(20, K)
    assert ops.spmm(x, graph, reduce="max")[hit, 3].isnan()
    for reduce in ("softmax", "sum", "max"):
        assert ops.gen_aggr(x, graph, reduce=reduce)[hit, 3].isnan()
        assert ops.gen_aggr(x, graph, attr, weight, reduce=reduce)[hit, 3].isnan()
    assert ops.attention(x.view(NUM_NODES, 2, 10), graph, torch.zeros(NUM_NODES, 2))[hit, 0, 3].isnan()
    assert ops.norm_act_drop(x, norm="none")[int(graph.indices[0]), 3].isnan()


def test_a_mask_from_a_seed_is_the_references_beyond_32_bits() -> None:
    """Rows so far apart that positions pass 2^32 cannot be made here; the carry into the upper word can."""
    x = torch.ones(3, 50)
    for seed in (0, 1, 2**32 - 1, 2**63 - 1):
        out = torch.empty(3, 50)
        cpu.norm_act_drop(x, kind="none", out=out, drop=cpu.Drop(p=0.5, seed=seed))
        assert torch.equal(out > 0, ops.keep_mask(seed, 150, 0.5, x.device).view(3, 50))


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_check_without_python_agrees_on_every_instruction_set(tmp_path: Path) -> None:
    """The program that `make aarch64` runs in an emulator."""
    program, library = tmp_path / "check", cpu.STATE
    source = HEADER.parents[1] / "tests" / "kernels" / "check_kernels.cpp"
    words = ["g++", "-O1", "-fopenmp", f"-I{HEADER.parent}", str(source), library, "-o", str(program)]
    subprocess.run([*words, f"-Wl,-rpath,{Path(library).resolve().parent}"], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "0 failed" and f"{cpu.isa()}: 168 comparisons" in done.stdout
