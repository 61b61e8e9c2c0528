"""What a stage of a run is, and the key that says whether its result still holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nirvana_deploy.runs.recipe import Recipe
from pruning.progress import Progress, Say, show_nothing
from pruning.strict_json import JsonMapping, flatten


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInputs:
    """What a stage may read: the recipe, and the folders and results of the stages before it.

    Attributes:
        say: Gets a line for what the user has to know while the stage works.
        progress: Gets what is done, how much of it, and of how much.
    """

    recipe: Recipe
    folders: Mapping[str, Path]
    results: Mapping[str, JsonMapping]
    say: Say = lambda _: None
    progress: Progress = show_nothing


def _read_nothing(_: Recipe) -> dict[str, object]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a run.

    Attributes:
        reads: the earlier stages whose files or results it opens.
        settings: the part of the recipe that it obeys, as plain data.
        run: does the work in the folder it is given, resuming what it finds there, and returns
            the result as plain data.
        sources: fingerprints of what it reads from outside the run folder.
        packages: distributions whose version changes its result.
        scratch: names in its folder from which it resumes, deleted when it is done.
    """

    name: str
    reads: tuple[str, ...] = ()
    settings: Callable[[Recipe], Mapping[str, object]]
    run: Callable[[StageInputs, Path], Mapping[str, object]]
    sources: Callable[[Recipe], Mapping[str, object]] = field(default=_read_nothing)
    packages: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()


def collect_key_parts(
    stage: Stage, recipe: Recipe, upstream: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    """Gather everything that decides a stage's result.

    `upstream` maps a stage to its manifest. Its key and the digest of its files both count: a
    stage that ran again and made other files makes those that read them run again too.
    """
    from nirvana_deploy.fingerprints import find_versions

    parts = {
        "settings": stage.settings(recipe),
        "sources": stage.sources(recipe),
        "upstream": {
            name: f"{upstream[name]['key']} {upstream[name]['digest']}" for name in stage.reads
        },
        "versions": find_versions(("nirvana-deploy", *stage.packages)),
    }
    plain: dict[str, object] = json.loads(json.dumps(parts))
    return plain


def hash_key_parts(parts: Mapping[str, object]) -> str:
    """Return the stage's key."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def describe_change(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Say which parts of the key changed, as a user would name them."""
    before, after = flatten(old), flatten(new)
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        area, _, rest = name.partition(".")
        if area == "settings":
            changes.append(f"{rest}: {before.get(name)} -> {after.get(name)}")
        elif area == "versions":
            changes.append(f"{rest} {before.get(name)} -> {after.get(name)}")
        else:
            changes.append(f"{rest} changed")
    return "; ".join(changes)
