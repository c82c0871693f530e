"""The import law: every module has a level, imports go down only, and a few names live in one place alone.

Read from the syntax trees, so that an import that never runs counts too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "revgnn"

ARCHITECTURE = PACKAGE.parents[1] / "docs" / "architecture.md"


def _levels() -> list[set[str]]:
    """Pieces of the package from the bottom up, as the document draws them; a piece is a module or a folder."""
    picture = ARCHITECTURE.read_text(encoding="utf-8").partition("```levels\n")[2].partition("```")[0]
    rows = [line.split() for line in picture.splitlines()]
    assert [row[0] for row in rows] == [f"L{level}" for level in reversed(range(len(rows)))]
    return [set(row[1:]) for row in reversed(rows)]


LEVELS = _levels()

OPTIONAL_INSIDE_FUNCTIONS = {
    "daft": "an extra; only to prepare graphs",
    "huggingface_hub": "an extra; only for models on its hub",
    "matplotlib": "an extra; without it there is no picture",
    "ogb": "an extra; only for downloads",
    "pymetis": "an extra; only for clusters",
    "ray": "an extra; only for clusters",
    "rdkit": "an extra; only for molecules",
    "scipy": "a third of a second of import that only orders of nodes need",
    "shtab": "an extra; only to complete commands in a shell",
    "sklearn": "a second of import that only the digits and the baselines of a report need",
    "torch_geometric": "two seconds of import that only its own data sets need",
    "torchmetrics": "two seconds of import that the help of the command line has no use for",
    "triton": "exists only with CUDA",
}
"""Heavyweights that may be imported inside a function, each with its reason."""

ONE_PLACE = {
    "torch.distributed": ["train/distributed/ranks.py", "train/distributed/fsdp.py"],
    "triton": ["ops/triton/"],
}
"""Imports that only these files may make (a folder ends with a slash)."""

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60
EXAMPLES = re.compile(r'^\n *Examples:\n(?:(?! *""").*\n)+ *"""\n', re.MULTILINE)
"""The example at the end of a docstring: not counted, as docstrings are not in a function."""
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "core", "base"}

FILES = sorted(PACKAGE.rglob("*.py"))
LEVEL_OF = {piece: level for level, pieces in enumerate(LEVELS) for piece in pieces}


def _name(path: Path) -> str:
    parts = ("revgnn", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in FILES}


def _trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


TREES = _trees()


def _imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, absolute; ``from a import b`` gives a.b where that is a module, else a."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                if alias.name == "__version__":
                    continue
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def _own_imports(name: str) -> set[str]:
    return {module for module in _imports(name, TREES[name]) if module.split(".")[0] == "revgnn"}


def _piece(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_level() -> None:
    unplaced = {_piece(name) for name in MODULES} - set(LEVEL_OF) - {""}
    assert not unplaced, f"{unplaced} stand in no level of {ARCHITECTURE.name}"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"revgnn"}))
def test_imports_go_down_only(name: str) -> None:
    piece = _piece(name)
    for module in _own_imports(name):
        other = _piece(module)
        assert other, f"{name} imports the package itself; import the module that has the name"
        if other != piece:
            assert LEVEL_OF[other] < LEVEL_OF[piece], f"{name} (level {LEVEL_OF[piece]}) imports {module}"


def test_no_cycle() -> None:
    waiting = {name: _own_imports(name) - {name} for name in MODULES if name != "revgnn"}
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        assert free, f"these modules import each other in a circle, or something that does: {sorted(waiting)}"
        for name in free:
            del waiting[name]


def test_the_stack_and_the_equilibria_import_nothing_else_of_the_package() -> None:
    for name in MODULES:
        if _piece(name) == "stack":
            assert {_piece(module) for module in _own_imports(name)} <= {"stack"}, name
        if _piece(name) == "implicit":
            assert {_piece(module) for module in _own_imports(name)} <= {"stack", "implicit", "malloc"}, name


def test_training_knows_no_model_and_no_data_set() -> None:
    allowed = {"revgnn.data.batch", "revgnn.data.task", "revgnn.data"} | {
        f"revgnn.{name}" for name in ("graph", "measure", "files", "plain_config", "run_lock", "launcher")
    }
    allowed |= {"revgnn.stack.batch_norm", "revgnn.stack.rank_group"}
    for name in MODULES:
        if _piece(name) == "train":
            others = {module for module in _own_imports(name) if _piece(module) != "train"}
            assert others <= allowed, f"{name} imports {others - allowed}"
            assert "revgnn.data" not in others, (
                f"{name} imports the data sets; it may import revgnn.data.batch and revgnn.data.task"
            )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_stand_at_the_top(name: str) -> None:
    for function in ast.walk(TREES[name]):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for module in _imports(name, function):
                assert module.split(".")[0] in OPTIONAL_INSIDE_FUNCTIONS, f"{name} imports {module} inside a function"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_some_imports_have_one_place(name: str) -> None:
    where = MODULES[name].relative_to(PACKAGE).as_posix()
    for module in _imports(name, TREES[name]):
        for guarded, places in ONE_PLACE.items():
            if module == guarded or module.startswith(f"{guarded}."):
                assert any(where == place or where.startswith(place) for place in places), f"{where} imports {module}"


def test_experiment_is_named_by_those_above_it_alone() -> None:
    for name, tree in TREES.items():
        if _piece(name) in {"", "experiment"} or LEVEL_OF[_piece(name)] > LEVEL_OF["experiment"]:
            continue
        assert not any(module == "revgnn.experiment" for module in _imports(name, tree)), name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_small_files_and_functions(name: str) -> None:
    path = MODULES[name]
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines()) - sum(found.count("\n") for found in EXAMPLES.findall(text))
    assert lines <= LINES_OF_A_FILE, f"{path.name} has {lines} lines; it asks to be two"
    assert not FORBIDDEN_NAMES & set(name.split(".")), f"{name}: which noun is missing?"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            body = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
            assert body <= LINES_OF_A_FUNCTION, f"{name}.{node.name} has {body} lines; it asks to be two"


def _docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return 0
    assert first.end_lineno is not None
    return first.end_lineno - first.lineno + 1


def test_every_file_says_what_it_is() -> None:
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), f"{name} has no docstring"


def test_relative_imports_are_understood() -> None:
    tree = ast.parse(
        "from .nn import model\nfrom .nn import convs\nfrom .nn.convs import GCNConv\nimport torch.distributed"
    )
    assert set(_imports("revgnn.graph", tree)) == {"revgnn.nn.model", "revgnn.nn.convs", "torch.distributed"}
    assert set(_imports("revgnn.nn.norms", ast.parse("from .. import ops"))) == {"revgnn.ops"}
    assert set(_imports("revgnn.nn", ast.parse("from .convs import CONVS"))) == {"revgnn.nn.convs"}
