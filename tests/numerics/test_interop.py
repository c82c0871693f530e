"""The drop-in for PyG's GroupAddRev: each defect of the original is a test here."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from chains import D, E, Example, Moving, N, assert_as_stored, chain, features, graph, make_layers, stored, weighted
from revgnn.interop import GroupAddRev
from tolerances import assert_close, relative_error

# ---------------------------------------------------------------------- one import in PyG's example


class ExampleNet(nn.Module):
    """PyG's example network, with the reversible layer to be chosen by an import."""

    def __init__(self, layer: Any, num_groups: int, depth: int = 5) -> None:
        super().__init__()
        self.dropout = 0.4
        self.lin1, self.lin2 = nn.Linear(7, D), nn.Linear(D, 3)
        self.norm = nn.LayerNorm(D)
        self.convs = nn.ModuleList(layer(Example(D // num_groups), num_groups=num_groups) for _ in range(depth))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.lin1(x)
        mask = torch.zeros_like(x).bernoulli_(1 - self.dropout) if self.training else None
        mask = None if mask is None else mask.requires_grad_(False) / (1 - self.dropout)
        for conv in self.convs:
            x = conv(x, edge_index, mask)
        x = nn.functional.dropout(self.norm(x).relu(), self.dropout, self.training)
        return self.lin2(x)


@pytest.mark.parametrize("num_groups", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_one_import_of_the_example_is_all_it_takes(num_groups: int, training: bool) -> None:
    results, keys = [], []
    for layer in (GroupAddRev, pyg.GroupAddRev):
        torch.manual_seed(0)
        net = ExampleNet(layer, num_groups).double().train(training)
        keys.append([(name, value) for name, value in net.state_dict().items()])
        logits = net(features(N, 7), graph())
        grads = torch.autograd.grad(weighted(logits), list(net.parameters()))
        results.append([logits, *grads])
    for (name, value), (other, expected) in zip(*keys, strict=True):
        assert name == other and torch.equal(value, expected), "the same seed makes the same weights"
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


# ---------------------------------------------------------------------- faults of the original


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_01_buffers_move_once_per_step(norm: str) -> None:
    def block(width: int) -> nn.Module:
        if norm == "batch":
            return pyg.GENConv(width, width, norm="batch")
        conv = pyg.SAGEConv(width, width)
        # Its forward moves buffers that its value depends on: a repetition needs them as they were.
        nn.utils.parametrizations.spectral_norm(conv.lin_l)
        return conv

    layers = make_layers(block)
    assert_as_stored(layers, lambda m, x: weighted(chain(m, x, graph())), 1e-11)
    if norm == "batch":
        assert {int(b) for name, b in layers.named_buffers() if name.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize("num_groups", [2, 3])
def test_02_ordinary_dropout_inside_a_block(num_groups: int) -> None:
    assert_as_stored(make_layers(Moving, num_groups=num_groups), lambda m, x: weighted(chain(m, x, graph())), 1e-11)


def test_02_random_numbers_of_the_caller_run_on_during_the_backward() -> None:
    layers = make_layers(Moving)
    y = weighted(chain(layers, features(), graph()))
    expected = torch.random.get_rng_state()
    y.backward()
    assert torch.equal(torch.random.get_rng_state(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_03_autocast_is_that_of_the_forward(dtype: torch.dtype) -> None:
    layers = make_layers(depth=16).float()
    x = features().detach().float()
    lin = nn.Linear(D, D)
    seen: set[torch.dtype] = set()
    for layer in layers:
        layer.convs[0].conv.register_forward_hook(lambda _, __, out: seen.add(out.dtype))

    def gradients(variant: nn.Module, on: bool) -> Tensor:
        parameters = [*lin.parameters(), *variant.parameters()]
        with torch.autocast("cpu", dtype, enabled=on):
            y = chain(variant, lin(x), graph())
        assert y.dtype == torch.float32
        grads = torch.autograd.grad(weighted(y), parameters)
        assert all(grad.dtype == torch.float32 for grad in grads)
        return torch.cat([grad.flatten() for grad in grads])

    exact = gradients(stored(layers), False)
    seen.clear()
    error = relative_error(gradients(layers, True), exact)
    assert seen == {dtype}, "both evaluations run under the forward's autocast"
    assert error <= 1.2 * relative_error(gradients(stored(layers), True), exact)


def test_04_nothing_of_the_callers_is_freed_or_written_to() -> None:
    layers = make_layers(depth=2)
    base = torch.randn(N, 2 * D, dtype=torch.double)
    before = base.clone()
    view = base[:, :D]
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            chain(layers, view, graph())
    layers.eval()
    chain(layers, view, graph())
    layers.train()
    h = base[:, :D].clone().requires_grad_() * 1
    middle = layers[0](h, graph())
    y = layers[1](middle, graph())
    kept = [tensor.detach().clone() for tensor in (h, middle, y)]
    (y + h).pow(2).sum().backward()
    for tensor, value in zip((h, middle, y, base), (*kept, before), strict=True):
        assert torch.equal(tensor, value)


def test_05_backward_as_often_as_the_graph_is_retained() -> None:
    def twice(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
        loss = chain(layers, x, graph()).pow(2).sum()
        wanted = [x, *layers.parameters()]
        rounds = [torch.autograd.grad(loss, wanted, retain_graph=True) for _ in range(3)]
        return [grad for grads in rounds for grad in grads]

    assert_as_stored(make_layers(), twice)
    loss = chain(make_layers(), features(), graph()).pow(2).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_06_a_forward_without_backward_leaves_nothing() -> None:
    layers = make_layers(Moving)
    gc.collect()
    gc.disable()
    try:
        y = chain(layers, features(), graph())
        tape = weakref.ref(y.grad_fn.lease().tape)
        del y
        assert tape() is None, "freed by counting references, without the garbage collector"
        loss = chain(layers, features(), graph()).sum()
        tape = weakref.ref(loss.grad_fn.next_functions[0][0].lease().tape)
        loss.backward()
        assert tape() is None, "and freed by the backward, while its result is still held"
    finally:
        gc.enable()


def test_07_frozen_and_unused_parameters() -> None:
    class Optional(Example):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.unused = nn.Parameter(torch.ones(3))

    assert_as_stored(make_layers(Optional), lambda m, x: weighted(chain(m, x, graph())))
    assert_as_stored(make_layers(Optional).requires_grad_(False), lambda m, x: weighted(chain(m, x, graph())))
    partly = make_layers()
    for layer in partly:
        layer.convs[1].norm.requires_grad_(False)
    assert_as_stored(partly, lambda m, x: weighted(chain(m, x, graph())))
    # Parameters alone: x is a leaf that needs nothing.
    assert_as_stored(
        make_layers(),
        lambda m, x: torch.autograd.grad(weighted(chain(m, x.detach(), graph())), list(m.parameters())),
    )


@pytest.mark.parametrize("front", [nn.Identity(), nn.Linear(D, D).double()])
def test_08_second_derivatives_are_refused(front: nn.Module) -> None:
    x, layers = features(), make_layers()

    def penalty(variant: nn.Module) -> Tensor:
        (grad,) = torch.autograd.grad(weighted(chain(variant, front(x), graph())), x, create_graph=True)
        return grad.pow(2).sum()

    with pytest.raises(RuntimeError, match="cannot be differentiated twice.*disable=True"):
        penalty(layers).backward()
    penalty(stored(layers)).backward()
    # The gradient of the last layer's weight depends on the first layer's through the chain.
    last, first = list(layers[-1].parameters()), list(layers[0].parameters())
    (grad,) = torch.autograd.grad(weighted(chain(layers, x.detach(), graph())), last[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice.*disable=True"):
        torch.autograd.grad(grad.pow(2).sum(), first, allow_unused=True)


def test_08_functional_transforms_work() -> None:
    layers, x = make_layers(), features().detach()
    parameters = {name: p.detach() for name, p in layers.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        for k, layer in enumerate(layers):
            own = {name.removeprefix(f"{k}."): v for name, v in values.items() if name.startswith(f"{k}.")}
            x = torch.func.functional_call(layer, own, (x, graph()))
        return weighted(x)

    found = torch.func.grad(loss)(parameters, x)
    weighted(chain(layers, x, graph())).backward()
    for name, parameter in layers.named_parameters():
        assert_close(found[name], parameter.grad)


class Weighted(nn.Module):
    """A block with edge weights [E], edge features and a mask, in the caller's own order and containers."""

    def __init__(self, channels: int, edge_channels: int = D) -> None:
        super().__init__()
        self.conv = pyg.GraphConv(channels, channels)
        self.lin = nn.Linear(edge_channels, 1)

    def forward(
        self, x: Tensor, edge_index: Tensor, weight: Tensor, edge_attr: Tensor, *, extra: dict[str, Any]
    ) -> Tensor:
        assert weight.dim() == 1 and edge_attr.size(1) == D
        scale = weight + self.lin(edge_attr).squeeze(1) + extra["more"][0]
        return self.conv(x * extra["mask"] if "mask" in extra else x, edge_index, scale)


@pytest.mark.parametrize("num_edges", [D, N, E])
def test_09_edge_arguments_are_whole_whatever_their_size(num_edges: int) -> None:
    """Also where E = D (weights as long as x is wide) and where E = N (edge features shaped like x)."""
    ei = graph(num_edges=num_edges)
    weight, edge_attr, more = (
        torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((num_edges,), (num_edges, D), (1,))
    )

    def program(layers: nn.ModuleList, x: Tensor) -> Sequence[Tensor]:
        for layer in layers:
            x = layer(x, ei, weight, edge_attr=edge_attr, extra={"more": (more, None)})
        return torch.autograd.grad(weighted(x), [weight, edge_attr, more, *layers.parameters()])

    assert_as_stored(make_layers(Weighted), program, 1e-11)


def test_09_what_is_cut_and_what_is_shared() -> None:
    class Seen(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.widths = [v.size(-1) if isinstance(v, Tensor) else v for v in (*args, *kwargs.values())]
            return x * 0

    def seen(num_edges: int, *args: Any, split_args: Any = None, **kwargs: Any) -> list[Any]:
        layer = GroupAddRev(Seen(), num_groups=2, split_args=split_args)
        layer(torch.zeros(N, D), graph(num_edges=num_edges), *args, **kwargs)
        return layer.convs[1].widths

    mask, row, flat = torch.ones(N, D, dtype=torch.bool), torch.ones(1, D), torch.ones(D)
    assert seen(E, mask, row, flat, None, 3) == [D // 2, D // 2, D, None, 3]
    assert seen(E, torch.ones(E, D), torch.ones(N, D - 1), torch.ones(N, D).long()) == [D, D - 1, D]
    assert seen(N, edge_weight=torch.ones(N, D), mask=mask) == [D, D // 2], "a name tells where shapes do not"
    with pytest.raises(ValueError, match=r"argument 1 after x is \[20, 12\]: with 20 edges .* split_args"):
        seen(N, mask)
    assert seen(N, mask, flat, split_args=[1, 2]) == [D // 2, D // 2]
    assert seen(E, mask, mask=mask, split_args=["mask"]) == [D, D // 2]
    assert seen(E, mask, split_args=[]) == [D]
    with pytest.raises(ValueError, match="split_args names 'mask', but the call has the arguments"):
        seen(E, split_args=["mask"])
    with pytest.raises(ValueError, match=r"argument 1 of shape \[20, 5\] cannot be cut into 2 groups"):
        seen(E, torch.ones(N, 5), split_args=[1])


def test_09_a_mask_that_needs_a_gradient() -> None:
    mask = torch.rand(N, D, dtype=torch.double, requires_grad=True)
    embedded = torch.rand(1, D, dtype=torch.double, requires_grad=True)

    def program(layers: nn.ModuleList, x: Tensor) -> Sequence[Tensor]:
        y = chain(layers, chain(layers, x, graph(), mask), graph(), embedded)
        return torch.autograd.grad(weighted(y), [mask, embedded, *layers.parameters()])

    assert_as_stored(make_layers(num_groups=3), program)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # asked for while it traces
def test_10_compile_of_a_network_and_of_a_block() -> None:
    layers, x = make_layers(depth=2), features()
    expected = torch.autograd.grad(weighted(chain(stored(layers), x, graph())), x)[0]
    network = torch.compile(lambda x, ei: chain(layers, x * 1.0, ei).sin(), backend="aot_eager")
    found = torch.autograd.grad(weighted(network(x, graph())), x)[0]
    assert_close(found, torch.autograd.grad(weighted(chain(stored(layers), x, graph()).sin()), x)[0])
    for layer in layers:
        layer.convs = nn.ModuleList(torch.compile(b, fullgraph=True, backend="aot_eager") for b in layer.convs)
    assert_close(torch.autograd.grad(weighted(chain(layers, x, graph())), x)[0], expected)
    whole = torch.compile(make_layers(depth=1)[0].requires_grad_(False), fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile its block, or set disable=True"):
        whole(x, graph())
    whole.disable = True
    whole(x, graph()).sum().backward()


@pytest.mark.parametrize(("channels", "groups", "remedy"), [(30, 4, "28 or 32"), (10, 4, "8 or 12"), (3, 4, "4")])
def test_11_a_width_that_does_not_divide(channels: int, groups: int, remedy: str) -> None:
    layer = GroupAddRev(nn.Identity(), num_groups=groups)
    with pytest.raises(ValueError, match=f"{channels} channels .*num_groups={groups}; choose {remedy}"):
        layer(torch.zeros(N, channels), graph())


def test_12_groups_start_from_different_weights() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))

    layer = GroupAddRev(Bare(), num_groups=3)
    weights = [conv.inner[1].weight for conv in layer.convs]
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
    layer.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in pairwise([conv.inner[1].weight for conv in layer.convs]))


def test_13_two_evaluations_per_step() -> None:
    layers = make_layers(Moving)
    convs = [conv for layer in layers for conv in layer.convs]
    chain(layers, features(), graph()).sum().backward()
    assert {len(conv.calls) for conv in convs} == {3}, "the first step asks whether a block repeats its value"
    chain(layers, features(), graph()).sum().backward()
    assert {len(conv.calls) for conv in convs} == {5}
    layers.eval()
    with torch.no_grad():
        chain(layers, features(), graph())
    assert {len(conv.calls) for conv in convs} == {6}


# ---------------------------------------------------------------------- inside other tools


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """Random numbers of the device, batch statistics and autocast, differentiated in autograd's own thread."""
    layers = make_layers(Moving, depth=8).float().cuda()
    ei, x = graph().cuda(), features().detach().float().cuda().requires_grad_()
    found = []
    for variant in (layers, stored(layers)):
        torch.manual_seed(5)
        with torch.autocast("cuda", torch.bfloat16):
            y = chain(variant, x, ei)
        grads = torch.autograd.grad(weighted(y.cpu()), [x, *variant.parameters()])
        found.append([torch.cat([grad.flatten() for grad in grads]), *variant.buffers(), torch.rand(3, device="cuda")])
    assert relative_error(found[0][0], found[1][0]) < 0.05
    for actual, expected in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)


def test_copies_pickles_and_state_dicts() -> None:
    layers = make_layers(Moving)
    y = chain(layers, features(), graph())
    twins = [copy.deepcopy(layers), pickle.loads(pickle.dumps(layers)), make_layers(Moving)]
    twins[2].load_state_dict(layers.state_dict())
    for twin in twins:
        twin.eval()
        assert_close(chain(twin, features(), graph()), chain(layers.eval(), features(), graph()))
    y.sum().backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_inside_a_checkpoint(use_reentrant: bool) -> None:
    def program(layers: nn.ModuleList, x: Tensor) -> Tensor:
        middle = torch.utils.checkpoint.checkpoint(
            lambda x: chain(layers[:2], x.sin(), graph()).cos(), x, use_reentrant=use_reentrant
        )
        return weighted(chain(layers[2:], middle, graph()))

    def gradients(layers: nn.ModuleList, x: Tensor) -> list[Tensor | None]:
        program(layers, x).backward()
        return [x.grad, *(p.grad for p in layers.parameters())]

    assert_as_stored(make_layers(), gradients)


def test_gradient_scaler() -> None:
    layers = make_layers().float()
    lin = nn.Linear(D, D)
    optimizer = torch.optim.SGD([*lin.parameters(), *layers.parameters()], lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = chain(layers, lin(features().detach().float()), graph()).pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and scaler.get_scale() == 2.0**8


def test_export_and_explanation() -> None:
    layers = make_layers(depth=2).eval()
    program = torch.export.export(layers[0], (features(), graph()))
    assert_close(program.module()(features(), graph()), layers[0](features(), graph()))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_other_forms_of_a_graph() -> None:
    layers, ei = make_layers(), graph()
    ones = torch.ones(E, dtype=torch.double)
    adjacency = torch.sparse_coo_tensor(ei.flip(0), ones, (N, N), check_invariants=True).coalesce()
    ordered = adjacency.indices().flip(0)
    expected = torch.autograd.grad(weighted(chain(layers, x := features(), ordered)), x)[0]
    # SAGE's mean over a sparse matrix divides by the sum of its values: repeated edges are one of weight one.
    adjacency.values().fill_(1.0)
    csr = adjacency.to_sparse_csr()
    for form in (csr, ordered.contiguous()):
        assert_close(torch.autograd.grad(weighted(chain(layers, x, form)), x)[0], expected)


def test_lazy_blocks_take_their_shape_from_the_first_call() -> None:
    layer = GroupAddRev(pyg.SAGEConv(-1, D // 2), num_groups=2)
    layer(features().float(), graph()).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("num_groups", [2, 4])
def test_inverse(num_groups: int) -> None:
    layers = make_layers(num_groups=num_groups)
    x = features()
    y = layers[0](x, graph())
    assert_close(layers[0].inverse(y, graph()), x)
    assert torch.autograd.gradcheck(
        lambda y: layers[0].inverse(y, graph()), y.detach().requires_grad_(), fast_mode=True
    )


# ---------------------------------------------------------------------- the border


def test_what_cannot_be_a_layer() -> None:
    with pytest.raises(ValueError, match="num_groups must be 2 or more .*got 1"):
        GroupAddRev(nn.Linear(4, 4), num_groups=1)
    with pytest.raises(ValueError, match="num_groups must be 2 or more .*got 1"):
        GroupAddRev(nn.ModuleList([nn.Linear(4, 4)]))
    with pytest.raises(ValueError, match="num_groups must be given, unless conv is a ModuleList"):
        GroupAddRev(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="num_groups=3 but conv lists 2 blocks"):
        GroupAddRev(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), num_groups=3)
    with pytest.raises(ValueError, match="split_dim=0 would cut the nodes"):
        GroupAddRev(nn.Linear(4, 4), 0, 2)
    with pytest.raises(ValueError, match="num_bwd_passes must be 1 or more"):
        GroupAddRev(nn.Linear(4, 4), num_groups=2, num_bwd_passes=0)
    with pytest.raises(ValueError, match="split_dim=2 is not a dimension of channels"):
        GroupAddRev(nn.Linear(4, 4), 2, 2)(torch.zeros(3, 8))


@pytest.mark.parametrize("disable", [True, False])
def test_what_cannot_be_a_block(disable: bool) -> None:
    x = torch.zeros(3, 8, requires_grad=True)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match=r"keep the shape of its input: got \[3, 1\] from \[3, 4\]"):
        GroupAddRev(nn.Linear(4, 1), num_groups=2, disable=disable)(x)
    with pytest.raises(TypeError, match="must return one tensor, got tuple"):
        GroupAddRev(Pair(), num_groups=2, disable=disable)(x)


def test_a_block_that_writes_to_its_input() -> None:
    layer = GroupAddRev(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), num_groups=2)
    with pytest.raises(RuntimeError, match="group 0 writes to its input"):
        layer(torch.zeros(3, 8))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()
