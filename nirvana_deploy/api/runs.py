"""Run a recipe from the model to the server folder, and draw reports of runs and figures."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nirvana_deploy.runs.deploy_result import DeployResult
from nirvana_deploy.runs.pipeline import run_stages, say_on_stderr
from nirvana_deploy.runs.recipe import Recipe, load_recipe
from pruning.checkpoints.model_source import require_weights
from pruning.checkpoints.remote_code import allow_remote_code, is_remote_code_allowed
from pruning.errors import MissingExtraError
from pruning.machine_limits import explained
from pruning.progress import Say
from pruning.tasks.data_config import require_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.targets.block_work import CallShape


@explained("deploy")
def deploy(
    recipe: Recipe | Path | str, out: Path | str | None = None, *, say: Say | None = None
) -> DeployResult:
    """Run a recipe, or the file of one, from the model to the server folder and the report.

    Finished stages of the same recipe are skipped, an interrupted one resumes. `say` gets a line
    at the start and end of each stage, and of what will be left out; by default they go to the
    standard error. What an encoder-decoder has no stage for is left out, with the reason in the
    result.

    Raises:
        NirvanaError: the recipe does not fit the model or the output folder, before any work; or a
            stage failed.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if find_spec("onnxruntime") is None:  # it verifies the export: said now, not after the training
        raise MissingExtraError("ONNX Runtime", "cpu")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if out is not None:
        recipe = dataclasses.replace(recipe, out=str(out))
    say = say or say_on_stderr
    if is_remote_code_allowed() and not recipe.trust_remote_code:
        recipe = dataclasses.replace(recipe, trust_remote_code=True)
    require_weights(recipe.model)
    require_data(recipe.data.dataset)
    from nirvana_deploy.report import write_report
    from nirvana_deploy.runs.deploy_fit import check_fit
    from nirvana_deploy.runs.deploy_stages import list_stages

    with allow_remote_code(recipe.trust_remote_code):
        for stage, reason in check_fit(recipe, say).items():
            say(f"{stage}: will be left out. {reason}")
        outcome = run_stages(recipe, recipe.out_dir, list_stages(recipe), say, write_report)
    assert outcome.report is not None
    return DeployResult(
        out=outcome.out,
        report=outcome.report,
        folders=outcome.folders,
        results=outcome.results,
        skipped=outcome.skipped,
    )


@explained("report")
def draw_report(
    paths: Sequence[Path | str],
    *,
    out: Path | str,
    targets: Sequence[str] = (),
    precision: str | None = None,
    call: CallShape | None = None,
) -> Path:
    """Draw runs, budgets, profiles, sweeps and plans as one page into the HTML file `out`.

    Several are compared, one run alone gets its whole page. `targets` are drawn as rooflines, at
    `call` (batch 1, length 128 where there is none) and `precision`: estimates, marked as such.

    Raises:
        NirvanaError: a path is none of what can be drawn, a target is not known or has no rate for
            the precision, or `out` is a file of something else.
    """
    from nirvana_deploy.report import write_compared

    given = [Path(path) for path in paths]
    return write_compared(given, Path(out), targets=targets, precision=precision, call=call)
