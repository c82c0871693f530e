"""torch.compile and torch.export: whole networks and parts alone, with seeds and graphs that change at every step."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.export import Dim, export
from torch.utils import _pytree as pytree

from revgnn import GNN, ModelConfig, build_model, ops
from revgnn.data import GraphInfo
from revgnn.graph import Graph
from revgnn.nn.block import Block
from revgnn.nn.convs import CONVS, GATConv, GATOptions
from revgnn.nn.heads import NodeHead
from revgnn.nn.norms import NormActDrop
from revgnn.stack import Stack
from tolerances import TOLERANCES, assert_close, relative_error

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*leaf Tensor is being accessed:UserWarning"),
]

N, WIDTH = 40, 12


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def make(conv: str = "sage", **changes: Any) -> GNN:
    settings: dict[str, Any] = {"num_layers": 3, "hidden_channels": 24, **changes}
    return build_model(ModelConfig(conv=conv, **settings), GraphInfo(in_channels=8, num_outputs=5))


def drawn(step: int, num_nodes: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    edges = torch.randint(0, num_nodes, (2, 5 * num_nodes), generator=generator)
    return torch.randn(num_nodes, 8, generator=generator), edges


def results(call: Callable[[], Tensor], parameters: list[nn.Parameter], seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    value = call()
    return [value.detach(), *torch.autograd.grad(value.square().sum(), parameters)]


# ---------------------------------------------------------------------- whole networks
DEPTHS: dict[str, dict[str, Any]] = {
    "residual store": {"coupling": "residual", "backprop": "store"},
    "grouped store": {"backprop": "store"},
    "reversible": {},
    "reversible, a mask a layer": {"dropout_mask": "independent", "input_dropout": 0.2},
    "checkpoint": {"coupling": "residual", "backprop": "checkpoint"},
    "batch norm": {"norm": "batch"},
    "exact": {"state": "exact"},
}


@pytest.mark.parametrize(
    ("conv", "depth"),
    [*((conv, "reversible") for conv in CONVS), *(("gat", depth) for depth in DEPTHS if depth != "reversible")],
)
def test_a_compiled_network_is_the_network(conv: str, depth: str) -> None:
    model = make(conv, **DEPTHS[depth])
    compiled, twin = torch.compile(model, backend="aot_eager"), copy.deepcopy(model)
    parameters, others = list(model.parameters()), list(twin.parameters())
    for step in range(20):
        x, edges = drawn(step)
        found = results(lambda: compiled(x, edges), parameters, step)  # noqa: B023
        expected = results(lambda: twin(x, edges), others, step)  # noqa: B023
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        # A mistake in what is guarded would compile anew at every seed.
        torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("conv", CONVS)
def test_a_compiled_network_takes_graphs_of_any_size_in_any_mode(conv: str) -> None:
    model = make(conv)
    compiled, parameters = torch.compile(model, backend="aot_eager"), list(model.parameters())
    for step in range(6):
        x, edges = drawn(step, N + step)
        graph = Graph.from_edge_index(edges, N + step)
        for call in (lambda net: net(x, graph), lambda net: net(x, edges, seed=2**62 + step)):  # noqa: B023
            found, expected = (results(lambda: call(net), parameters, step) for net in (compiled, model))  # noqa: B023
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        model.eval()
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                assert torch.equal(compiled(x, edges), model(x, edges))
        model.train()


@pytest.mark.slow
def test_a_compiled_network_on_inductor() -> None:
    model, out = make("gat"), nn.Linear(5, 1)
    step = torch.compile(lambda x, edges: out(model(x, edges).relu()).sigmoid())
    for seed in range(4):
        x, edges = drawn(seed, N + seed)
        found = results(lambda: step(x, edges), list(model.parameters()), seed)  # noqa: B023
        expected = results(lambda: out(model(x, edges).relu()).sigmoid(), list(model.parameters()), seed)  # noqa: B023
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)


def test_a_network_without_a_break_is_refused_with_the_reason() -> None:
    compiled = torch.compile(make(), fullgraph=True, backend="aot_eager")
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="revgnn runs this part uncompiled: its kernels are compiled"
    ):
        compiled(*drawn(0))


@pytest.mark.filterwarnings("ignore:the .* solve did not converge")
def test_equilibria_and_stacks_of_ones_own_compile() -> None:
    class Mine(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm, self.lin = NormActDrop(width, dropout=0.3), nn.Linear(width, width)

        def forward(self, x: Tensor, seed: int) -> Tensor:
            out: Tensor = self.lin(self.norm(x, seed=seed))
            return out

    stack = Stack(Mine, channels=8, num_layers=4, coupling="grouped", backprop="reversible")
    implicit = make(coupling="residual", backprop="implicit", weight_tied=True)
    for module, take in ((stack, lambda x, _: (x,)), (implicit, lambda *both: both)):
        compiled = torch.compile(lambda *args, module=module: module(*args).relu() * 2, backend="aot_eager")
        for step in range(12):
            arguments, parameters = take(*drawn(step)), list(module.parameters())
            found = results(lambda: compiled(*arguments), parameters, step)  # noqa: B023
            expected = results(lambda: module(*arguments).relu() * 2, parameters, step)  # noqa: B023
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b)


def test_nobody_who_does_not_compile_imports_the_compiler() -> None:
    code = (
        "import sys, torch, revgnn\n"
        "config = revgnn.ModelConfig(num_layers=3, hidden_channels=8)\n"
        "model = config.build(revgnn.GraphInfo(in_channels=2, num_outputs=2))\n"
        "model(torch.ones(3, 2), torch.tensor([[0, 1], [1, 2]])).sum().backward()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------- parts alone
def _edges(x: Tensor, edges: Tensor, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x, edges), {}


def _graph(x: Tensor, edges: Tensor, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x, Graph.from_edge_index(edges, x.size(0))), {}


def _seeded(x: Tensor, edges: Tensor, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return _graph(x, edges, step)[0], {"seed": step * 2**58 + 3}


def _block(x: Tensor, edges: Tensor, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x, step * 2**58 + 3, _graph(x, edges, step)[0][1]), {}


def _head(x: Tensor, edges: Tensor, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x, _graph(x, edges, step)[0][1], step * 2**58 + 3), {}


DROPPING = GATOptions(edge_drop=0.3, heads=2)
PARTS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    **{f"{conv}, edges": (lambda conv=conv: CONVS[conv](8, 8 if conv != "gat" else 6), _edges) for conv in CONVS},
    "gcn, graph": (lambda: CONVS["gcn"](8, 8), _graph),
    "gat with edge drop": (lambda: GATConv(8, 6, options=DROPPING), _edges),
    "gat with edge drop, seeded": (lambda: GATConv(8, 6, options=DROPPING), _seeded),
    "dropout": (lambda: NormActDrop(8, dropout=0.5), lambda x, edges, step: ((x,), {})),
    "dropout, seeded": (lambda: NormActDrop(8, dropout=0.5), _seeded),
    "graph norm and dropout": (lambda: NormActDrop(8, "graph", dropout=0.5), _graph),
    "block": (lambda: Block(NormActDrop(8, dropout=0.5), CONVS["gen"](8, 8)), _block),
    "block of attention": (lambda: Block(NormActDrop(8, dropout=0.5), GATConv(8, 8, options=DROPPING)), _block),
    "head": (lambda: NodeHead(NormActDrop(8, dropout=0.5), 3), _head),
}


def _check_part(name: str, backend: str, steps: int) -> None:
    build, take = PARTS[name]
    module = build()
    compiled, parameters = torch.compile(module, backend=backend), list(module.parameters())
    for step in range(steps):
        arguments, settings = take(*drawn(step, N + step // 4), step)
        found = results(lambda: compiled(*arguments, **settings), parameters, step)  # noqa: B023
        expected = results(lambda: module(*arguments, **settings), parameters, step)  # noqa: B023
        for a, b in zip(found, expected, strict=True):
            # By norm: a sum that cancels makes single numbers as wrong as its largest term is large.
            assert relative_error(a, b) < TOLERANCES[torch.float32][0]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_compiles_whatever_its_seed_and_graph(name: str) -> None:
    _check_part(name, "aot_eager", 10)


@pytest.mark.slow
def test_a_part_compiles_on_inductor() -> None:
    """Whose integers have 64 bits, where a seed's hash has products of more."""
    _check_part("gat with edge drop, seeded", "inductor", 5)


def test_a_compiled_function_keeps_nothing_on_a_graph() -> None:
    graph, x = Graph.from_edge_index(drawn(0)[1], N), torch.randn(N, 6)
    compiled = torch.compile(lambda x: ops.gen_aggr(x, graph, reduce="power"), fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        compiled(x)
    assert not graph._kept and "in_degree" not in graph.__dict__
    leaf = x.clone().requires_grad_()
    assert torch.autograd.grad(ops.gen_aggr(leaf, graph, reduce="power").sum(), leaf)[0].isfinite().all()


# ---------------------------------------------------------------------- export
@pytest.mark.parametrize("coupling", ["grouped", "residual"])
@pytest.mark.parametrize("conv", CONVS)
def test_an_exported_network_takes_edges_of_other_graphs(conv: str, coupling: str) -> None:
    model = make(conv, coupling=coupling, backprop="store" if coupling == "residual" else "reversible").eval()
    shapes = {"x": {0: Dim("nodes")}, "graph": {1: Dim("edges")}}
    program = export(model, drawn(0), dynamic_shapes=shapes).module()
    for arguments in (drawn(0), drawn(1, N + 7)):
        assert_close(program(*arguments), model(*arguments))
    x, edges = drawn(2, N + 3)
    with pytest.raises(ValueError, match=r"edge_index must lie in 0\.\.42: edge 0 has source 99"):
        program(x, torch.full_like(edges, 99))


@pytest.mark.parametrize("conv", CONVS)
def test_an_exported_network_takes_other_graphs_and_is_saved(conv: str) -> None:
    model, nodes, edges = make(conv).eval(), Dim("nodes"), Dim("edges")
    first, second = _graph(*drawn(0), 0)[0], _graph(*drawn(1, N + 7), 0)[0]
    tensors = [{0: nodes + 1}, {0: edges}, {0: edges}]
    exported, file = export(model, first, dynamic_shapes=({0: nodes}, tensors)), io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported.module(), torch.export.load(file).module()):
        for arguments in (first, second):
            assert_close(program(*arguments), model(*arguments))
            found = torch.autograd.grad(program(*arguments).square().sum(), list(program.parameters()))
            expected = torch.autograd.grad(model(*arguments).square().sum(), list(model.parameters()))
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_a_network_with_its_graph_inside_exports_and_goes_on(strict: bool) -> None:
    class WithGraph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.graph = make("gcn").eval(), _graph(*drawn(0), 0)[0][1]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.model(x, self.graph)
            return out

    module, x = WithGraph(), drawn(0)[0]
    with torch.no_grad():
        program = export(module, (x,), strict=strict).module()
    assert_close(program(x), module(x))
    assert_close(module(x), module.model(*drawn(0)))


@pytest.mark.parametrize("level", ["node", "graph"])
def test_other_networks_export(level: str) -> None:
    """With edge features, categories, graphs side by side, and statistics of nodes and graphs."""
    batch = torch.arange(2).repeat_interleave(N // 2)
    graph = Graph.from_edge_index(drawn(0)[1] % 20 + torch.arange(2).repeat_interleave(100) * 20, N, batch=batch)
    config = ModelConfig(conv="gen", num_layers=3, hidden_channels=24, norm="graph" if level == "graph" else "batch")
    model = build_model(
        config, GraphInfo(in_channels=2, num_outputs=3, edge_channels=4, categories=(5, 3), level=level)
    ).eval()
    arguments = torch.randint(0, 3, (N, 2)), graph, torch.randn(graph.num_edges, 4)
    assert_close(export(model, arguments).module()(*arguments), model(*arguments))


def test_what_cannot_be_exported_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"torch.export would record one seed for every call; call eval\(\)"):
        export(make(), drawn(0))
    implicit = make(coupling="residual", backprop="implicit", weight_tied=True).eval()
    with pytest.raises(RuntimeError, match="torch.export cannot follow an equilibrium.*set mode='unroll'"):
        export(implicit, drawn(0))
    implicit.stack.mode = "unroll"
    assert_close(export(implicit, drawn(0)).module()(*drawn(0)), implicit(*drawn(0)))


def test_a_graph_that_is_taken_apart_and_put_together_is_itself() -> None:
    graph = Graph.from_edge_index(drawn(0)[1], N, batch=torch.zeros(N, dtype=torch.int64))
    leaves, spec = pytree.tree_flatten({"graph": graph})
    assert pytree.tree_unflatten(leaves, spec)["graph"] is graph
    moved = pytree.tree_unflatten([leaf.clone() for leaf in leaves], spec)["graph"]
    assert moved is not graph and moved.num_nodes == N and torch.equal(moved.edge_index, graph.edge_index)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
