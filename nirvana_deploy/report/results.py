"""What a run folder says, as frozen records. An absent number is None, an absent stage is marked.

The shapes are those of each stage's `manifest.json`; nothing is computed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.serving_results import Build, Export, Package, Profile
from nirvana_deploy.report.training_results import Baseline, Prune
from pruning.errors import NirvanaError
from pruning.strict_json import read_object

# Only a run that prunes by scores has "score".
ALL_STAGES = ("baseline", "score", "prune", "export", "build", "profile", "package")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """Whether a stage was done, and if not, why and what would bring it."""

    name: str
    status: Literal["done", "skipped", "missing"]
    seconds: float | None = None
    started: str | None = None
    reason: str | None = None
    install: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder as the page needs it; a stage that was not done is None.

    Attributes:
        builds: the engines: one, of an encoder-decoder one a graph; none where none was built.
    """

    name: str
    recipe: str | None
    stages: dict[str, StageState]
    baseline: Baseline | None
    prune: Prune | None
    export: Export | None
    builds: tuple[Build, ...]
    profile: Profile | None
    package: Package | None


def read_run(run_dir: Path) -> Run:
    """Read the recipe and the manifests under `run_dir`.

    Raises `NirvanaError` when the folder is absent or a manifest is not a JSON object.
    """
    if not run_dir.is_dir():
        raise NirvanaError(
            f"Expected a run folder at {run_dir}, found none. "
            "Give the folder that `nirvana deploy` wrote (its --out)."
        )
    manifests = {name: _read_manifest(run_dir / name / "manifest.json") for name in ALL_STAGES}
    if not _is_scored(manifests):
        del manifests["score"]
    if _is_fine_tuned(manifests):
        del manifests["baseline"]
    states = {name: _state(name, manifest) for name, manifest in manifests.items()}
    done = {
        name: manifest.part("result")
        for name, manifest in manifests.items()
        if manifest is not None and states[name].status == "done"
    }
    recipe_path = run_dir / "recipe.yaml"
    return Run(
        name=run_dir.resolve().name,
        recipe=recipe_path.read_text(encoding="utf-8") if recipe_path.is_file() else None,
        stages=states,
        baseline=Baseline.read(done["baseline"]) if "baseline" in done else None,
        prune=Prune.read(done["prune"]) if "prune" in done else None,
        export=Export.read(done["export"]) if "export" in done else None,
        builds=_read_builds(done["build"]) if "build" in done else (),
        profile=Profile.read(done["profile"]) if "profile" in done else None,
        package=Package.read(done["package"]) if "package" in done else None,
    )


def _read_builds(result: Fields) -> tuple[Build, ...]:
    return tuple(Build.read(part) for part in result.rows("engines") or (result,))


def _is_scored(manifests: Mapping[str, Fields | None]) -> bool:
    """Return whether the scores are of this run, and not left from before its recipe changed."""
    prune = manifests["prune"]
    made_by = None if prune is None else prune.part("result").text("method")
    return manifests["score"] is not None and (prune is None or made_by == "one-shot")


def _is_fine_tuned(manifests: Mapping[str, Fields | None]) -> bool:
    """Tell whether the model was pruned as it is; a baseline is from before its recipe changed."""
    prune = manifests["prune"]
    if prune is None:
        return False
    parts = prune.part("key_parts")
    return any(parts.part(name).text("model") for name in ("settings", "sources"))


def _read_manifest(path: Path) -> Fields | None:
    if not path.is_file():
        return None
    remedy = f"Delete the folder {path.parent.name}/ of this run and run the recipe again."
    return Fields(read_object(path, remedy=remedy, finite=False))


def _state(name: str, manifest: Fields | None) -> StageState:
    if manifest is None:
        return StageState(name=name, status="missing")
    result = manifest.part("result")
    return StageState(
        name=name,
        status="skipped" if result.text("status") == "skipped" else "done",
        seconds=manifest.number("seconds"),
        started=manifest.text("started"),
        reason=result.text("reason"),
        install=result.text("install"),
    )
