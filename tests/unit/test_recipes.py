"""Every recipe: it builds, has the parameters that the paper's row has, takes a step, and marks what it assumes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from revgnn.graph import Graph
from revgnn.models import build_model
from revgnn.overrides import flatten
from revgnn.recipes import all_recipes, find_recipe, summary
from revgnn.run import Run

ATOMS = (119, 5, 12, 12, 10, 6, 6, 2, 2)
SHAPES: dict[str, dict[str, Any]] = {
    "digits": {"in_channels": 64, "out_channels": 10},
    "ogbn-arxiv": {"in_channels": 128, "out_channels": 40},
    "ogbg-molhiv": {
        "in_channels": 9,
        "out_channels": 1,
        "edge_channels": 13,
        "categories": ATOMS,
        "level": "graph",
    },
}
RECIPES = all_recipes()
TARGETS = {name: paper for name, recipe in RECIPES.items() if (paper := recipe().paper) is not None}


def _shape(run: Run) -> dict[str, Any]:
    return SHAPES[run.dataset.name]


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is_and_the_same_each_time(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe() == recipe()
    assert 10 < len(summary(recipe)) < 80, "one line of the list"
    assert find_recipe(name) is recipe


@pytest.mark.parametrize("name", [name for name, paper in TARGETS.items() if paper.parameters is not None])
def test_it_has_the_parameters_of_the_paper_to_the_unit(name: str) -> None:
    run = RECIPES[name]()
    with torch.device("meta"):
        model = build_model(run.model, **_shape(run))
    assert sum(parameter.numel() for parameter in model.parameters()) == TARGETS[name].parameters


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_assumes_are_fields_of_it(name: str) -> None:
    fields = flatten(RECIPES[name]())
    for assumed in TARGETS[name].assumed:
        assert any(field == assumed or field.startswith(f"{assumed}.") for field in fields), assumed


@pytest.mark.parametrize("name", RECIPES)
def test_it_takes_a_step(name: str) -> None:
    run = RECIPES[name]()
    shape = _shape(run)
    nodes, edges = 12, 30
    batch = torch.arange(nodes) // 6 if "level" in shape else None
    x: Tensor = torch.randn(nodes, shape["in_channels"])
    if "categories" in shape:
        x = torch.stack([torch.randint(0, size, (nodes,)) for size in shape["categories"]], dim=1)
    graph = Graph.from_edge_index(torch.randint(0, nodes, (2, edges)), nodes, batch=batch)
    edge_attr = torch.rand(edges, shape["edge_channels"]) if "edge_channels" in shape else None
    model = build_model(run.model, **shape)
    out = model(x, graph, edge_attr, seed=1)
    assert out.shape == (nodes if batch is None else 2, shape["out_channels"])
    out.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


def test_an_unknown_recipe_names_those_alike() -> None:
    with pytest.raises(ValueError, match="there is no recipe .*; choose one of ogbn-arxiv/revgcn_deep"):
        find_recipe("ogbn-arxiv/revgcn_dep")
