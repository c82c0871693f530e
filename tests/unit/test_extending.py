"""The code of docs/extending.md runs as it stands there, and what it makes is what the page says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.library import opcheck

from page_code import ROOT, blocks, promised, run_code
from revgnn import ops
from revgnn.data import DATASETS, SAMPLERS, TASKS
from revgnn.graph import Graph
from revgnn.nn import CONVS
from revgnn.ops import cpu, reference, triton
from revgnn.train import LOSSES, METRICS
from tolerances import assert_close

PAGE = ROOT / "docs" / "extending.md"


SECTIONS = {
    section.partition("\n")[0]: blocks(section, "python")
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
}


@pytest.fixture(autouse=True)
def _tables() -> Iterator[None]:
    """Leave the tables of the package as they were."""
    tables: tuple[dict[Any, Any], ...] = (DATASETS, TASKS, LOSSES, METRICS, CONVS, SAMPLERS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def run_section(title: str) -> ModuleType:
    """Run the Python blocks of one section of the page, one after another, as one module."""
    assert SECTIONS[title], f"the section {title!r} has no code"
    return run_code(f"{PAGE.name}: {title}", SECTIONS[title])


@pytest.mark.parametrize("title", sorted(set(SECTIONS) - {"A kernel"}))
def test_the_code_of_a_section_runs_and_prints_what_it_promises(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run_section(title)
    expected = promised(SECTIONS[title])
    assert capsys.readouterr().out.splitlines()[: len(expected)] == expected


# ---------------------------------------------------------------------- a kernel
@pytest.fixture(scope="module")
def kernel_page() -> Iterator[ModuleType]:
    if not cpu.AVAILABLE:
        pytest.skip(cpu.STATE)
    before = set(cpu.BACKEND.names)
    yield run_section("A kernel")
    cpu.BACKEND.names.intersection_update(before)


@pytest.fixture
def graph() -> Graph:
    return Graph.from_edge_index(torch.randint(0, 20, (2, 80)), 25)


def test_a_kernel_of_ones_own_has_the_references_value_and_gradients(kernel_page: ModuleType, graph: Graph) -> None:
    x = torch.randn(25, 6, requires_grad=True)
    found, expected = kernel_page.spmm_min(x, graph), -reference.spmm(-x, graph, reduce="max")
    assert type(found.grad_fn).__name__ == "spmm_minBackward"
    assert torch.equal(found, expected)
    cotangent = torch.randn(25, 6)
    assert_close(*(torch.autograd.grad(y, x, cotangent)[0] for y in (found, expected)))


def test_a_kernel_of_ones_own_is_differentiated_twice(kernel_page: ModuleType, graph: Graph) -> None:
    x = torch.randn(25, 6, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(kernel_page.spmm_min(x, graph).exp().sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(grad.square().sum(), x)
    (grad,) = torch.autograd.grad((-reference.spmm(-x, graph, reduce="max")).exp().sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(grad.square().sum(), x)
    assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_kernel_of_ones_own_compiles_without_a_break(kernel_page: ModuleType, graph: Graph) -> None:
    reverse, x = graph.reverse, torch.randn(25, 6, requires_grad=True)
    edges = (graph.indptr, graph.indices, reverse.indptr, reverse.indices, reverse.edge_ids)
    opcheck(torch.ops.example.spmm_min.default, (x, *edges))
    torch.compiler.reset()
    compiled = torch.compile(lambda x: kernel_page.spmm_min(x, graph), fullgraph=True, backend="aot_eager")
    cotangent = torch.randn(25, 6)
    for found, expected in zip(*(
        (y.detach(), *torch.autograd.grad(y, x, cotangent)) for y in (compiled(x), kernel_page.spmm_min(x, graph))
    ), strict=True):  # fmt: skip
        assert_close(found, expected)


def test_where_a_backend_has_no_kernel_the_reference_runs_and_says_so_once(
    kernel_page: ModuleType, graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    if not triton.interpreted():
        pytest.skip("Triton's kernels are compiled")
    x = torch.randn(25, 6)
    with ops.using("triton"), caplog.at_level(logging.WARNING, logger="revgnn"):
        for _ in range(2):
            assert torch.equal(kernel_page.spmm_min(x, graph), -reference.spmm(-x, graph, reduce="max"))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["example::spmm_min on cpu runs on the reference implementation: triton has no kernel for it"]
    assert kernel_page.spmm_min(x.half(), graph).dtype == torch.float16  # nor is there one for every type


@pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE)
def test_an_op_of_the_package_runs_on_the_reference_where_one_of_its_kernels_is_missing(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(25, 6, requires_grad=True)
    expected = ops.spmm(x, graph)
    assert type(expected.grad_fn).__name__ == "spmmBackward"
    monkeypatch.setattr(cpu.BACKEND, "names", cpu.BACKEND.names - {"edge_dot"})
    found = ops.spmm(x, graph)
    assert type(found.grad_fn).__name__ != "spmmBackward"
    assert_close(found, expected)
