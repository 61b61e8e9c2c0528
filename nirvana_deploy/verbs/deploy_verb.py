"""The verb `nirvana deploy`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_type_hints

from nirvana_deploy import api
from nirvana_deploy.config_reader import config_types, read_config
from nirvana_deploy.recipe import Recipe, load_recipe
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=Path, nargs="?", help="YAML file; the flags below win over it"
    )
    parser.add_argument(
        "--fine_tuned",
        action="store_true",
        help="The model is fine-tuned for the task of the data already: prune it as it is.",
    )
    hints = get_type_hints(Recipe)
    sections = {name: hint for name, hint in hints.items() if config_types(hint)}
    add_flags(parser, Recipe, skip=(*sections, "trust_remote_code", "fine_tuned"), title="recipe")
    for name, hint in sections.items():
        # The last of a union first: where both have a field, it takes what either does.
        add_flags(parser, *reversed(config_types(hint)), prefix=name)


def _deploy(args: argparse.Namespace) -> int:
    overrides = collect_flags(args)
    if args.fine_tuned:
        overrides["fine_tuned"] = True
    if args.recipe is None:
        recipe = read_config(Recipe, overrides)
    else:
        recipe = load_recipe(args.recipe, overrides)
    print_pairs(f"Run {recipe.name!r}", api.deploy(recipe).headline())
    return 0


DEPLOY = Verb(
    name="deploy",
    usage="[RECIPE] [--out DIR] [--SETTING VALUE ...]",
    summary="run a recipe: fine-tune, prune, export, build, profile, package, report",
    description="Run a recipe from the model to the server folder and the report. A finished "
    "stage is skipped, an interrupted one resumes, a changed setting re-runs what it touches.",
    add_arguments=_add_deploy,
    run=_deploy,
    loads_models=True,
)
