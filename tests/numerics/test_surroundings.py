"""Surroundings that do not fit the table of `benchmarks.guarantees`: threads, layouts, hooks that keep inputs, meta."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from benchmarks.guarantees import SUBJECTS, D, E, F, N, Ordinary, T
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch_geometric.nn import GCN, GCNConv

import revgnn
from revgnn import ops
from revgnn.data import GraphInfo
from revgnn.implicit.equilibrium import Equilibrium
from revgnn.interop import GroupAddRev
from revgnn.nn.convs import SAGEOptions
from tolerances import relative_error

BACKPROPS = ("store", "reversible", "checkpoint")
X = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EDGES = torch.randint(N, (2, E), generator=torch.Generator().manual_seed(0))


class Bare(nn.Module):
    """A linear map as a block of a stack and of `GroupAddRev`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(channels, channels, dtype=torch.float64)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(x).tanh()


class Dropping(Bare):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(nn.functional.dropout(x, 0.3, self.training))


def made(block: type[nn.Module], backprop: str, *, num_layers: int = 3, **more: Any) -> nn.Module:
    """A stack, or with ``disable`` as the way a chain of reversible layers."""
    torch.manual_seed(0)
    if backprop in ("chain", "disable"):
        blocks = [nn.ModuleList([block(D // 2), block(D // 2)]) for _ in range(num_layers)]
        return nn.Sequential(*(GroupAddRev(two, disable=backprop == "disable") for two in blocks))
    arguments = {"coupling": "grouped", **more}
    return revgnn.Stack(block, channels=D, num_layers=num_layers, backprop=backprop, **arguments)  # type: ignore[arg-type]


def step(module: nn.Module, *context: Any, x: Tensor = X) -> Tensor:
    """The output of a training step and all gradients, one after another."""
    torch.manual_seed(5)
    leaf = x.detach().requires_grad_()
    y = module(leaf, *context)
    (y.sin() * torch.arange(D)).sum().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    grads = [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in grads]
    assert leaf.grad is not None
    return torch.cat([y.detach().flatten(), leaf.grad.flatten(), *(grad.flatten() for grad in grads)])


def assert_right(block: type[nn.Module], *context: Any, x: Tensor = X, **more: Any) -> None:
    """All ways to differentiate agree with storing everything."""
    for plain, *others in (BACKPROPS, ("disable", "chain")):
        expected = step(made(block, plain, **more), *context, x=x)
        for other in others:
            assert relative_error(step(made(block, other, **more), *context, x=x), expected) < 1e-9, other


# ---------------------------------------------------------------------- threads
@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*functions: Callable[[], object]) -> None:
    """Run functions in threads of their own; raise what one of them raised."""
    with ThreadPoolExecutor(len(functions)) as pool:
        list(pool.map(lambda function: function(), functions))


@pytest.mark.parametrize(
    "subject", ["model, reversible", "own block, checkpoint", "own block, implicit", "GroupAddRev"]
)
def test_two_threads_train_one_model(subject: str, switching: None) -> None:
    torch.manual_seed(0)
    model = SUBJECTS[subject](False).double().eval()
    parameters, x = list(model.parameters()), X[:, :F]

    def gradient() -> Tensor:
        found = torch.autograd.grad(model(x, EDGES).sin().sum(), parameters, allow_unused=True)
        return torch.cat([grad.flatten() for grad in found if grad is not None])

    expected, found = gradient(), []
    together(*2 * [lambda: found.extend(gradient() for _ in range(8))])
    assert len(found) == 16 and all(relative_error(one, expected) < 1e-9 for one in found)
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))


class Recording(Bare):
    """Multiplies by a mask from torch's generator, and keeps the masks of all evaluations."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor, *_: object) -> Tensor:
        self.masks.append(torch.rand_like(x) > 0.3)
        return self.lin(x) * self.masks[-1]


@pytest.mark.parametrize("way", ["reversible", "chain"])
def test_two_threads_draw_their_own_random_numbers(way: str, switching: None) -> None:
    def train(module: nn.Module) -> None:
        for _ in range(8):
            module(X).sum().backward()
            for block in module.modules():
                if isinstance(block, Recording):
                    assert all(torch.equal(mask, block.masks[0]) for mask in block.masks)
                    block.masks.clear()

    first, second = made(Recording, way), made(Recording, way)
    together(lambda: train(first), lambda: train(second))


# ---------------------------------------------------------------------- what a block is given, and what it keeps
def test_dropout_does_not_depend_on_the_order_of_the_streams_memory() -> None:
    columns = X.t().contiguous().t()
    assert_right(Dropping, x=columns)
    expected = step(made(Dropping, "store", coupling="residual"), x=columns)
    assert relative_error(step(made(Dropping, "checkpoint", coupling="residual"), x=columns), expected) < 1e-9
    assert relative_error(step(made(Dropping, "store", coupling="residual")), expected) < 1e-9


KEPT = (nn.BatchNorm1d, nn.LayerNorm, Ordinary, revgnn.nn.block.Block, revgnn.SAGEConv)


@pytest.mark.parametrize("are_common", [False, True])
@pytest.mark.parametrize("subject", ["model, reversible", "own block, checkpoint", "GroupAddRev"])
def test_inputs_that_hooks_keep_stay_what_they_were(subject: str, are_common: bool) -> None:
    def kept(stored: bool, training: bool, grad: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = SUBJECTS[subject](stored).double().train(training)
        found: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if isinstance(module, KEPT):
                found.setdefault(module, args[0].detach())

        if are_common:
            handles = [nn.modules.module.register_module_forward_pre_hook(keep)]
        else:
            handles = [part.register_forward_pre_hook(keep) for part in model.modules()]
        torch.manual_seed(5)
        with torch.set_grad_enabled(grad), ops.using("reference" if stored else "auto"):
            model(X[:, :F], EDGES)
        for handle in handles:
            handle.remove()
        return [found[module] for module in model.modules() if isinstance(module, KEPT)]

    for training in (True, False):
        expected = kept(True, training, True)
        assert len(expected) > 8
        for grad in (True, False):
            pairs = zip(kept(False, training, grad), expected, strict=True)
            assert all(relative_error(one, other) < 1e-9 for one, other in pairs)


class Writing(Bare):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(nn.functional.dropout(x, 0.3, inplace=True))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("way", "coupling"), [("reversible", "grouped"), ("checkpoint", "residual")])
def test_a_block_that_writes_to_its_input_is_refused(way: str, coupling: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="layer 0, group 0: Writing writes to its in"):
        made(Writing, way, coupling=coupling)(X)


def test_what_is_not_one_tensor_is_refused() -> None:
    class Two(Bare):
        def forward(self, x: Tensor, *_: object) -> tuple[Tensor, None]:  # type: ignore[override]
            return self.lin(x), None

    for backprop in BACKPROPS:
        with pytest.raises(TypeError, match="a block must return one tensor, got tuple"):
            made(Two, backprop)(X)


# ---------------------------------------------------------------------- attributes, buffers, process-wide settings
class Scaled(Bare):
    """Has a buffer that is learned."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("scale", torch.ones(channels, dtype=torch.float64, requires_grad=True))

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.lin(x * self.scale)


def test_a_buffer_that_needs_a_gradient_gets_one() -> None:
    def grads(way: str) -> Tensor:
        module = made(Scaled, way)
        for _ in range(2):
            module(X).sin().sum().backward()
        return torch.cat([buffer.grad for buffer in module.buffers() if buffer.grad is not None])

    expected = grads("store")
    assert expected.numel() == 3 * D
    for way in ("reversible", "checkpoint"):
        assert relative_error(grads(way), expected) < 1e-9
    assert relative_error(grads("chain"), grads("disable")) < 1e-9


class Cached(nn.Module):
    """PyG's cached convolution, whose cache is None or a tuple of tensors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = GCNConv(channels, channels, cached=True).double()

    def forward(self, x: Tensor, seed: int) -> Tensor:
        return self.conv(x, EDGES)


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint"])
def test_attributes_set_or_cleared_before_the_backward_stay(backprop: str) -> None:
    stack, mark = made(Cached, backprop), [1]
    convs = [part for part in stack.modules() if isinstance(part, GCNConv)]
    for part in convs:
        part.note = None
    loss = stack(X).sum()
    for part in convs:
        part.note = mark
    loss.backward()
    assert all(part.note is mark for part in convs)
    loss = stack(X).sum()
    for part in convs:
        part._cached_edge_index = None
    loss.backward()
    stack(X).sum().backward()


class ByDefault(Bare):
    """Depends on the default dtype and device."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        factor = {torch.float32: 1.0, torch.float64: 0.2}[torch.get_default_dtype()]
        return self.lin(x) * factor * (0.3 if torch.get_default_device().type == "meta" else 1.0)


@pytest.mark.parametrize("way", ["reversible", "checkpoint", "chain"])
def test_defaults_are_those_of_the_forward(way: str) -> None:
    def grads(way: str) -> Tensor:
        module = made(ByDefault, way)
        with torch.device("meta"):
            loss = module(X).sin().sum()
        torch.set_default_dtype(torch.float64)
        try:
            loss.backward()
            assert torch.get_default_dtype() is torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    assert relative_error(grads(way), grads("disable" if way == "chain" else "store")) < 1e-9


@pytest.mark.parametrize("around", [lambda: torch.device("meta"), FakeTensorMode], ids=["meta", "fake"])
@pytest.mark.parametrize("way", [*BACKPROPS, "chain"])
def test_tensors_without_values(way: str, around: Any) -> None:
    with around():
        module = made(Dropping, way)
        y = module(torch.randn(N, D, dtype=torch.float64))
        y.sum().backward()
    assert y.shape == (N, D) and all(p.grad is not None for p in module.parameters())


# ---------------------------------------------------------------------- weights that are computed
@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.parametrize("way", [*BACKPROPS, "chain"])
def test_shards_of_a_whole_stack_are_right_and_those_of_a_block_are_refused(way: str, one_rank: None) -> None:
    expected, whole, parts = step(made(Bare, way)), made(Bare, way), made(Bare, way)
    for module in whole if way == "chain" else [whole]:
        fully_shard(module)
    assert relative_error(step(whole), expected) < 1e-9
    for block in parts.modules():
        if isinstance(block, Bare):
            fully_shard(block)
    if way == "store":
        step(parts)
    else:
        with pytest.raises(RuntimeError, match=r"got FSDPBare; call fully_shard on the whole stack"):
            step(parts)


@pytest.mark.parametrize("part", ["head.lin", "stack.layers.1.0.norm", "stack.layers.1.0.conv.lin_l"])
def test_a_weight_that_another_network_computes_is_refused(part: str) -> None:
    config = revgnn.ModelConfig(conv="sage", num_layers=3, hidden_channels=D, backprop="reversible")
    model = revgnn.build_model(config, GraphInfo(in_channels=F, num_outputs=T))
    module, scale = model.get_submodule(part), torch.ones((), requires_grad=True)
    weight = module.weight.detach()
    del module.weight
    module.weight = weight * scale
    loss = model(X[:, :F].float(), EDGES).sum()
    with pytest.raises(RuntimeError, match=r"uses a tensor of shape \[.*\] that needs a gradient"):
        loss.backward()


# ---------------------------------------------------------------------- transforms and hooks of torch
def test_transforms_inside_and_around_a_reversible_layer() -> None:
    class Force(Bare):
        def forward(self, x: Tensor, *_: object) -> Tensor:
            return torch.func.grad(lambda z: self.lin(z).tanh().square().sum())(x)

    assert_right(Force)
    layers = made(Bare, "chain")
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(layers(forward_ad.make_dual(X, torch.ones_like(X)))).tangent
    expected = torch.func.jvp(made(Bare, "disable"), (X,), (torch.ones_like(X),))[1]
    assert relative_error(found.detach(), expected.detach()) < 1e-9
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        found = step(layers)
    assert relative_error(found, step(made(Bare, "disable"))) < 1e-9


def test_an_equilibrium_under_vmap_says_what_to_do() -> None:
    class Map(Bare):
        def forward(self, z: Tensor, seed: int, x: Tensor) -> Tensor:  # type: ignore[override]
            return 0.3 * self.lin(z).tanh() + x

    with pytest.raises(RuntimeError, match="a fixed point is differentiated by the implicit function theorem"):
        torch.func.vmap(Equilibrium(Map(D)))(torch.stack([X, X]))


def test_inference_layer_by_layer_is_refused() -> None:
    with pytest.raises(RuntimeError, match="the reversible stack is one layer of several hops"):
        revgnn.reversible(GCN(F, D, 6, T)).eval().inference(None)


# ---------------------------------------------------------------------- edges
def network(conv: str, backprop: str, **more: Any) -> revgnn.GNN:
    torch.manual_seed(0)
    config = revgnn.ModelConfig(conv=conv, num_layers=3, hidden_channels=D, dropout=0.0, backprop=backprop, **more)  # type: ignore[arg-type]
    return revgnn.build_model(config, in_channels=D, out_channels=T, edge_channels=3 if conv == "gen" else None)


@pytest.mark.parametrize("conv", ["gcn", "sage"])
@pytest.mark.parametrize("backprop", ["store", "reversible"])
def test_weights_of_edges_may_change_after_the_forward(conv: str, backprop: str) -> None:
    edges = EDGES[:, (EDGES[1] * N + EDGES[0]).argsort(stable=True)]
    graph, x = revgnn.Graph.from_edge_index(edges, N), X.float()
    assert graph.edge_ids is None

    def grads(change: bool) -> Tensor:
        model, weight = network(conv, backprop, sage=SAGEOptions(aggr="sum")), torch.linspace(0, 1, E)
        loss = model(x, graph, edge_weight=weight).sin().sum()
        if change:
            weight.mul_(3)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert relative_error(grads(True), grads(False)) < 1e-6
    model, weight, batch = network(conv, backprop, norm="graph").eval(), torch.rand(E), (torch.arange(N) > 9).long()
    before = model(x, graph, edge_weight=weight, batch=batch)
    weight.numpy()[:] = 0.5
    batch.numpy()[:] = 0
    after = model(x, graph, edge_weight=weight, batch=batch, batch_size=2)
    assert torch.equal(after, model(x, graph, edge_weight=weight.clone(), batch=batch.clone(), batch_size=2))
    assert not torch.equal(after, before)
    model.uses_edge_weight = True
    with pytest.raises(ValueError, match="edge weights are constants"):
        model(x, graph, torch.rand(E, 1, requires_grad=True))


def test_weights_of_a_graph_are_not_differentiated() -> None:
    graph, model, weight = revgnn.Graph.from_edge_index(EDGES, N), network("gcn", "store").eval(), torch.rand(E)

    def call(edge_weight: Tensor) -> Tensor:
        return model(X.float(), graph, edge_weight=edge_weight)

    needing = weight.clone().requires_grad_()
    for differentiate in (
        lambda: graph.weighted(needing),
        lambda: replace(graph, edge_weight=needing),
        lambda: torch.func.grad(lambda w: call(w).sum())(weight),
        lambda: torch.func.jvp(call, (weight,), (weight,)),
        lambda: torch.func.jvp(call, (weight[:, None],), (weight[:, None],)),
    ):
        with pytest.raises(ValueError, match="edge weights are constants"):
            differentiate()
    with pytest.raises(RuntimeError, match="cannot map over the edge weights"):
        torch.func.vmap(call)(torch.stack([weight, weight]))
    with torch.no_grad():
        assert torch.equal(call(needing), call(weight))


@pytest.mark.parametrize("backprop", ["store", "reversible"])
def test_a_modified_encoder_of_edge_features_is_called(backprop: str) -> None:
    model, x, attr = network("gen", backprop), X.float(), torch.rand(E, 3)
    encoder = model.edge_encoder
    assert encoder is not None
    plain = model(x, EDGES, attr)
    handle = encoder.register_forward_hook(lambda _module, _args, out: 2 * out)
    hooked = model(x, EDGES, attr)
    handle.remove()
    with torch.no_grad():
        encoder.weight *= 2
        encoder.bias *= 2
    doubled = model(x, EDGES, attr)
    assert relative_error(hooked.detach(), doubled.detach()) < 1e-5 < (plain - doubled).norm().detach()
    model.edge_encoder = nn.Sequential(nn.Linear(3, D), nn.ReLU(), nn.Linear(D, D))  # type: ignore[assignment]
    model(x, EDGES, attr).sum().backward()
    assert all(p.grad is not None for p in model.edge_encoder.parameters())
