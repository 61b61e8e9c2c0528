"""Finds out what each path given to `nirvana report` is, and reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.results import ALL_STAGES, Run, read_run
from nirvana_deploy.report.serving_results import Profile
from nirvana_deploy.report.subject import Estimate, Subject, Sweep, give_keys
from nirvana_deploy.report.training_results import Prune
from nirvana_deploy.runs.run_folder import RECIPE_FILE, RUN_FILE
from nirvana_deploy.yaml_text import read_yaml
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_figures import describe_layers
from pruning.strict_json import read_object, read_value

FIGURES_FILE, PLAN_FILE, PROFILE_FILE = "figures.json", "plan.json", "profile.json"
_EXPECTED = (
    "Expected the folder of a run (`nirvana deploy`), of budgets (`nirvana prune --scores`) or of "
    "scores (`nirvana score`), or a JSON file: of `nirvana profile` or `nirvana sweep` (--out "
    "FILE.json), a plan, or estimates (`nirvana targets --plan FILE --json`)."
)


def read_subjects(paths: Sequence[Path]) -> tuple[Subject, ...]:
    """Read all that the paths hold, in their order; a folder of several budgets gives each.

    Raises:
        NirvanaError: a path is none of what can be drawn, or cannot be read.
    """
    found = [subject for path in paths for subject in _read_path(path)]
    return give_keys(_tell_apart(found))


def read_run_subject(folder: Path) -> Subject:
    """Read the folder of a run, its recipe and its plan.

    A page shows an older run too: a plan or a recipe that this version cannot read is left out.

    Raises:
        NirvanaError: see `read_run`.
    """
    run, recipe = read_run(folder), folder / RECIPE_FILE
    settings: dict[str, str] = {}
    with contextlib.suppress(NirvanaError):
        settings = _flatten(read_yaml(recipe)[0]) if recipe.is_file() else {}
    return Subject(
        name=run.name,
        kind="run",
        run=run,
        plan=_read_plan(folder / "prune" / PLAN_FILE),
        settings=settings,
    )


def _read_path(path: Path) -> Iterator[Subject]:
    if path.is_dir():
        yield from _read_folder(path)
    elif path.is_file():
        yield _read_file(path)
    else:
        raise NirvanaError(f"There is nothing at {path}. {_EXPECTED}")


def _read_folder(folder: Path) -> Iterator[Subject]:
    if _is_run(folder):
        yield read_run_subject(folder)
        return
    if (folder / FIGURES_FILE).is_file():
        yield _read_budget(folder)
        return
    if (folder / "manifest.json").is_file():
        yield _read_scores(folder)
        return
    within = sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and (_is_run(child) or (child / FIGURES_FILE).is_file())
    )
    if not within:
        held = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
        raise NirvanaError(f"{folder} holds {held}. {_EXPECTED}")
    for child in within:
        yield from _read_folder(child)


def _is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or any(
        (folder / stage / "manifest.json").is_file() for stage in ALL_STAGES
    )


def _read_budget(folder: Path) -> Subject:
    """Read what one budget gave; a `profile.json` in the folder is its latency."""
    plan = _read_plan(folder / PLAN_FILE)
    profile = folder / PROFILE_FILE
    figures = Fields(_read_object(folder / FIGURES_FILE))
    return Subject(
        name=folder.resolve().name,
        kind="budget of a scoring run",
        run=replace(
            _nothing(folder.resolve().name),
            prune=Prune.read(figures),
            profile=Profile.read(Fields(_read_object(profile))) if profile.is_file() else None,
        ),
        plan=plan,
        settings=_flatten(plan.made_by) if plan else {},
    )


def _read_scores(folder: Path) -> Subject:
    manifest = Fields(_read_object(folder / "manifest.json"))
    if not (manifest.text("format") or "").startswith("nirvana-scoring"):
        raise NirvanaError(f"{folder} holds a manifest.json of something else. {_EXPECTED}")
    finished = "yes" if manifest.flag("finished") else "no: run its `nirvana score` again"
    return Subject(
        name=folder.resolve().name,
        kind="scores",
        run=_nothing(folder.resolve().name),
        settings=dict(manifest.part("settings").flattened()),
        facts=(("model", manifest.text("model") or "not known"), ("finished", finished)),
    )


def _read_file(path: Path) -> Subject:
    data = read_value(path, remedy=_EXPECTED, finite=False)
    read = Fields(data)
    empty = Subject(name=path.stem, kind="", run=_nothing(path.stem))
    if any(row.part("dense") or row.part("pruned") for row in read.rows("cases")):
        return replace(empty, kind="profile", run=replace(empty.run, profile=Profile.read(read)))
    sweeps = [part for part in (read, *_both(read)) if {"batches", "callers"} & set(part.names())]
    if sweeps:
        # Its place and its method are those of a profile; it has curves where that has cases.
        run = replace(empty.run, profile=Profile.read(read))
        curves = tuple(Sweep.read(part) for part in sweeps)
        return replace(empty, kind="sweep", run=run, sweeps=curves)
    if {"layers", "dims", "config_hash"} <= set(read.names()):
        plan = PruningPlan.from_json(data)
        told = Fields({"layers": describe_layers(plan)})
        return replace(
            empty,
            kind="plan",
            plan=plan,
            run=replace(empty.run, prune=Prune.read(told)),
            settings=_flatten(plan.made_by),
        )
    estimates = tuple(_read_estimates(data))
    if estimates:
        return replace(empty, kind="estimates", estimates=estimates)
    shown = ", ".join(read.names()[:6]) if isinstance(data, dict) else type(data).__name__
    raise NirvanaError(f"{path} holds JSON of another kind ({shown}). {_EXPECTED}")


def _both(read: Fields) -> Iterator[Fields]:
    """Give the parts of a file that holds a sweep for each of two models."""
    for model in ("dense", "pruned"):
        part = read.part(model)
        yield Fields({"model": model, **{name: part.value(name) for name in part.names()}})


def _read_estimates(data: object) -> Iterator[Estimate]:
    for row in Fields({"rows": data}).rows("rows"):
        for model in ("dense", "pruned"):
            part = row.part(model)
            if part.flag("is_estimate"):
                yield Estimate.read(model, part)


def _nothing(name: str) -> Run:
    return Run(
        name=name,
        recipe=None,
        stages={},
        baseline=None,
        prune=None,
        export=None,
        builds=(),
        profile=None,
        package=None,
    )


def _read_plan(path: Path) -> PruningPlan | None:
    with contextlib.suppress(NirvanaError):
        return PruningPlan.load(path) if path.is_file() else None
    return None


def _read_object(path: Path) -> dict[str, object]:
    return read_object(path, remedy=_EXPECTED, finite=False)


def _flatten(data: object) -> dict[str, str]:
    return dict(Fields(data).flattened())


def _tell_apart(subjects: list[Subject]) -> list[Subject]:
    """Number subjects of one name, so that a reader can tell which is meant."""
    names = [subject.name for subject in subjects]
    return [
        replace(subject, name=f"{subject.name} ({names[:index].count(subject.name) + 1})")
        if names.count(subject.name) > 1
        else subject
        for index, subject in enumerate(subjects)
    ]
