"""Every recipe: it builds, has the parameters of the paper's row, trains on data of its shape, says what it assumes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from revgnn.cli import main
from revgnn.data import Dataset, GraphInfo, ProteinsFeatures, make_batches
from revgnn.data.edges import prepare_edges
from revgnn.data.readers.ogb import ATOM_CATEGORIES, BOND_CATEGORIES
from revgnn.experiment import Experiment, make_model
from revgnn.nn.model import ModelConfig
from revgnn.paper.baselines import BaselineConfig
from revgnn.paper.recipes import all_recipes, find_recipe, recipe_summaries
from revgnn.paper.targets import TARGETS
from revgnn.plain_config import flatten
from revgnn.train import METRICS, Goal, fit
from revgnn.train.distill import save_logits

RECIPES = all_recipes()

SECTION_2 = {
    "ogbn-proteins/revgnn_deep": (20_031_384, "20.03M"),
    "ogbn-proteins/revgnn_wide": (68_471_608, "68.47M"),
    "ogbn-proteins/deepergcn": (2_374_568, "2.37M"),
    "ogbn-proteins/gcn": (96_880, "96.9k"),
    "ogbn-proteins/sage": (193_136, "193k"),
    "ogbn-proteins/gat": (2_475_232, "2.48M"),
    "ogbn-proteins/unimp": (1_909_104, "1.91M"),
    "ogbn-proteins/unimp_cef": (1_959_984, "1.96M"),
    "ogbn-proteins/resgnn_64": (2_374_456, "2.37M"),
    "ogbn-proteins/resgnn_224": (28_380_536, "28.4M"),
    "ogbn-proteins/revgnn_64": (1_457_080, "1.46M"),
    "ogbn-proteins/revgnn_80": (2_251_384, "2.25M"),
    "ogbn-proteins/revgnn_224": (17_141_560, "17.1M"),
    "ogbn-proteins/wt_resgnn_64": (51_256, "51.2k"),
    "ogbn-proteins/wt_revgnn_64": (35_000, "35.0k"),
    "ogbn-proteins/wt_revgnn_80": (51_384, "51.4k"),
    "ogbn-proteins/wt_revgnn_224": (337_080, "337k"),
    "ogbn-proteins/deq_gnn_64": (51_256, "51.3k"),
    "ogbn-proteins/deq_gnn_224": (537_336, "537k"),
    "ogbn-arxiv/resgcn": (491_176, "491k"),
    "ogbn-arxiv/revgcn_deep": (262_056, "262k"),
    "ogbn-arxiv/revgcn_wide": (499_540, "500k"),
    "ogbn-arxiv/ressage": (949_928, "950k"),
    "ogbn-arxiv/revsage": (491_432, "491k"),
    "ogbn-arxiv/revsage_wide": (953_140, "953k"),
    "ogbn-arxiv/resgen": (491_176, "491k"),
    "ogbn-arxiv/revgen": (262_056, "262k"),
    "ogbn-arxiv/revgen_wide": (499_540, "500k"),
    "ogbn-arxiv/resgat": (3_867_728, "3.87M"),
    "ogbn-arxiv/revgat": (2_098_256, "2.10M"),
    "ogbn-arxiv/revgat_wide": (3_879_056, "3.88M"),
    "ogbn-arxiv/revgat_selfkd": (2_098_256, "2.10M"),
    "ogbn-arxiv/gcn": (110_120, "143k"),
    "ogbn-arxiv/sage": (218_664, "219k"),
    "ogbn-arxiv/dagnn": (43_857, "43.9k"),
    "ogbn-arxiv/gcnii": (2_148_648, "2.15M"),
    "ogbn-arxiv/gat": (1_441_580, "1.44M"),
    "ogbn-arxiv/unimp_v2": (684_969, "687k"),
    "ogbn-products/revgnn_full_batch": (2_945_007, "2.95M"),
    "ogbn-products/revgnn_mini_batch": (2_945_007, "2.95M"),
}
"""Closed forms of every row, found from the paper's and OGB's figures alone, and how the paper prints them."""

PROTEINS = ProteinsFeatures()
ROWS = {1: 8, 2: 10, 3: 12, 6: 11}
"""Table -> how many rows it has."""
DIFFERS = {"ogbn-proteins/wt_resgnn_64", "ogbn-arxiv/gcn", "ogbn-arxiv/unimp_v2"}
"""Rows whose printed count is not that of the network."""


# ------------------------------------------------------------------ data of the right shape
@cache
def little(name: str, proteins: ProteinsFeatures = PROTEINS) -> Dataset:
    """A few random nodes with the features, edge features, labels and metric of a data set."""
    make = torch.Generator().manual_seed(0)
    nodes = {"digits": 12, "ogbn-proteins": 8, "ogbg-molhiv": 24}.get(name, 16)
    shape: dict[str, Any] = {"level": "node", "task": "multiclass", "metric": "accuracy"}
    edge_index = torch.randint(nodes, (2, 30), generator=make)
    if name in ("minesweeper", "tables"):  # undirected
        edge_index = torch.cat([edge_index[:, :15], edge_index[:, :15].flip(0)], 1)
    if name == "ogbn-proteins":
        columns = 16 if proteins.species else 8
        y = torch.arange(nodes * 112).reshape(nodes, 112).remainder(2).float()
        y[1::2] = 1.0 - y[1::2]
        shape |= {"task": "multilabel", "metric": "rocauc", "num_outputs": 112, "y": y}
        shape |= {"x": torch.rand(nodes, columns, generator=make), "edge_attr": torch.rand(30, 8, generator=make)}
    elif name in ("minefield", "minesweeper"):
        shape |= {"task": "multilabel", "metric": "rocauc", "num_outputs": 1}
        shape |= {"x": torch.eye(7)[torch.arange(nodes) % 7], "y": torch.arange(nodes).remainder(2).float()[:, None]}
    elif name == "ogbg-molhiv":
        # Paths of three atoms and one atom alone.
        bond = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        edge_index = torch.cat([bond + 4 * graph for graph in range(6)], dim=1)
        codes = [torch.randint(size, (nodes,), generator=make) for size in ATOM_CATEGORIES]
        bonds = [torch.randint(size, (24,), generator=make) for size in BOND_CATEGORIES]
        shape |= {"level": "graph", "task": "multilabel", "metric": "rocauc", "num_outputs": 1}
        shape |= {"x": torch.stack(codes, 1).byte(), "edge_attr": torch.stack(bonds, 1).byte()}
        shape |= {"categories": ATOM_CATEGORIES, "edge_categories": BOND_CATEGORIES}
        shape |= {"node_ptr": torch.arange(0, nodes + 1, 4), "edge_ptr": torch.arange(0, 25, 4)}
        shape |= {"y": torch.tensor([[0.0], [1.0]] * 3)}
    else:
        features, classes = {
            "chain": (2, 2),
            "digits": (64, 10),
            "cora": (1433, 7),
            "roads": (3, 10),
            "ogbn-arxiv": (128, 40),
            "ogbn-products": (100, 47),
            "tables": (128, 40),
        }[name]
        shape |= {"x": torch.randn(nodes, features, generator=make), "num_outputs": classes}
        shape |= {"y": torch.arange(nodes) % classes}
    rows = shape["y"].size(0)
    splits = {"train": torch.arange(rows - 4), "valid": torch.arange(rows - 4, rows - 2)}
    info = {field.name: shape.pop(field.name) for field in fields(GraphInfo) if field.name in shape}
    splits["test"] = torch.arange(rows - 2, rows)
    return Dataset(info=GraphInfo(name=name, **info), edge_index=edge_index, splits=splits, **shape)


def dataset_of(run: Experiment) -> Dataset:
    found = little(run.dataset.name, run.dataset.proteins)
    if not run.dataset.edge_features:
        found = replace(found, edge_attr=None)
    return prepare_edges(found, undirected=run.dataset.undirected, self_loops=run.dataset.self_loops)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------ what they are
@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is_and_the_same_each_time(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe() == recipe()
    assert 10 < len(recipe_summaries()[name]) < 80, "one line of the list"
    assert find_recipe(name) is recipe


def test_every_row_of_the_paper_is_there_once() -> None:
    found = sorted((place.table, place.row) for paper in TARGETS.values() for place in paper.places)
    assert found == [(table, row) for table, length in ROWS.items() for row in range(1, length + 1)]


def test_every_row_with_a_count_is_in_the_list_of_counts() -> None:
    assert {name for name, paper in TARGETS.items() if paper.parameters is not None} == set(SECTION_2)


@pytest.mark.parametrize("name", SECTION_2)
def test_it_has_the_parameters_of_the_row_to_the_unit(name: str) -> None:
    parameters, printed = SECTION_2[name]
    run = RECIPES[name]()
    dataset = dataset_of(run)
    with torch.device("meta"):
        model = make_model(run, dataset.info)
    assert count(model) == parameters == TARGETS[name].parameters
    assert TARGETS[name].printed == printed
    assert (_rounded(parameters, printed) != printed) == (name in DIFFERS)
    if name in DIFFERS:
        assert any("printed count" in note and f"{parameters:,}" in note for note in TARGETS[name].notes)


def _rounded(value: int, like: str) -> str:
    digits = len(like[:-1].partition(".")[2])
    return f"{value / {'M': 1e6, 'k': 1e3}[like[-1]]:.{digits}f}{like[-1]}"


@pytest.mark.parametrize("name", TARGETS)
def test_what_it_assumes_are_fields_of_it(name: str) -> None:
    fields = flatten(RECIPES[name]())
    for assumed in TARGETS[name].assumed:
        assert any(field == assumed or field.startswith(f"{assumed}.") for field in fields), assumed


def test_a_student_is_its_teacher_but_for_the_teacher() -> None:
    teacher, student = RECIPES["ogbn-arxiv/revgat"](), RECIPES["ogbn-arxiv/revgat_selfkd"]()
    assert (student.model, student.dataset) == (teacher.model, teacher.dataset)
    assert teacher.train.keep_logits and teacher.train.teacher.path is None
    same = replace(student.train, keep_logits=True, teacher=teacher.train.teacher)
    assert same == teacher.train
    assert student.train.teacher.path is not None and "{seed}" in student.train.teacher.path


@pytest.mark.parametrize("conv", ["gcn", "sage", "gen", "gat"])
def test_res_and_rev_of_arxiv_text_have_equally_many_parameters(conv: str) -> None:
    res, rev = (RECIPES[f"arxiv-text/{kind}{conv}"]() for kind in ("res", "rev"))
    counts = [count(make_model(run, dataset_of(run).info)) for run in (res, rev)]
    assert abs(counts[0] / counts[1] - 1.0) < 0.02, counts


def test_few_recipes_take_labels_as_input() -> None:
    takes = {name for name, recipe in RECIPES.items() if recipe().train.labels.reuse}
    assert takes == {
        *(f"ogbn-arxiv/{name}" for name in ("gat", "unimp_v2", "resgat", "revgat", "revgat_wide", "revgat_selfkd")),
        "ogbn-proteins/unimp",
        "ogbn-proteins/unimp_cef",
        "arxiv-text/revgat_labels",
        "arxiv-text/revgat_selfkd",
        "arxiv-text/revsage_56",
    }


def test_the_list_of_recipes_for_programs_has_every_row_with_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = {row["name"]: row["paper"] for row in json.loads(capsys.readouterr().out)}
    counts = {name: paper["parameters"] for name, paper in listed.items() if paper and paper["parameters"] is not None}
    assert counts == {name: parameters for name, (parameters, _) in SECTION_2.items()}
    places = sorted((place["table"], place["row"]) for paper in listed.values() if paper for place in paper["places"])
    assert places == [(table, row) for table, length in ROWS.items() for row in range(1, length + 1)]


# ------------------------------------------------------------------ they train
@pytest.mark.filterwarnings("ignore::revgnn.implicit.fixed_point.ConvergenceWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_it_trains_two_steps(name: str, tmp_path: Path) -> None:
    run, dataset = RECIPES[name](), dataset_of(RECIPES[name]())
    parts = run.loader.kind in ("random", "clusters")
    train = replace(run.train, epochs=1 if parts else 2, eval_every=2, warmup_epochs=0, checkpoint_every=None)
    if parts:
        # An epoch of two parts is two steps; more parts than nodes would leave empty ones.
        together = 1 if run.loader.kind == "clusters" else None
        few = replace(run.loader, num_parts=2, parts_per_batch=together, eval_parts=1, final_parts=None, final_views=1)
        run = replace(run, loader=few)
    if isinstance(run.model, ModelConfig) and run.model.backprop == "implicit":
        # Solved, with a few iterations: the structure is the row's.
        options = replace(run.model.equilibrium, pretrain_epochs=0, max_iter=6, backward_max_iter=6)
        run = replace(run, model=replace(run.model, equilibrium=options))
    if train.teacher.path is not None:
        path = save_logits(tmp_path, torch.randn(dataset.num_nodes, dataset.info.num_outputs))
        train = replace(train, teacher=replace(train.teacher, path=str(path)))
    model = make_model(run, dataset.info)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = fit(
        model,
        make_batches(dataset, run.batch_size, 1, run.loader),
        replace(train, keep_logits=False),
        metric=Goal(metric=dataset.info.metric, num_outputs=dataset.info.num_outputs),
        device="cpu",
    )
    assert result.steps == 2 or run.loader.kind == "neighbor"
    assert result.metric in METRICS and result.scores["valid"]["metric"] is not None
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before), sorted(set(before) - set(moved))


def test_an_unknown_recipe_names_those_alike() -> None:
    with pytest.raises(ValueError, match="there is no recipe .*; choose one of ogbn-arxiv/revgcn_deep"):
        find_recipe("ogbn-arxiv/revgcn_dep")


def test_peers_name_what_they_lack() -> None:
    run = RECIPES["ogbn-arxiv/gcn"]()
    assert isinstance(run.model, BaselineConfig)
    lacking = replace(run, model=replace(run.model, kind="edge_gat"))
    with pytest.raises(ValueError, match="reads edge features, and the data has none"):
        make_model(lacking, dataset_of(run).info)
    with pytest.raises(ValueError, match=r"takes labels as input; set train\.labels\.reuse=true"):
        make_model(replace(run, model=replace(run.model, kind="unimp")), dataset_of(run).info)
    with pytest.raises(ValueError, match="hidden_channels=250 must be divisible by heads=3"):
        replace(run.model, hidden_channels=250, heads=3)
    with pytest.raises(ValueError, match="ogbg-molhiv is graph-level"):
        make_model(run, little("ogbg-molhiv").info)
