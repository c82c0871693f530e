"""Choose the experiment of a command's arguments: a recipe, or a model on a user's folder"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from ..by_name import is_name
from ..experiment import Experiment, find_model
from ..overrides import override
from ..paper.recipes import find_recipe, recipe_summaries
from ..paper.recipes.tables import DEFAULT, MODELS, on_tables
from ..paper.results import IRRELEVANT
from ..paper.targets import find_target
from ..report.facts import Published


def choose_experiment(what: str, model: str | None) -> tuple[str, Experiment]:
    """Return the name and the experiment of a recipe or a folder.

    Args:
        what: a recipe, or a folder of tables or of a prepared graph.
        model: a key of `MODELS`, for a folder; or ``package.module:Name``, for either.
    Raises: ValueError: no such recipe, folder or model. ImportError: the model's module cannot be imported.
    """
    own = model is not None and is_name(model)
    if what in recipe_summaries():
        if model is None:
            return what, find_recipe(what)()
        if not own:
            raise ValueError(
                f"--model goes with a folder of tables, got {model} and the recipe {what}, which has its own; leave it "
                "out, or name a model of your own as package.module:Name"
            )
        return f"{what} with model={model}", replace(find_recipe(what)(), model=find_model(model))
    folder = Path(what)
    if own:
        assert model is not None, "own implies a model"
        return f"tables/{folder.resolve().name}-{model.partition(':')[2]}", on_tables(folder, find_model(model))
    kind = model or DEFAULT
    if kind not in MODELS:
        raise ValueError(
            f"--model {kind} is unknown; choose one of {', '.join(MODELS)}, or one of your own as package.module:Name"
        )
    return f"tables/{folder.resolve().name}-{kind}", MODELS[kind](folder)


def changed_experiment(name: str, experiment: Experiment, assignments: Sequence[str]) -> tuple[str, Experiment]:
    """Return an experiment with fields overridden, and its name with those that matter to its results."""
    changes = [text for text in assignments if text.partition("=")[0].strip() not in IRRELEVANT]
    return f"{name} with {', '.join(changes)}" if changes else name, override(experiment, assignments)


def asked_for(arguments: Namespace) -> tuple[str, Experiment, Path, Published | None]:
    """Build the experiment of the arguments of ``train``.

    Returns: the experiment's name, the experiment, its run folder, and its target in the paper (None if it was
        changed).
    """
    name, experiment = choose_experiment(arguments.what, arguments.model)
    out = arguments.out or Path("runs", *Path(name).parts)
    name, experiment = changed_experiment(name, experiment, arguments.assignments)
    target = find_target(name)
    return name, experiment, out, None if target is None else cast(Published, asdict(target))
