"""What reaches a kernel: every operand of every op, wrong in every way or right in an unusual one, everywhere.

What is wrong raises the same error everywhere; what is right and no dense memory of its own gives the right result.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from op_cases import K
from revgnn import ops
from revgnn.graph import Graph
from revgnn.ops import cpu, triton
from tolerances import assert_close

IMPLEMENTATIONS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)),
    pytest.param("triton", marks=pytest.mark.skipif(not triton.interpreted(), reason="Triton's kernels are compiled")),
]
N, E, D, H, F = 9, 20, 6, 2, 3


@pytest.fixture
def graph() -> Graph:
    batch = torch.arange(N) // 5
    return Graph.from_edge_index(torch.randint(0, N, (2, E)), N, batch=batch)


Call = tuple[Callable[..., Any], dict[str, Tensor]]


def _calls() -> dict[str, Call]:
    """Every op with every operand that it can have: name -> (function of a graph and operands, operands)."""
    x, row, values = torch.randn(N, D), torch.rand(D) + 0.5, torch.randn(N, H, F)
    affine = {"weight": row, "bias": torch.randn(D)}
    edges = {"edge_attr": torch.randn(E, K), "weight": torch.randn(D, K), "bias": torch.randn(D)}
    scores = {"score_src": torch.randn(N, H), "score_dst": torch.randn(N, H)}
    mask = torch.rand(N, D) > 0.3

    def batch(g: Graph, x: Tensor, mean: Tensor, var: Tensor, **more: Any) -> Tensor:
        return ops.norm_act_drop(x, norm="batch", stats=(mean, var), p=0.3, **more)

    return {
        "spmm": (lambda g, x, weight: ops.spmm(x, g, weight), {"x": x, "weight": torch.randn(E)}),
        "spmm max": (lambda g, x: ops.spmm(x, g, reduce="max"), {"x": x}),
        "gen_aggr": (lambda g, x, t: ops.gen_aggr(x, g, t=t), {"x": x, "t": row}),
        "gen_aggr power": (lambda g, x, p: ops.gen_aggr(x, g, reduce="power", p=p), {"x": x, "p": torch.tensor([2.0])}),
        "gen_aggr edges": (
            lambda g, x, edge_attr, weight, bias, t: ops.gen_aggr(x, g, edge_attr, weight, bias, t=t),
            {"x": x, **edges, "t": torch.tensor([0.7])},
        ),
        "gen_aggr edges max": (
            lambda g, x, edge_attr, weight, bias: ops.gen_aggr(x, g, edge_attr, weight, bias, reduce="max"),
            {"x": x, **edges},
        ),
        "gen_aggr wide edges": (
            lambda g, x, edge_attr: ops.gen_aggr(x, g, edge_attr),
            {"x": x, "edge_attr": torch.randn(E, D)},
        ),
        "attention": (
            lambda g, x, score_src, score_dst, keep: ops.attention(x, g, score_src, score_dst, keep=keep),
            {"x": values, **scores, "keep": torch.rand(E) > 0.3},
        ),
        "attention_scores": (
            lambda g, x, attn_src, attn_dst: torch.cat(ops.attention_scores(x, attn_src, attn_dst)),
            {"x": values, "attn_src": torch.randn(H, F), "attn_dst": torch.randn(1, H, F)},
        ),
        "layer": (lambda g, x, **more: ops.norm_act_drop(x, p=0.3, **more), {"x": x, **affine, "mask": mask}),
        "batch": (batch, {"x": x, "mean": torch.randn(D), "var": row, **affine, "mask": mask}),
        "graph": (
            lambda g, x, **more: ops.norm_act_drop(x, norm="graph", graph=g, p=0.3, **more),
            {"x": x, **affine, "mean_scale": torch.rand(D), "mask": mask},
        ),
        "pool": (lambda g, x: ops.pool(x, g), {"x": x}),
    }


torch.manual_seed(0)
OPERANDS = [(name, operand) for name, (_, operands) in _calls().items() for operand in operands]
ANY_WIDTH = {("spmm", "weight"), ("gen_aggr", "t"), ("gen_aggr edges", "t"), ("gen_aggr power", "p")}
ANY_WIDTH |= {(name, "x") for name in ("spmm max", "gen_aggr", "gen_aggr power", "pool")}  # nothing else is narrower


def _fault(kind: str, value: Tensor) -> tuple[Tensor, type[Exception]]:
    if kind == "elsewhere":
        return value.to("meta"), RuntimeError
    if kind == "another type":
        return (value.float() if value.dtype == torch.bool else value.long()), TypeError
    if kind == "complex":
        return value.to(torch.complex64), TypeError
    if kind == "too long":
        return torch.cat([value, value]), ValueError
    if kind == "too short":
        return value[:-1], ValueError
    return value.unsqueeze(0).unsqueeze(-1).expand(-1, *value.shape, 2), ValueError


@pytest.mark.parametrize("kind", ["elsewhere", "another type", "complex", "too long", "too short", "more dimensions"])
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_wrong_operand_is_an_error(
    name: str, operand: str, kind: str, implementation: ops.Choice, graph: Graph
) -> None:
    call, operands = _calls()[name]
    if (kind, operands[operand].numel()) == ("too short", 1):
        pytest.skip("a vector of one number is nothing without it")
    if (name, operand) == ("attention_scores", "x") and kind in ("too long", "too short"):
        pytest.skip("no other operand has rows")
    wrong, error = _fault(kind, operands[operand])
    with ops.using(implementation), pytest.raises(error) as caught:
        call(graph, **operands | {operand: wrong})
    said = {"mean": r"stats[0]", "var": "stats[1]"}.get(operand, operand)
    assert said in str(caught.value) or operand == "x"
    assert "got" in str(caught.value) or " is on " in str(caught.value)


@pytest.mark.parametrize(("name", "operand"), [pair for pair in OPERANDS if pair not in ANY_WIDTH])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_type_that_x_would_lose_to_is_an_error(
    name: str, operand: str, implementation: ops.Choice, graph: Graph
) -> None:
    call, operands = _calls()[name]
    if operand == "x" or operands[operand].dtype == torch.bool:
        return
    with ops.using(implementation), pytest.raises(TypeError, match="wider than the sums over x"):
        call(graph, **operands | {operand: operands[operand].double()})


@pytest.mark.parametrize("name", [name for name in _calls() if name not in ("layer", "batch", "attention_scores")])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_graph_elsewhere_is_an_error(name: str, implementation: ops.Choice, graph: Graph) -> None:
    call, operands = _calls()[name]
    with ops.using(implementation), pytest.raises(RuntimeError, match="x is on cpu but the graph on meta; move it"):
        call(graph.to("meta"), **operands)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_choice_that_does_not_exist_is_an_error(implementation: ops.Choice, graph: Graph) -> None:
    x: Any = torch.randn(N, D)
    wrong: Any = "median"
    for call in (
        lambda: ops.spmm(x, graph, reduce=wrong),
        lambda: ops.gen_aggr(x, graph, reduce=wrong),
        lambda: ops.pool(x, graph, reduce=wrong),
        lambda: ops.norm_act_drop(x, norm=wrong),
        lambda: ops.norm_act_drop(x, p=1.0, seed=1),
        lambda: ops.norm_act_drop(x, norm="graph"),
        lambda: ops.gen_aggr(x, graph, bias=torch.zeros(D)),
    ):
        with ops.using(implementation), pytest.raises(ValueError, match="must|needs|belongs"):
            call()
    with ops.using(implementation), pytest.raises(TypeError, match="x must be a tensor, got list"):
        ops.spmm([[1.0]], graph)  # type: ignore[arg-type]
    with ops.using(implementation), pytest.raises(TypeError, match=r"x must be a dense tensor, got .*sparse"):
        ops.spmm(x.to_sparse(), graph)


# ---------------------------------------------------------------------- right, but not dense memory
class _Wrapper(Tensor):
    """A tensor that holds another one, as quantised and distributed tensors do: it has no memory of its own."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Wrapper:
        made: _Wrapper = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, dtype=held.dtype, device=held.device, requires_grad=held.requires_grad
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda v: v.held if isinstance(v, _Wrapper) else v, (args, kwargs or {}))
        return tree_map(lambda v: _Wrapper(v) if isinstance(v, Tensor) else v, func(*args, **kwargs))


class _Named(Tensor):
    """A subclass with memory of its own."""


def _negated(value: Tensor) -> Tensor:
    """The same values as a view that is negated when it is read, as the imaginary part of a conjugate is."""
    return torch._neg_view(-value)  # type: ignore[no-untyped-call]


def _strided(value: Tensor) -> Tensor:
    return torch.stack([value, value], -1)[..., 0]


UNUSUAL = {
    "strided": _strided,
    "a wrapper": _Wrapper,
    "negated": lambda value: value if value.dtype == torch.bool else _negated(value),
    "a subclass": lambda value: value.as_subclass(_Named),
    "zeros without memory": lambda value: torch._efficientzerotensor(value.shape, dtype=value.dtype),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_unusual_operand_gives_the_right_result(
    name: str, operand: str, kind: str, implementation: ops.Choice, graph: Graph
) -> None:
    call, operands = _calls()[name]
    unusual = UNUSUAL[kind](operands[operand])
    plain = torch.zeros_like(operands[operand]) if kind.startswith("zeros") else operands[operand]
    if kind.startswith("zeros") and operand in ("var", "p"):
        pytest.skip("infinite at zero")
    with ops.using("reference"):
        expected = call(graph, **operands | {operand: plain})
    with ops.using(implementation):
        found = call(graph, **operands | {operand: unusual})
    assert_close(getattr(found, "held", found).as_subclass(Tensor), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_of_zeros_without_memory_and_of_wrappers(implementation: ops.Choice, graph: Graph) -> None:
    with ops.using(implementation):
        x = torch.randn(N, D, requires_grad=True)
        (grad,) = torch.autograd.grad(ops.spmm(x, graph), x, torch._efficientzerotensor((N, D)))
        assert_close(grad + 0, torch.zeros(N, D))
        (grad,) = torch.autograd.grad(ops.spmm(x, graph), x, _negated(torch.ones(N, D)))
        (expected,) = torch.autograd.grad(ops.spmm(x, graph), x, torch.ones(N, D))
        assert_close(grad, expected)
        wrapped = _Wrapper(torch.randn(N, D)).requires_grad_()
        (grad,) = torch.autograd.grad(ops.spmm(wrapped, graph).sum(), wrapped)
        assert_close(grad.held, expected)


# ---------------------------------------------------------------------- the contracts of the kernels
def _kernel_calls(graph: Graph) -> Iterator[tuple[str, dict[str, Any], set[str]]]:
    """Each kernel with all of its operands: name, arguments, and whose rows may stand apart."""
    forward, reverse = cpu.forward_csr(graph), cpu.reverse_csr(graph)
    x, out, vector, arg = torch.randn(N, D), torch.empty(N, D), torch.rand(D), torch.zeros(N, D, dtype=torch.int32)
    values, per_head, heads = torch.randn(N, H, F), torch.randn(N, H), torch.randn(H, F)
    attr, weight, lse = torch.randn(E, K), torch.randn(K, D), torch.zeros(N, D)
    normaliser = torch.ones(N, 2, H)
    scale, square = torch.rand(N), torch.randn(D, D)
    edges = {"edge_attr": attr, "weight": weight, "bias": vector}
    scores = {"score_src": per_head, "score_dst": per_head.clone(), "keep": torch.ones(E, dtype=torch.bool)}
    attended = {"normaliser": normaliser, "slope_y": values.clone(), "slope_sum": per_head.clone()}
    drop = {"mask": torch.rand(N, D) > 0.3}
    stats = {"mean": vector.clone(), "rstd": vector.clone()}
    yield "spmm", {"x": x, "csr": forward, "out": out, "weight": torch.rand(E), "src_scale": scale,
                   "dst_scale": scale.clone()}, {"x", "out"}  # fmt: skip
    yield "edge_dot", {"x": x, "grad": x.clone(), "csr": forward, "out": torch.empty(E)}, {"x", "grad"}
    yield "neighbour_max", {"x": x, "csr": forward, "out": out, "arg": arg}, {"x", "out"}
    yield "neighbour_max_backward", {"grad": x, "arg": arg, "reverse": reverse, "dx": out}, {"grad", "dx"}
    yield "gen_aggr", {"x": x, "csr": forward, "reduce": "softmax", "out": out, **edges, "t": vector, "lse": lse,
                       "scratch": torch.empty(N, 2 * D)}, {"x", "out"}  # fmt: skip
    yield "gen_aggr_backward", {
        "grad": x, "x": x.clone(), "reverse": reverse, "reduce": "softmax", "dx": out, **edges, "t": vector,
        "dt": vector.clone(), "y": x.clone(), "lse": lse, "indptr": graph.indptr, "scratch": torch.empty(N, 2 * D),
    }, {"grad", "x", "dx", "y"}  # fmt: skip
    yield "edge_max", {"x": x, "csr": forward, **edges, "out": out, "arg": arg}, {"x", "out"}
    yield "edge_max_backward", {"grad": x, "arg": arg - 1, "csr": forward, **edges}, {"grad"}
    yield "attention", {"x": values, "csr": forward, **scores, "negative_slope": 0.2, "out": values.clone(),
                        **attended}, {"x", "out"}  # fmt: skip
    yield "attention_backward", {
        "grad": values.clone(), "x": values, "reverse": reverse, **scores, "negative_slope": 0.2, "y": values.clone(),
        **attended, "scratch": torch.empty(N, H, 4), "dx": values.clone(), "dscore_src": per_head.clone(),
        "dscore_dst": per_head.clone(),
    }, {"grad", "x", "y", "dx"}  # fmt: skip
    yield "attention_scores", {"x": values, "attn_src": heads, "attn_dst": heads.clone(), "score_src": per_head,
                               "score_dst": per_head.clone()}, {"x"}  # fmt: skip
    yield "attention_scores_backward", {
        "x": values, "attn_src": heads, "attn_dst": heads.clone(), "dscore_src": per_head, "dx": values.clone(),
        "dscore_dst": per_head.clone(), "dattn_src": heads.clone(), "dattn_dst": heads.clone(),
    }, {"x", "dx"}  # fmt: skip
    yield "norm_act_drop", {"x": x, "kind": "batch", "out": out, "weight": vector, "bias": vector.clone(), **stats,
                            **drop}, {"x", "out", "mask"}  # fmt: skip
    yield "norm_act_drop_backward", {
        "grad": x.clone(), "x": x, "kind": "batch", "dx": out, "dweight": vector.clone(), "dbias": vector.clone(),
        "weight": vector, "bias": vector.clone(), **stats, **drop,
    }, {"grad", "x", "dx", "mask"}  # fmt: skip
    yield "batch_stats", {"x": x, "eps": 0.1, **stats, "var": vector}, {"x"}
    yield "running_stats", {
        "mean": vector, "var": vector.clone(), "num_rows": N, "running_mean": vector.clone(),
        "running_var": vector.clone(), "num_batches": torch.tensor(3), "momentum": 0.1,
    }, set()  # fmt: skip
    yield "linear", {"x": x, "weight": square, "bias": vector, "out": out, "plus": x.clone()}, {"x", "out", "plus"}
    yield "linear_backward", {
        "grad": x.clone(), "x": x, "weight": square, "bias": vector, "dweight": square.clone(),
        "dbias": vector.clone(), "dx": out, "value": out.clone(), "plus": x.clone(),
    }, {"grad", "x", "dx", "value", "plus"}  # fmt: skip


def _run(kernels: Any, name: str, arguments: dict[str, Any]) -> None:
    arguments = dict(arguments)
    if "edge_attr" in arguments:
        terms = (arguments.pop(part) for part in ("edge_attr", "weight", "bias"))
        arguments["edges"] = cpu.EdgeTerm(*terms)
    if name.endswith("max_backward") and "edges" in arguments:
        arguments["edge_grads"] = cpu.EdgeGrads(torch.empty(K, D), torch.empty(D), torch.empty(E, K))
    if "mask" in arguments:
        arguments["drop"] = cpu.Drop(0.3, arguments.pop("mask"))
    getattr(kernels, name)(**arguments)


@pytest.mark.parametrize("kernels", [
    pytest.param(cpu.BACKEND, id="cpu", marks=pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)),
    pytest.param(triton.BACKEND, id="triton", marks=pytest.mark.skipif(not triton.interpreted(), reason="compiled")),
])  # fmt: skip
def test_a_kernel_believes_nothing(kernels: Any, graph: Graph) -> None:
    """A wrong operand is refused before its address is taken: no crash, and nothing is written."""
    names = []
    for name, arguments, with_rows in _kernel_calls(graph):
        names.append(name)
        if name not in kernels.names:
            continue
        _run(kernels, name, arguments)
        for operand, value in arguments.items():
            if not isinstance(value, Tensor):
                continue
            wrong = [
                (RuntimeError, value.to("meta")),
                (TypeError, value.to(torch.float16)),
                (ValueError, torch.cat([value, value], -1) if value.dim() else value.repeat(2)),
                (ValueError, value.new_empty(0)),
            ]
            if value.dim() and (not value.is_floating_point() or operand not in with_rows):
                wrong.append((ValueError, _strided(value)))
            if operand == "mask":
                wrong.pop()  # a mask is made dense
            for error, fault in wrong:
                with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
                    _run(kernels, name, arguments | {operand: fault})
                # Others are compared with the shapes and types of these, and are named first.
                if operand not in ("x", "grad", "edge_attr", "weight", next(iter(arguments))):
                    assert operand in str(caught.value), (name, operand)
                    assert caught.type is error, (name, operand, caught.value)
    assert {*names, "keep_bits"} == cpu.BACKEND.names
    assert {*names, "keep_mask"} - {"running_stats"} == triton.BACKEND.names


def test_every_kernel_compares_its_operands_with_a_contract() -> None:
    """Functions that write a result into a tensor of the caller's begin with a call of `operands`."""
    for folder, backend in (("cpu", cpu.BACKEND), ("triton", triton.BACKEND)):
        for path in sorted((Path(ops.__file__).parent / folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.decorator_list:
                    continue
                outputs = {"out", "dx", "dweight", "edge_grads", "mean", "score_src", "dattn_src"}
                arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                if node.name in backend.names or (arguments & outputs and folder == "cpu"):
                    calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
                    assert any(call.startswith("operands.") for call in calls), f"{path.name}: {node.name}"


def test_a_graph_of_other_tensors_is_refused(graph: Graph) -> None:
    indptr, indices = graph.indptr, graph.indices
    for wrong in (indptr + 1, indptr[:-1], indptr.long(), indptr.to("meta"), _strided(indptr)):
        with pytest.raises((ValueError, TypeError, RuntimeError), match="indptr|indices"):
            cpu.Csr(wrong, indices)
    for wrong in (indices.long(), indices.to("meta"), _strided(indices)):
        with pytest.raises((ValueError, TypeError, RuntimeError), match="indices"):
            cpu.Csr(indptr, wrong)
