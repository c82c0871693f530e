"""Blocks that differentiate themselves against autograd on the same blocks; the stack's use of them; the tail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.measure import peak_memory
from revgnn.nn.block import Block
from revgnn.nn.convs import GATConv, GATOptions, GCNConv, GENConv, GENOptions, SAGEConv, SAGEOptions
from revgnn.nn.model import ModelConfig, build_model
from revgnn.nn.norms import NormActDrop
from revgnn.ops import cpu, draw_mask, triton, using
from revgnn.stack import FusedHead, Stack, WorkSpace, check_inverse, recomputing, split
from revgnn.stack.fused_head import ROWS
from tolerances import assert_close, relative_error

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]

CONVS: dict[str, Any] = {
    "gcn": GCNConv,
    "sage mean": SAGEConv,
    "sage of neighbours alone": lambda a, b: SAGEConv(a, b, options=SAGEOptions(root_weight=False)),
    "sage sum": lambda a, b: SAGEConv(a, b, options=SAGEOptions(aggr="sum")),
    "gen": lambda a, b: GENConv(a, b, options=GENOptions(learn_t=True, mlp_layers=1)),
    "gen sg": lambda a, b: GENConv(a, b, options=GENOptions(aggr="softmax_sg", t=0.7, mlp_layers=1)),
    "gen of two maps": lambda a, b: GENConv(a, b, options=GENOptions(aggr="softmax", t=0.8)),
    "gat": lambda a, b: GATConv(a, b, options=GATOptions(heads=1, norm_adj=False, attn_dst=True)),
    "gat norm_adj, drop": lambda a, b: GATConv(a, b, options=GATOptions(heads=2, edge_drop=0.3)),
    "gat both ends": lambda a, b: GATConv(a, b, options=GATOptions(heads=2, attn_dst=True, edge_drop=0.3)),
}
WIDTHS = [6, 20, 64, 66]


def graphs() -> Iterator[tuple[str, Graph]]:
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(60, (2, 400), generator=generator)
    yield "directed, isolated nodes, repeated edges", Graph.from_edge_index(torch.cat([some, some[:, :30]], 1), 63)
    yield "symmetric", Graph.from_edge_index(torch.cat([some, some.flip(0)], 1), 60)
    yield "no edges", Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 7)


GRAPHS = dict(graphs())


def make_block(conv: str, width: int, norm: Any = "layer", dropout: float = 0.4) -> Block:
    torch.manual_seed(0)
    block = Block(NormActDrop(width, norm, dropout=dropout), CONVS[conv](width, width)).double()
    for parameter in block.parameters():  # zeros and ones would hide a term
        parameter.data += 0.3 * torch.randn_like(parameter)
    return block


def by_autograd(block: Block, x: Tensor, cotangent: Tensor, *context: Any) -> tuple[Tensor, Tensor, dict[Any, Tensor]]:
    leaf, parameters = x.detach().clone().requires_grad_(), [p for p in block.parameters() if p.requires_grad]
    with recomputing():
        value = block(leaf, 5, *context)
    dx, *rest = torch.autograd.grad(value, [leaf, *parameters], cotangent)
    return value.detach(), dx, dict(zip(parameters, rest, strict=True))


def fused(
    block: Block, x: Tensor, cotangent: Tensor, *context: Any, sign: int = 0, accumulate: bool = False
) -> tuple[Tensor, Tensor, dict[Any, Tensor]]:
    """The value is sent into zeros and the gradient into ones, as columns of wider tensors."""
    assert block.fuses(x, *context)
    to, dx = (torch.full((x.size(0), 3 * x.size(1)), at, dtype=x.dtype)[:, : x.size(1)] for at in (0.0, 1.0))
    with torch.no_grad(), recomputing():
        found = block.add_value_and_grad(
            to, sign, x, cotangent, dx, 5, *context, accumulate=accumulate, work=WorkSpace()
        )  # fmt: skip
    return to, dx, dict(found)


# ---------------------------------------------------------------------- a block
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("conv", CONVS)
def test_value_and_gradients_equal_autograds(conv: str, graph: str, width: int, dtype: torch.dtype) -> None:
    block, n = make_block(conv, width), GRAPHS[graph].num_nodes
    x, cotangent = torch.randn(n, width).to(dtype), torch.randn(n, width).to(dtype)
    expected = by_autograd(block, x.double(), cotangent.double(), GRAPHS[graph])
    block.to(dtype)
    for sign, accumulate in ((0, False), (1, True), (-1, True)):
        to, dx, grads = fused(block, x, cotangent, GRAPHS[graph], sign=sign, accumulate=accumulate)
        scale = max(1.0, float(expected[0].abs().max()))
        assert_close(to * (sign or 1) / scale, (expected[0] / scale).to(dtype))
        scale = max(1.0, float(expected[1].abs().max()))
        assert_close((dx - float(accumulate)) / scale, (expected[1] / scale).to(dtype))
        assert grads.keys() == expected[2].keys()
        bound = 1e-12 if dtype == torch.float64 else 1e-5
        assert relative_error(joined(grads, expected[2]), joined(expected[2], expected[2])) < bound


@pytest.mark.parametrize("isa", ["avx512_bf16", "avx512", "avx2"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("conv", CONVS)
def test_under_autocast_rows_are_bfloat16_and_errors_no_larger_than_autograds(
    conv: str, graph: str, width: int, isa: str
) -> None:
    """Against float64; autograd's are those of torch's own products under the same autocast."""
    before = cpu.isa()
    try:
        cpu.use_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    block, n = make_block(conv, width), GRAPHS[graph].num_nodes
    if isinstance(block.conv, GATConv):  # without its kink, which rounding would pass here and there
        block.conv.options = replace(block.conv.options, negative_slope=1.0)
    x, cotangent = torch.randn(2, n, width)
    truth = by_autograd(block, x.double(), cotangent.double(), GRAPHS[graph])
    block.float()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            plain = by_autograd(block, x, cotangent, GRAPHS[graph])
            for sign, accumulate in ((0, False), (-1, True)):
                to, dx, grads = fused(block, x, cotangent, GRAPHS[graph], sign=sign, accumulate=accumulate)
                found = (to * (sign or 1), dx - float(accumulate), joined(grads, truth[2]))
                assert all(grads[parameter].dtype == torch.float32 for parameter in grads)
                for value, other, expected in zip(
                    found,
                    (*plain[:2], joined(plain[2], truth[2])),
                    (*truth[:2], joined(truth[2], truth[2])),
                    strict=True,
                ):
                    error, allowed = relative_error(value, expected), relative_error(other, expected)
                    # A hidden ReLU, which rounding opens or shuts here and there, leaves either to luck.
                    assert error <= (3 * allowed + 3e-2 if "two maps" in conv else 1.5 * allowed + 3e-3)
    finally:
        cpu.use_isa(before)


def joined(grads: dict[Any, Tensor], order: dict[Any, Tensor]) -> Tensor:
    return torch.cat([grads[parameter].double().flatten() for parameter in order])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [None, "bool", "packed"])
@pytest.mark.parametrize("norm", ["layer", "batch", "graph", "none"])
@pytest.mark.parametrize("conv", ["gcn", "gat norm_adj, drop"])
def test_every_norm_and_kind_of_dropout(conv: str, norm: str, mask: str | None, training: bool) -> None:
    graph, width = GRAPHS["symmetric"], 16
    block = make_block(conv, width, norm).train(training)
    if norm == "batch":
        block.norm.running_mean.uniform_()
        block.norm.running_var.uniform_(0.5, 2.0)
    kept = None if mask is None else torch.rand(graph.num_nodes, width) < 0.6
    if mask == "packed":
        assert kept is not None
        kept = pack(kept)
    x, cotangent = torch.randn(2, graph.num_nodes, width, dtype=torch.double)
    expected = by_autograd(block, x, cotangent, graph, kept)
    found = fused(block, x, cotangent, graph, kept)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])
    assert relative_error(joined(found[2], expected[2]), joined(expected[2], expected[2])) < 1e-12


def pack(kept: Tensor) -> Tensor:
    places = 2 ** torch.arange(8)
    return (kept.view(kept.size(0), -1, 8) * places).sum(-1).to(torch.uint8)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("conv", CONVS)
def test_both_evaluations_give_the_same_bits(conv: str, width: int, autocast: bool) -> None:
    """An exact state is rebuilt only if they do; and the first may write over its own input."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _evaluate_twice(conv, width)


def _evaluate_twice(conv: str, width: int) -> None:
    graph, block = GRAPHS["directed, isolated nodes, repeated edges"], make_block(conv, width).float()
    x, cotangent = torch.randn(2, graph.num_nodes, width)
    before = x.clone()
    rebuilt, _, _ = fused(block, x, cotangent, graph)
    value, onto_itself = torch.empty_like(x), x.clone()
    with torch.no_grad():
        block.add_value(value, 0, x, 5, graph, work=WorkSpace())
        block.add_value(onto_itself, 1, onto_itself, 5, graph, work=WorkSpace())
    assert torch.equal(value, rebuilt)
    assert_close(onto_itself, x + value)
    assert torch.equal(x, before)


def test_what_does_not_fuse_goes_by_autograd() -> None:
    graph, x = GRAPHS["symmetric"], torch.randn(60, 16)
    block = make_block("gcn", 16).float()
    assert block.fuses(x, graph)
    assert not block.fuses(x.bfloat16(), graph)
    assert not block.fuses(x.double(), graph)  # its parameters are float32
    assert not block.fuses(x, graph, None, torch.randn(graph.num_edges, 3)), "GCN reads no edge features"
    with torch.autocast("cpu", torch.float16):
        assert not block.fuses(x, graph)
    block.conv.lin = nn.utils.parametrizations.weight_norm(block.conv.lin)
    assert not block.fuses(x, graph)
    for conv in (
        SAGEConv(16, 16, options=SAGEOptions(aggr="max")),
        GENConv(16, 16, options=GENOptions(mlp_layers=3)),
        GENConv(16, 16, options=GENOptions(mlp_norm="batch")),
        GENConv(16, 16, options=GENOptions(aggr="power", mlp_layers=1)),
        GENConv(16, 16, options=GENOptions(msg_norm=True, mlp_layers=1)),
    ):
        assert not Block(NormActDrop(16, "layer"), conv).fuses(x, graph)
    two = Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.long), 60, batch=torch.arange(60) // 30)
    assert not Block(NormActDrop(16, "graph"), GCNConv(16, 16)).fuses(x, two)


@pytest.mark.skipif(
    not (triton.AVAILABLE and triton.interpreted()), reason="needs Triton's interpreter: TRITON_INTERPRET is not 1"
)
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("conv", CONVS)
def test_the_same_on_the_kernels_for_cuda_interpreted(conv: str, norm: str) -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 2, 3, 3, 5], [1, 0, 0, 0, 3, 5, 3]]), 7)
    block = make_block(conv, 6, norm).float()
    x, cotangent = torch.randn(2, 7, 6)
    expected = fused(block, x, cotangent, graph, sign=1, accumulate=True)
    with using("triton"):
        found = fused(block, x, cotangent, graph, sign=1, accumulate=True)
        value = torch.empty_like(x)
        with torch.no_grad():
            block.add_value(value, 0, x, 5, graph, work=WorkSpace())
    assert torch.equal(value, found[0])
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert_close(a, b)
    assert relative_error(joined(found[2], expected[2]), joined(expected[2], expected[2])) < 1e-5


@pytest.mark.parametrize("conv", CONVS)
def test_a_block_compiles_without_a_break(conv: str) -> None:
    """By autograd: a compiler makes its own of the parts. The graph's loops depend on data, and are there before."""
    torch.compiler.reset()
    graph, block, x = GRAPHS["symmetric"], make_block(conv, 16), torch.randn(60, 16, dtype=torch.double)
    assert graph.self_looped.num_nodes == 60
    found = []
    for run in (torch.compile(lambda x: block(x, 5, graph), fullgraph=True, backend="aot_eager"), block):
        leaf = x.clone().requires_grad_()
        y = run(leaf) if run is not block else block(leaf, 5, graph)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])))
    for a, b in zip(*found, strict=True):
        assert_close(a / b.abs().max().clamp(min=1), b / b.abs().max().clamp(min=1))


# ---------------------------------------------------------------------- a stack of them
def make_stack(conv: str = "gcn", **arguments: Any) -> Stack:
    torch.manual_seed(0)
    arguments = {"channels": 24, "num_layers": 5, "coupling": "grouped", "backprop": "reversible", **arguments}
    return Stack(lambda width: make_block(conv, width), **arguments).double()


def gradients(stack: Stack, x: Tensor, *context: Any, head: FusedHead | None = None) -> list[Tensor]:
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    out = stack(leaf, *context, seed=3, head=head)
    wanted = [leaf, *stack.parameters(), *([] if head is None else head.module.parameters())]
    return [out.detach(), *torch.autograd.grad(out, wanted, torch.randn_like(out))]


@pytest.mark.parametrize("choice", [{}, {"segments": 2}, {"state": "exact64"}, {"num_groups": 3}, {"num_groups": 4}])
@pytest.mark.parametrize("conv", CONVS)
def test_a_stack_of_fused_blocks_equals_store(conv: str, choice: dict[str, Any]) -> None:
    graph = GRAPHS["directed, isolated nodes, repeated edges"]
    x = torch.randn(graph.num_nodes, 24, dtype=torch.double)
    groups = {"num_groups": choice.get("num_groups", 2)}
    mask = split(draw_mask(7, graph.num_nodes, 24, 0.4, x.device, groups=groups["num_groups"]))
    expected = gradients(make_stack(conv, backprop="store", **groups), x, graph, mask)
    found = gradients(make_stack(conv, **choice), x, graph, mask)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm().clamp(min=1e-3)


def test_the_stack_evaluates_fused_blocks_without_autograd_but_not_where_a_hook_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, x, seen = GRAPHS["symmetric"], torch.randn(60, 24, dtype=torch.double), []
    stack = make_stack()
    with monkeypatch.context() as patch:
        # Not their forward: blocks whose forward is replaced are called.
        patch.setattr(type(stack.layers[0][0]), "__call__", lambda *_: pytest.fail("by autograd"))
        gradients(stack, x, graph)
        assert check_inverse(stack, x, graph).layer is None
    stack = make_stack()
    stack.layers[1][0].conv.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    gradients(stack, x, graph)
    assert seen == [False, False, True], "asked once whether it repeats itself"
    seen.clear()
    gradients(stack, x, graph)
    assert seen == [False, True]


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize(("forward", "backward"), [(True, False), (False, True), (True, True)])
def test_the_backward_evaluates_as_the_forward_did_under_any_autocast(conv: str, forward: bool, backward: bool) -> None:
    graph, x = GRAPHS["symmetric"], torch.randn(60, 24, requires_grad=True)
    found = []
    for outside in (forward, backward), (forward, forward):
        stack = make_stack(conv).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=outside[0]):
            out = stack(x, graph, seed=3)
        with torch.autocast("cpu", torch.bfloat16, enabled=outside[1]):
            found.append(torch.autograd.grad(out.square().sum(), [x, *stack.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_state_is_rebuilt_bit_for_bit_from_fused_blocks(autocast: bool) -> None:
    graph, x = GRAPHS["symmetric"], torch.randn(60, 24)
    for conv in CONVS:
        stack = make_stack(conv, num_layers=40, state="exact").float()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gradients(stack, x, graph)
            found = check_inverse(stack, x, graph)
        assert found.error == 0.0, f"{conv}: {found}"


@pytest.mark.parametrize(("conv", "limit"), [("gcn", 3.5), ("sage", 3.5), ("gen", 6.0), ("gat", 6.0)])
def test_work_space_of_a_training_step_at_any_depth(conv: Any, limit: float) -> None:
    """In N x D x 4 bytes, encoder, head and loss included; here of few classes, so that the loss weighs little."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(20_000, (2, 40_000), generator=generator)
    graph = Graph.from_edge_index(torch.cat([edge_index, edge_index.flip(0)], 1), 20_000)
    x, y = torch.randn(20_000, 8), torch.randint(5, (20_000,))
    needs = []
    for depth in (2, 12):
        config = ModelConfig(
            conv=conv, num_layers=depth + 2 * (conv == "gat"), hidden_channels=64, norm="layer",
            gen=GENOptions(mlp_layers=1, learn_t=True), gat=GATOptions(heads=2, norm_adj=False, attn_dst=True),
        )  # fmt: skip
        model = build_model(config, GraphInfo(in_channels=8, num_outputs=5))
        if conv == "gat":  # its own head is a layer of attention, which keeps what it needs
            model.head = build_model(ModelConfig(hidden_channels=64), GraphInfo(in_channels=8, num_outputs=5)).head
            model.stem = GCNConv(8, 64)

        def step(model: nn.Module = model) -> None:
            nn.functional.cross_entropy(model(x, graph, seed=1), y).backward()

        step()
        model.zero_grad()
        needs.append(peak_memory(step) / (20_000 * 64 * 4))
    assert needs[1] < limit
    parameters = sum(p.numel() * 4 for p in model.parameters()) / (20_000 * 64 * 4)
    assert needs[1] - needs[0] < 2 * parameters


# ---------------------------------------------------------------------- the tail
def make_tail(seed: int = 9, width: int = 24) -> FusedHead:
    torch.manual_seed(2)
    norm, lin = NormActDrop(width, "layer", dropout=0.3).double(), nn.Linear(width, 3).double()
    return FusedHead(nn.ModuleList([norm, lin]), lambda rows, seed: lin(norm(rows, seed=seed)), seed)


@pytest.mark.parametrize("nodes", [60, ROWS + 7, 2 * ROWS])
@pytest.mark.parametrize(
    "choice",
    [
        {"backprop": "store"},
        {"backprop": "checkpoint"},
        {"backprop": "reversible"},
        {"backprop": "reversible", "segments": 3},
        {"backprop": "reversible", "state": "exact64"},
        {"backprop": "reversible", "memory_budget": "1GB"},
        {"coupling": "residual", "backprop": "store"},
        {"num_layers": 0},
    ],
)
def test_a_tail_inside_equals_one_behind(choice: dict[str, Any], nodes: int) -> None:
    graph = Graph.from_edge_index(torch.randint(nodes, (2, 300)), nodes)
    x = torch.randn(nodes, 24, dtype=torch.double)

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.inner = make_stack(**choice), make_tail()
            self.list = self.inner.module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.stack(x, graph, seed=3))

    behind = Behind()
    leaf = x.clone().requires_grad_()
    out = behind(leaf)
    torch.manual_seed(1)
    expected = [out.detach(), *torch.autograd.grad(out, [leaf, *behind.parameters()], torch.randn_like(out))]
    for a, b in zip(gradients(make_stack(**choice), x, graph, head=make_tail()), expected, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()
    with torch.no_grad():
        assert_close(make_stack(**choice)(x, graph, seed=3, head=make_tail()), expected[0])


def test_with_a_tail_a_graph_can_be_kept_for_a_second_backward() -> None:
    graph, stack, tail = GRAPHS["symmetric"], make_stack(), make_tail()
    x = torch.randn(60, 24, dtype=torch.double, requires_grad=True)
    out = stack(x, graph, seed=3, head=tail)
    first = torch.autograd.grad(out.sum(), [x, *stack.parameters()], retain_graph=True)
    again = torch.autograd.grad(out.sum(), [x, *stack.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


def test_a_networks_head_is_its_stacks_tail_unless_somebody_looks_at_it() -> None:
    graph, x = GRAPHS["symmetric"], torch.randn(60, 5)
    model = build_model(
        ModelConfig(conv="gcn", num_layers=3, hidden_channels=16), GraphInfo(in_channels=5, num_outputs=3)
    )
    expected, seen = model(x, graph, seed=4), []
    handle = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert_close(model(x, graph, seed=4), expected)
    handle.remove()
    model.stack.register_forward_hook(lambda *values: seen.append(values[-1].shape))
    assert_close(model(x, graph, seed=4), expected)
    assert seen == [(60, 16), (60, 16)]
