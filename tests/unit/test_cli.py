"""The command line: what it understands, what it answers to mistakes, and that every command explains itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from revgnn.cli import main
from revgnn.commands import demo
from revgnn.commands.choose import choose_experiment
from revgnn.paper.recipes import all_recipes, find_recipe
from revgnn.parser import make_parser
from revgnn.train import Interrupted

COMMANDS = [
    "prepare", "train", "predict", "diagnose", "plan", "recipes", "demo", "report", "paper", "convert", "doctor"
]  # fmt: skip


ACTIONS = [f"paper {action}" for action in ("record", "table", "bench")]


@pytest.mark.parametrize("command", [*COMMANDS, *ACTIONS])
@pytest.mark.parametrize("columns", ["40", "80"])
def test_help_shows_an_example(
    command: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert columns != "80" or max(map(len, text.splitlines())) <= 80
    (description,) = re.findall(r"\n\n(.*?)\n\n(?:positional|options)", text, re.DOTALL)
    assert re.match(r"[A-Z][^.]*\S.*\.$", " ".join(description.split())), "a description is a sentence"
    example = text.partition("example:")[2].replace("\\\n", " ")
    words = [line.split() for line in example.strip().splitlines() if line.split()[0] == "revgnn"]
    assert words, f"{command} --help shows no example"
    for line in words:
        make_parser().parse_args(line[1:])
    assert "--json" in text or "ACTION" in text
    assert callable(import_module(f"revgnn.commands.{command.split()[0]}").run)


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; from revgnn.parser import make_parser; make_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits/revgn"], "there is no recipe 'digits/revgn'; choose one of digits/revgnn"),
        (["train", "no/such/folder"], "nor is there a folder no/such/folder"),
        (["train", "digits/revgnn", "--model", "revgat"], "--model goes with a folder"),
        (
            ["train", "digits/revgnn", "--set", "model.depth=3"],
            "there is no field 'model.depth'; choose one of model.conv",
        ),
        (["train", "digits/revgnn", "--set", "model.conv=gnn"], "is unknown; choose one of gcn, sage, gen, gat"),
        (["train", "digits/revgnn", "--set", "model.num_groups=5"], "hidden_channels=64 must be divisible by"),
        (["train", "digits/revgnn", "--set", "paper.metric=99"], "there is no field 'paper'"),
        (["train", "ogbn-arxiv/resgcn", "--data-root", "/nowhere"], "ogbn-arxiv is not at"),
        (["recipes", "digits"], "there is no recipe 'digits'"),
        (["report", "/nowhere"], "holds no finished run"),
        (["paper", "record", "/nowhere", "--results", "/tmp"], "/nowhere holds no finished run"),
        (["paper", "table", "1", "--results", "/nowhere"], "there is no folder of results at /nowhere"),
        (["train", __file__], "is a file; name the folder that holds the tables, or a recipe"),
        (["train", "zzz"], "there is no recipe 'zzz'; `revgnn recipes` lists all; nor is there a folder zzz"),
        (["train", "digits/revgnn", "--model", "no.such:Name"], "there is no module 'no' in "),
        (["plan", "digits/revgnn", "--memory", "lots"], "--memory must be a number of bytes such as 2000000000"),
        (["plan", "digits/revgnn", "--gpu", "a100"], "--gpu a100 goes with --device cuda"),
        (["prepare", "nowhere.yaml"], "no file nowhere.yaml; revgnn prepare --init NODES EDGES writes a first one"),
        (["prepare", "a.csv", "b.csv", "--init", "--out", "/no/x"], "there is no folder /no; make it"),
        (["prepare", "a.csv", "b.csv", "--like", "/nowhere"], "neither the folder of a run nor a prepared graph"),
        (["prepare", "a.csv", "b.csv", "--csv", "spaces=yes"], "--csv spaces must be true or false; got 'yes'"),
        (["prepare", "a.csv", "b.csv", "--csv", "decimal=x"], "csv decimal must be a point or a comma; got 'x'"),
        (["prepare", "a.csv", "b.csv", "--csv", "delimiter=tabs"], "csv delimiter must be one character of ASCII"),
        (["prepare", "a.csv", "b.csv", "--csv", "thousands=3"], "csv thousands must be one sign"),
        (["prepare", "a.csv", "b.csv", "--csv", "units=5"], "csv units must be signs such as $ and %"),
        (["prepare", "a.csv", "b.csv", "--csv", "encoding=uft8"], "csv encoding must be one that Python knows"),
        (["train", "digits/revgnn", "--ray-workers", "4"], "--ray-workers 4 goes with --ray ADDRESS"),
        (["prepare", "a.csv", "b.csv", "--init", "--overwrite"], "--overwrite cannot stand in a graph.yaml"),
        (["demo", "--out", __file__], "must be a folder for the demo, it is a file"),
        (["convert", __file__, "--out", "/nowhere/x"], "must be a checkpoint that holds only tensors: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("revgnn: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("command", ["diagnose", "predict", "report"])
def test_a_folder_of_several_runs_names_one_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for seed in (3, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "run.json").write_text("{}")
    words = [command, str(tmp_path), *(["--out", str(tmp_path / "rows.csv")] if command == "predict" else [])]
    assert main(words) == 2
    assert f"name one of the runs in it, such as {tmp_path / 'seed-1'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "the following arguments are required: RECIPE|FOLDER"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "x", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["train", "x", "--runs", "0"], "argument --runs: must be a whole number of at least 1, got '0'"),
        (["train", "x", "--ray-restarts", "1.5"], "must be a whole number of at least 0, got '1.5'"),
        (["prepare", "x", "--parts", "many"], "must be a whole number of at least 1, got 'many'"),
        (["predict", "x", "--out", "y.csv", "--views", "-1"], "must be a whole number of at least 1, got '-1'"),
        (["diagnose", "x", "--nodes", "-1"], "must be a whole number of at least 0, got '-1'"),
        (["diagnose", "x", "--hops", "0"], "must be a whole number of at least 1, got '0'"),
        (["convert", "x.pth", "--dropout", "1"], "must be a number of at least 0 and below 1, got '1'"),
        (["paper", "bench", "--seconds", "nan"], "must be a number of at least 0, got 'nan'"),
        (["paper", "table", "4"], "invalid choice: 4"),
        (["report", "x", "--jso"], "unrecognized arguments: --jso"),
    ],
)
def test_words_that_are_not_understood(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err and "--help shows an example" in err


def test_a_rank_that_is_no_number_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "first")
    assert main(["recipes"]) == 2
    assert "RANK must be a whole number, as launchers set it, got 'first'; unset it" in capsys.readouterr().err


def test_debug_shows_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "/nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_nothing_asked_for_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "example:" in capsys.readouterr().err


def test_a_failed_run_and_an_interrupted_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> None:
        raise FloatingPointError("the loss is nan")

    def stop(arguments: object) -> None:
        raise Interrupted("stopped after epoch 3", 15)

    monkeypatch.setattr(demo, "run", fail)
    assert main(["demo"]) == 1
    assert "the loss is nan" in capsys.readouterr().err
    monkeypatch.setattr(demo, "run", stop)
    assert main(["demo"]) == 128 + 15
    assert "stopped after epoch 3" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(arguments: object) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr(demo, "run", fault)
    with pytest.raises(AssertionError, match="an invariant"):
        main(["demo"])


def test_a_shell_completes_commands_flags_and_recipes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    scripts = {}
    for shell in ("bash", "zsh", "tcsh"):
        assert main(["--print-completion", shell]) == 0
        scripts[shell] = capsys.readouterr().out
    assert all("diagnose" in script and "ogbn-arxiv/revgcn_deep" in script for script in scripts.values())

    def completed(*words: str) -> set[str]:
        ask = f"{scripts['bash']}\nCOMP_WORDS=({' '.join(words)!s})\nCOMP_CWORD={len(words) - 1}\n_shtab_revgnn\n"
        done = subprocess.run(
            ["bash", "-c", ask + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert completed("revgnn", "pre") == {"prepare", "predict"}
    assert completed("revgnn", "recipes", "digits/revgn") == {"digits/revgnn"}
    assert "--data-root" in completed("revgnn", "train", "--da")
    assert completed("revgnn", "train", "--device", "c") == {"cpu"}
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "pip install 'revgnn[completion]'" in capsys.readouterr().err


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in all_recipes())
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(all_recipes())
    assert all(row["summary"] and row["model"]["num_layers"] > 0 for row in rows)


def test_one_recipe_is_shown_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ogbn-arxiv/revgcn_deep"]) == 0
    out = capsys.readouterr().out
    for line in ("model.num_layers = 28", "model.gen.aggr = softmax", "batch_size = none", "paper.parameters = 262056"):
        assert line in out
    assert main(["recipes", "ogbn-arxiv/revgcn_deep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paper"]["metric"] == 73.01


def test_a_folder_of_tables_has_models(tmp_path: Path) -> None:
    for kind, conv in (("revgcn", "gcn"), ("revsage", "sage"), ("revgen", "gen"), ("revgat", "gat")):
        name, run = choose_experiment(str(tmp_path), kind)
        assert name == f"tables/{tmp_path.name}-{kind}"
        assert (run.dataset.name, run.dataset.path, run.model.conv) == ("tables", str(tmp_path), conv)
    assert choose_experiment(str(tmp_path), None)[1].model.conv == "sage"
    with pytest.raises(ValueError, match="--model mlp is unknown; choose one of revsage, revgcn, revgen, revgat"):
        choose_experiment(str(tmp_path), "mlp")


def test_find_recipe_gives_the_function() -> None:
    assert find_recipe("digits/revgnn")().model.backprop == "reversible"
