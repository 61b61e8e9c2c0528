"""The verbs for a whole run, `nirvana deploy`, and for one page of many, `nirvana report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_type_hints

from nirvana_deploy.api import runs
from nirvana_deploy.config_reader import config_types, read_config
from nirvana_deploy.runs.recipe import Recipe, load_recipe
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_json, print_result
from nirvana_deploy.verbs.verb import Verb, add_call, read_call
from profiles.targets.target import PRECISIONS


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=Path, nargs="?", help="YAML file; the flags below win over it"
    )
    hints = get_type_hints(Recipe)
    sections = {name: hint for name, hint in hints.items() if config_types(hint)}
    add_flags(parser, Recipe, skip=(*sections, "trust_remote_code"), title="recipe")
    for name, hint in sections.items():
        # The last of a union first: where both have a field, it takes what either does.
        add_flags(parser, *reversed(config_types(hint)), prefix=name)


def _deploy(args: argparse.Namespace) -> int:
    overrides = collect_flags(args)
    if args.recipe is None:
        recipe = read_config(Recipe, overrides)
    else:
        recipe = load_recipe(args.recipe, overrides)
    result = runs.deploy(recipe)
    print_result(args, f"Run {recipe.name!r}", result.headline(), result.to_json())
    return 0


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run, of budgets (prune --scores) or of scores; or a JSON file: profile, "
        "sweep, plan, or estimates (targets --plan FILE --json)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="HTML file; an existing report is replaced",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=[],
        metavar="NAME",
        help="draw the roofline of these targets (`nirvana targets`), an estimate",
    )
    add_call(parser, "--target")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="with --target; default: fp16 where the target has it, else fp32",
    )


def _report(args: argparse.Namespace) -> int:
    out = runs.draw_report(
        args.paths,
        out=args.out,
        targets=args.target,
        precision=args.precision,
        call=read_call(args),
    )
    if args.json:
        print_json({"report": str(out)})
    else:
        sys.stdout.write(f"{out}\n")
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
    usual=(
        "model",
        "fine_tuned",
        "out",
        "data.dataset",
        "data.task",
        "data.text_column",
        "data.label_column",
        "baseline.num_epochs",
        "prune.budget",
        "latency.at_most",
        "latency.speedup",
        "latency.target",
        "export.form",
        "export.precision",
        "build.compute_capabilities",
        "profile.num_threads",
        "package.to",
    ),
)

REPORT = Verb(
    name="report",
    usage="RUN [RUN ...] --out FILE.html [--target NAME ...] [--batch N] [--length N] [--past N]\n"
    "                      [--precision P]",
    summary="draw runs, budgets, profiles and sweeps as one page, and compare them",
    description="Draw latencies, throughput, quality against latency, roofline and kept units as "
    "one self-contained page. Several runs are compared; a folder of budgets gives each of them.",
    add_arguments=_add_report,
    run=_report,
)
