"""Sums in half precision: kept in float32 from the messages to the last division, whatever their number and size.

A sum of 65,536 ones, and the square of 256, are more than float16 can hold; a mean of them is not. All numbers are
powers of two: float32 rounds none of their sums, in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from revgnn import ops
from revgnn.graph import Graph
from revgnn.nn.convs import GATConv, GATOptions, GCNConv, GENConv, GENOptions, SAGEConv
from tolerances import assert_close

DTYPES = [torch.float16, torch.bfloat16]
LEAVES = 65_536


@pytest.fixture(scope="module")
def star() -> Graph:
    """Node 0 has all others as neighbours; the nodes are two graphs, all but the last in the first."""
    leaves = torch.arange(1, LEAVES + 1)
    batch = torch.zeros(LEAVES + 1, dtype=torch.int64)
    batch[-1] = 1
    return Graph.from_edge_index(torch.stack([leaves, torch.zeros_like(leaves)]), LEAVES + 1, batch=batch)


def _mean(g: Graph, x: Tensor) -> Tensor:
    return ops.spmm(x, g, reduce="mean")


CALLS: dict[str, Callable[[Graph, Tensor], Tensor]] = {
    "mean": _mean,
    "weighted mean": lambda g, x: ops.spmm(x, g, torch.full((LEAVES,), 1.0, dtype=x.dtype), reduce="mean"),
    "softmax": lambda g, x: ops.gen_aggr(x, g),
    "softmax, t": lambda g, x: ops.gen_aggr(x, g, t=torch.tensor(2.0, dtype=x.dtype)),
    "gen mean": lambda g, x: ops.gen_aggr(x, g, reduce="mean"),
    "power": lambda g, x: ops.gen_aggr(x, g, reduce="power", p=1.0),
    "edges": lambda g, x: ops.gen_aggr(x, g, x.new_zeros(LEAVES, 2), x.new_ones(4, 2), reduce="mean"),
    "edges softmax": lambda g, x: ops.gen_aggr(x, g, x.new_zeros(LEAVES, 2), x.new_ones(4, 2)),
    "attention": lambda g, x: ops.attention(x.view(-1, 2, 2), g, x.new_zeros(len(x), 2)).flatten(1),
    "attention of some": lambda g, x: ops.attention(
        x.view(-1, 2, 2), g, x.new_zeros(len(x), 2), x.new_zeros(len(x), 2), keep=torch.arange(LEAVES) >= 0
    ).flatten(1),
    "pool": lambda g, x: ops.pool(x, g),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("choice", ["reference", "auto"])
def test_a_mean_of_very_many(choice: ops.Choice, name: str, dtype: torch.dtype, star: Graph) -> None:
    x = torch.full((LEAVES + 1, 4), 8.0, dtype=dtype).requires_grad_()
    with ops.using(choice):
        out = CALLS[name](star, x)
        out[0].sum().backward()
    assert out.dtype == dtype
    assert_close(out[0].detach(), torch.full((4,), 8.0, dtype=dtype))
    assert x.grad is not None
    assert_close(x.grad.float().sum(0), torch.ones(4), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["batch", "graph", "layer"])
@pytest.mark.parametrize("choice", ["reference", "auto"])
def test_statistics_of_very_many(choice: ops.Choice, norm: ops.Norm, dtype: torch.dtype, star: Graph) -> None:
    x = (torch.arange(LEAVES + 1).remainder(2).mul(512).sub(256).unsqueeze(1) * torch.tensor([1, -1, 1, -1])).to(dtype)
    with ops.using(choice):
        out = ops.norm_act_drop(x, norm=norm, graph=star if norm == "graph" else None, act=False)
    assert out.dtype == dtype
    assert_close(out[:-1].float(), x[:-1].float() / 256, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", ["reference", "auto"])
def test_convolutions_of_a_hub(choice: ops.Choice, dtype: torch.dtype, star: Graph) -> None:
    """Degrees are counted, and their roots taken, in float32."""
    x = torch.full((LEAVES + 1, 4), 0.5, dtype=dtype)
    for conv in (
        GCNConv(4, 4),
        SAGEConv(4, 4),
        GATConv(4, 4, options=GATOptions(heads=2)),
        GENConv(4, 4, options=GENOptions(degree_scale=True, aggr="mean", mlp_layers=1)),
    ):
        with torch.no_grad():
            for parameter in conv.parameters():
                if parameter.dim() > 0:  # else an exponent, which half precision would round
                    parameter.fill_(0.5)
        with ops.using("reference"):
            expected = conv.double()(x.double(), star)[0].detach()
        with ops.using(choice):
            found = conv.to(dtype)(x, star)[0].detach()
        assert found.isfinite().all(), type(conv)
        assert_close(found / expected, torch.ones_like(expected), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_implementations_answer_in_the_same_types(dtype: torch.dtype) -> None:
    x, vector = torch.ones(5, 2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    for choice in ("reference", "auto"):
        with ops.using(choice):
            assert [score.dtype for score in ops.attention_scores(x, vector, vector)] == [torch.float32] * 2
            assert ops.norm_act_drop(x[:, 0], vector[0], vector[0]).dtype == dtype
            assert ops.norm_act_drop(x[:, 0], vector[0].float(), vector[0].float(), norm="batch").dtype == dtype
