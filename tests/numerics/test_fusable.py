"""Changed parts of a fused block: evaluated by what was put there, or refused as a stored network refuses them."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from revgnn import ModelConfig, build_model, ops
from revgnn.graph import Graph
from revgnn.nn.block import Block
from revgnn.nn.convs import GATConv, GATOptions, GCNConv, GENConv, GENOptions, SAGEConv, SAGEOptions
from revgnn.nn.norms import NormActDrop
from revgnn.ops import cpu
from revgnn.stack import WorkSpace
from tolerances import assert_close

pytestmark = pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)

N, WIDTH = 40, 8
CONVS: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: GCNConv(WIDTH, WIDTH),
    "sage": lambda: SAGEConv(WIDTH, WIDTH),
    "gen": lambda: GENConv(WIDTH, WIDTH, options=GENOptions(mlp_layers=1, learn_t=True)),
    "gat": lambda: GATConv(WIDTH, WIDTH, options=GATOptions(heads=2, attn_dst=True)),
}
MORE_CONVS = {
    "gat of sources": lambda: GATConv(WIDTH, WIDTH, options=GATOptions(heads=2)),
    "gen of a given t": lambda: GENConv(WIDTH, WIDTH, options=GENOptions(mlp_layers=1)),
    "sage of neighbours": lambda: SAGEConv(WIDTH, WIDTH, options=SAGEOptions(root_weight=False, bias=False)),
}
MAPS = {"gcn": ["lin"], "sage": ["lin_l", "lin_r"], "gen": ["lins.0"], "gat": ["lin", "lin_root"]}


@pytest.fixture
def graph() -> Graph:
    return Graph.from_edge_index(torch.randint(0, N, (2, 200)), N)


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class _Tripled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def _triple(module: nn.Module) -> None:
    """Put another forward on an instance, as accelerate, adapters and quantisation do."""
    before = module.forward
    module.forward = types.MethodType(lambda self, *args, **kwargs: 3 * before(*args, **kwargs), module)


def _another_class(module: nn.Module) -> None:
    class Other(type(module)):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> Tensor:
            out: Tensor = super().forward(*args, **kwargs)
            return 3 * out

    module.__class__ = Other


def _to_class(lin: nn.Module) -> None:
    lin.__class__ = _Tripled


def _set(module: nn.Module, name: str, value: Tensor | None) -> None:
    setattr(module, name, None if value is None else nn.Parameter(value))


def _column(size: int) -> Tensor:
    return torch.linspace(0.5, 1.5, 3 * size).view(size, 3)[:, 0]


OF_MAPS: dict[str, Callable[[nn.Module], None]] = {
    "another forward": _triple,
    "another class": _to_class,
    "a hook": lambda lin: lin.register_forward_hook(lambda module, args, out: 3 * out),
    "a parametrization": lambda lin: parametrize.register_parametrization(lin, "weight", _Halved()),
    "weight norm": lambda lin: parametrizations.weight_norm(lin),
    "pruning": lambda lin: prune.l1_unstructured(lin, "weight", 0.5),
    "a bias": lambda lin: _set(lin, "bias", torch.ones(WIDTH)),
    "no bias": lambda lin: _set(lin, "bias", None),
    "a strided bias": lambda lin: _set(lin, "bias", _column(WIDTH)),
    "a strided weight": lambda lin: _set(lin, "weight", torch.randn(WIDTH, WIDTH).t()),
    "a bias of another type": lambda lin: _set(lin, "bias", torch.ones(WIDTH, dtype=torch.float64)),
    "a weight of another type": lambda lin: _set(lin, "weight", torch.eye(WIDTH, dtype=torch.float64)),
    "a short bias": lambda lin: _set(lin, "bias", torch.ones(WIDTH - 1)),
    "a tall weight": lambda lin: _set(lin, "weight", torch.ones(200_000, WIDTH)),
    "a wide weight": lambda lin: _set(lin, "weight", torch.ones(WIDTH, WIDTH + 1)),
    "a weight elsewhere": lambda lin: _set(lin, "weight", torch.ones(WIDTH, WIDTH, device="meta")),
    "a bias elsewhere": lambda lin: _set(lin, "bias", torch.ones(WIDTH, device="meta")),
}
OF_BLOCKS: dict[str, Callable[[Block], object]] = {
    "another forward of the conv": lambda block: _triple(block.conv),
    "another forward of the norm": lambda block: _triple(block.norm),
    "another class of the conv": lambda block: _another_class(block.conv),
    "another class of the norm": lambda block: _another_class(block.norm),
    "a norm without bias": lambda block: _set(block.norm, "bias", None),
    "a norm without weight": lambda block: _set(block.norm, "weight", None),
    "a strided norm": lambda block: _set(block.norm, "weight", _column(WIDTH)),
    "a parametrized norm": lambda block: parametrize.register_parametrization(block.norm, "weight", _Halved()),
    "a norm of another type": lambda block: _set(block.norm, "weight", torch.ones(WIDTH, dtype=torch.float64)),
    "a narrow norm": lambda block: _set(block.norm, "bias", torch.ones(WIDTH - 1)),
    "a norm of one number": lambda block: _set(block.norm, "weight", torch.ones(1)),
    "a norm elsewhere": lambda block: _set(block.norm, "weight", torch.ones(WIDTH, device="meta")),
    "another norm": lambda block: setattr(block, "norm", NormActDrop(WIDTH, "batch")),
}


def _found(conv: str, backprop: str, change: Callable[[Block], object], graph: Graph) -> list[Tensor] | type[Exception]:
    """Value and gradients of a network one block of which was changed, or what it raised."""
    torch.manual_seed(1)
    config = ModelConfig(
        conv="gcn", num_layers=4, hidden_channels=2 * WIDTH, dropout=0.0, backprop=backprop
    )  # fmt: skip
    model = build_model(config, in_channels=5, out_channels=3)
    block = model.stack.layers[1][0]
    block.conv = CONVS[conv]()
    change(block)
    x = torch.randn(N, 5, requires_grad=True)
    try:
        out = model(x, graph, seed=3)
        out.square().sum().backward()
    except (RuntimeError, TypeError, ValueError) as error:
        return type(error)
    return [out.detach(), *(t.grad for t in (x, *model.parameters()) if t.grad is not None)]


def _compare(conv: str, change: Callable[[Block], object], graph: Graph) -> None:
    stored, reversible = (_found(conv, backprop, change, graph) for backprop in ("store", "reversible"))
    if isinstance(stored, type) or isinstance(reversible, type):
        assert stored == reversible
        return
    assert len(stored) == len(reversible)
    for found, expected in zip(reversible, stored, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        assert_close(found / scale, expected / scale, dtype=torch.float32)


@pytest.mark.parametrize("change", OF_MAPS)
@pytest.mark.parametrize(("conv", "name"), [(conv, name) for conv, names in MAPS.items() for name in names])
def test_a_changed_map(conv: str, name: str, change: str, graph: Graph) -> None:
    _compare(conv, lambda block: OF_MAPS[change](block.conv.get_submodule(name)), graph)


@pytest.mark.parametrize("change", OF_BLOCKS)
@pytest.mark.parametrize("conv", ["gcn", "gat"])
def test_a_changed_block(conv: str, change: str, graph: Graph) -> None:
    _compare(conv, OF_BLOCKS[change], graph)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_changed_vectors_and_temperature(dtype: torch.dtype, graph: Graph) -> None:
    _compare("gen", lambda block: _set(block.conv, "t", torch.tensor(1.5, dtype=dtype)), graph)
    _compare("gat", lambda block: _set(block.conv, "attn_src", torch.ones(1, 2, WIDTH // 2, dtype=dtype)), graph)
    _compare("gat", lambda block: _set(block.conv, "attn_dst", torch.ones(1, WIDTH // 2, 2).mT), graph)
    _compare("gat", lambda block: _set(block.conv, "attn_dst", torch.ones(1, 3, 2)), graph)


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("make", [*CONVS.values(), *MORE_CONVS.values()], ids=[*CONVS, *MORE_CONVS])
def test_what_is_unchanged_is_fused(make: Callable[[], nn.Module], norm: ops.Norm, graph: Graph) -> None:
    block = Block(NormActDrop(WIDTH, norm), make())
    assert block.fuses(torch.randn(N, WIDTH), graph)
    assert not block.double().fuses(torch.randn(N, WIDTH), graph)
    assert not block.fuses(torch.randn(N, WIDTH + 2), graph)


def test_a_map_whose_forward_was_replaced_is_seen_where_its_weight_would_be_used_alone(graph: Graph) -> None:
    """GCN maps before it sums where it narrows, and GEN folds a network's edge encoder into its own map."""
    x, edge_attr = torch.randn(N, WIDTH), torch.randn(graph.num_edges, 3)
    gcn, gen = GCNConv(WIDTH, 4), GENConv(WIDTH, WIDTH, edge_channels=3)
    for conv, lin, call in (
        (gcn, gcn.lin, lambda: gcn(x, graph)),
        (gen, gen.lin_edge, lambda: gen(x, graph, edge_attr)),
    ):
        before = call()
        handle = lin.register_forward_hook(lambda module, args, out: out)
        assert_close(call(), before)
        handle.remove()
        _triple(lin)
        assert not torch.allclose(call(), before), type(conv)


def test_the_value_of_a_strided_mask(graph: Graph) -> None:
    block, x = Block(NormActDrop(WIDTH, dropout=0.5), GCNConv(WIDTH, WIDTH)), torch.randn(N, WIDTH)
    mask = torch.rand(WIDTH, N).t() > 0.5
    out, expected = torch.empty(N, WIDTH), block(x, 1, graph, mask)
    block.add_value(out, 0, x, 1, graph, mask, work=WorkSpace())
    assert_close(out, expected.detach())
