"""Which numerics tests a case needs: those of its convolution, its norm, its coupling and its operations, no more."""

from __future__ import annotations

from dataclasses import dataclass

from .registry import BLOCK_KINDS, CASES, GROUPS, STEPS, BlockKind, Blocks, Conv, Op, Paper, Step


@dataclass(frozen=True, kw_only=True)
class Network:
    """What decides which tests a network needs."""

    conv: Conv
    norm: str = "layer"
    aggr: str = "softmax"
    """Of GEN."""
    heads: int = 1
    norm_adj: bool = False
    """Of GAT: whether it is the paper's, or PyG's."""
    edge_features: bool = False
    mlp_layers: int = 1
    """Of GEN."""
    reversible: bool = True


_OPS = {
    "spmm": ("spmm sum",),
    "gen_softmax": ("gen softmax",),
    "gen_edges": ("gen edges softmax",),
    "attention": ("attention",),
    "norm_act_drop": ("layer", "layer, seed", "layer, mask"),
}
"""`Op.op` -> its cases in tests/op_cases.py."""


def needs(name: str, device: str = "cpu") -> tuple[str, ...]:
    """Name the tests that a case needs, as `gate.check` takes them; on a CUDA device, those of the operations there."""
    case = CASES[name]
    if isinstance(case, Op):
        return _ops(_OPS[case.op], device)
    if isinstance(case, Blocks):
        return tuple(dict.fromkeys(test for kind in case.kinds for test in _of_kind(BLOCK_KINDS[kind], device)))
    if isinstance(case, Paper):
        return _needs(_network(case), device)
    return _needs(_of_step(case if isinstance(case, Step) else STEPS[case.step]), device)


def _of_kind(kind: BlockKind, device: str) -> tuple[str, ...]:
    conv = {"gcn": "gcn_is_pygs[*]", "sage": f"sage_is_pygs[{kind.aggr}-True]"}
    tests = (f"test_convs.py::test_{conv.get(kind.conv, f'gen_is_pygs[False-{kind.aggr}]')}",)
    if kind.norm == "graph":
        return (*tests, "test_fused.py::test_every_norm_and_kind_of_dropout[gcn-graph-*]")
    return tests + _ops((kind.norm,), device)


def _of_step(step: Step) -> Network:
    return Network(conv=step.conv, heads=step.heads, edge_features=step.edge_features)


def _network(case: Paper) -> Network:
    step = STEPS[case.step]
    return Network(
        conv=step.conv, norm=case.norm, aggr=case.aggr, heads=case.heads, norm_adj=True,
        edge_features=step.edge_features, mlp_layers=case.mlp_layers, reversible=case.reversible,
    )  # fmt: skip


def _needs(network: Network, device: str) -> tuple[str, ...]:
    conv, norm = network.conv, network.norm
    tests = _conv(network)
    if network.reversible:
        tests += (
            f"test_reversible.py::test_reversible_equals_store_at_64_layers[{conv}-{norm}-{GROUPS}]",
            f"test_reversible.py::test_reversible_equals_store_under_every_kind_of_dropout[{conv}-shared]",
            f"test_reversible.py::test_memory_law[{conv}]",
        )
    fused = _fused(network)
    if fused is not None and device == "cpu":
        tests += (
            f"test_fused.py::test_value_and_gradients_equal_autograds[{fused}-*-64-*]",
            f"test_fused.py::test_under_autocast_rows_are_bfloat16_and_errors_no_larger_than_autograds[{fused}-*-64-*]",
        )
    norms = ("layer", "layer, seed", "layer, mask") if norm == "layer" else ("batch",)
    return tests + _ops(_of_conv(network) + norms, device)


def _conv(network: Network) -> tuple[str, ...]:
    """The tests against PyG's convolution, or against its formula."""
    named = {
        "gcn": ("test_gcn_is_pygs[*]",),
        "sage": ("test_sage_is_pygs[mean-True]",),
        "gen": (f"test_gen_is_pygs[{network.edge_features}-{network.aggr.removesuffix('_sg')}]",),
        "gat": (
            "test_normalised_adjacency_and_edge_drop_of_gat"
            if network.norm_adj
            else "test_gat_is_pygs_without_normalisation",
        ),
    }[network.conv]
    if network.conv == "gen" and network.aggr == "softmax_sg":
        named += ("test_softmax_sg_takes_its_weights_as_constants",)
    return tuple(f"test_convs.py::{test}" for test in named)


def _fused(network: Network) -> str | None:
    """The name of the convolution in test_fused.py, or None for one whose blocks are not fused."""
    if network.conv == "gen":
        if network.edge_features or network.mlp_layers > 1 or network.aggr not in ("softmax", "softmax_sg"):
            return None
        return "gen" if network.aggr == "softmax" else "gen sg"
    if network.conv == "gat":
        return "gat norm_adj, drop" if network.norm_adj else "gat" if network.heads == 1 else "gat both ends"
    return {"gcn": "gcn", "sage": "sage mean"}[network.conv]


def _of_conv(network: Network) -> tuple[str, ...]:
    """Its operations, by the names of tests/op_cases.py."""
    if network.conv == "gen":
        return (f"gen {'edges ' * network.edge_features}{network.aggr}",)
    return {
        "gcn": ("spmm weighted", "spmm constant weights"),
        "sage": ("spmm mean",),
        "gat": ("attention, one side",) if network.norm_adj else ("attention",),
    }[network.conv]


def _ops(cases: tuple[str, ...], device: str) -> tuple[str, ...]:
    test = "test_ops.py::test_value_and_every_gradient" if device == "cpu" else "test_triton.py::test_on_a_device"
    return tuple(f"{test}[{case}-*-float32]" for case in cases)
