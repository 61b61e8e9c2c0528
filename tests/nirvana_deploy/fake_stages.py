"""Cheap stages with the habits of the real ones, and a program that runs them and can be killed.

python -m tests.nirvana_deploy.fake_stages run OUT STEP_SECONDS
python -m tests.nirvana_deploy.fake_stages sweep BEFORE OUT BUDGET_KILLED BUDGET_AGAIN
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nirvana_deploy.runs.pipeline import RunOutcome, run_stages
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.runs.stage import Stage, StageInputs
from pruning.gates.prune_config import PruneConfig
from pruning.training.training_configs import BaselineConfig

NUM_STEPS = 10


def make_recipe(seed: int = 0, budget: float = 0.5) -> Recipe:
    return Recipe(
        model="fake", baseline=BaselineConfig(seed=seed), prune=PruneConfig(budget=budget)
    )


def make_stages(step_seconds: float = 0.0, num_steps: int = NUM_STEPS) -> tuple[Stage, ...]:
    """`train` obeys the seed, `cut` reads it and obeys the budget, `show` reads `cut`."""

    def train(inputs: StageInputs, out_dir: Path) -> Mapping[str, Any]:
        return _work_in_steps(
            out_dir, f"seed {inputs.recipe.baseline.seed}", step_seconds, num_steps
        )

    def cut(inputs: StageInputs, out_dir: Path) -> Mapping[str, Any]:
        source = (inputs.folders["train"] / "model" / "weights.txt").read_text()
        return _work_in_steps(
            out_dir, f"{source}, cut {inputs.recipe.prune.budget}", step_seconds, num_steps
        )

    def show(inputs: StageInputs, out_dir: Path) -> Mapping[str, Any]:
        text = (inputs.folders["cut"] / "model" / "weights.txt").read_text()
        (out_dir / "shown.txt").write_text(f"shown: {text}")
        return {"from": inputs.results["cut"]["text"]}

    return (
        Stage(
            name="train",
            settings=lambda recipe: {"seed": recipe.baseline.seed},
            run=train,
            scratch=("trainer",),
        ),
        Stage(
            name="cut",
            reads=("train",),
            settings=lambda recipe: {"prune": {"budget": recipe.prune.budget}},
            run=cut,
            scratch=("trainer",),
        ),
        Stage(name="show", reads=("cut",), settings=lambda _: {}, run=show),
    )


def _work_in_steps(out_dir: Path, text: str, step_seconds: float, num_steps: int) -> dict[str, Any]:
    """Leave a file a step in the scratch, go on after the last one, write `model/weights.txt`."""
    trainer = out_dir / "trainer"
    trainer.mkdir(exist_ok=True)
    first = sum(1 for _ in trainer.iterdir())
    for step in range(first, num_steps):
        (trainer / f"step-{step}").mkdir()
        time.sleep(step_seconds)
    # As `save_pruned` does, refuse to write over what is there.
    (out_dir / "model").mkdir()
    (out_dir / "model" / "weights.txt").write_text(text)
    (out_dir / "model" / "config.json").write_text("{}")
    return {"text": text, "first_step": first}


def run_fake(
    out: Path,
    seed: int = 0,
    budget: float = 0.5,
    stages: tuple[Stage, ...] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunOutcome:
    return run_stages(
        make_recipe(seed, budget), out, stages or make_stages(), say or (lambda _: None)
    )


def die_at_change(number: int, folder: Path) -> None:
    """Kill this process with SIGKILL just before its `number`th change to files in `folder`."""
    count = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            changes = isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        else:
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        # `shutil.rmtree` works below an open folder: its paths are relative, and all are ours.
        relative = event in ("os.remove", "os.rmdir") and not Path(str(args[0])).is_absolute()
        if changes and (relative or str(args[0]).startswith(str(folder))):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def sweep(before: Path, out: Path, killed_budget: float, budget: float) -> list[dict[str, Any]]:
    """Kill a run on a copy of `before` at its 1st, 2nd ... change, to its end; run after each.

    Each run to be killed is a fork: hundreds of them would take minutes to start anew.
    """
    rows = []
    for number in range(1, 1000):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        child = os.fork()
        if child == 0:
            die_at_change(number, out)
            run_fake(out, budget=killed_budget, stages=make_stages(num_steps=2))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome = run_fake(out, budget=budget)
        rows.append(
            {
                "code": code,
                "skipped": outcome.skipped,
                "cut": outcome.results["cut"]["text"],
                "shown": (out / "show" / "shown.txt").read_text(),
                "leftovers": sorted(path.name for path in out.glob(".[a-z]*.*")),
            }
        )
        if code == 0:
            break
    return rows


def main() -> None:
    verb, *paths = sys.argv[1:3]
    if verb == "run":
        run_fake(Path(paths[0]), stages=make_stages(float(sys.argv[3])))
    else:
        budgets = float(sys.argv[4]), float(sys.argv[5])
        rows = sweep(Path(paths[0]), Path(sys.argv[3]), *budgets)
        sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main()
