"""Runs the stages of a recipe in a run folder: skips what is finished, resumes what was cut."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nirvana_deploy.config_reader import to_plain
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.runs.run_folder import RECIPE_FILE, RUN_FILE, claim_run_folder, now
from nirvana_deploy.runs.stage import (
    Stage,
    StageInputs,
    collect_key_parts,
    describe_change,
    hash_key_parts,
)
from nirvana_deploy.runs.stage_folder import StageFolder
from nirvana_deploy.yaml_text import dump_yaml
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limits
from pruning.progress import Progress, Say
from pruning.strict_json import JsonMapping, JsonObject
from pruning.write_aside import write_text

WriteReport = Callable[[Path], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What a run left: each stage's folder and result, and which ones were finished before."""

    out: Path
    folders: Mapping[str, Path]
    results: Mapping[str, Mapping[str, object]]
    skipped: tuple[str, ...]
    report: Path | None = None


def say_on_stderr(line: str) -> None:
    """Write a line where progress belongs, so that results alone are on the standard output."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def say_tenths(say: Say, show: Callable[[int], str] = str) -> Progress:
    """Return a function that says how far each named step is, at every tenth of it.

    `show` writes a number of what is counted, such as bytes.
    """
    said: dict[str, int] = {}

    def progress(what: str, done: int, whole: int) -> None:
        tenth = done * 10 // max(whole, 1)
        if tenth > said.get(what, 0):
            said[what] = tenth
            say(f"{what}: {show(done)} of {show(whole)}")

    return progress


def run_stages(
    recipe: Recipe,
    out: Path,
    stages: Sequence[Stage],
    say: Say,
    write_report: WriteReport | None = None,
) -> RunOutcome:
    """Bring every stage of `stages` to its end in the run folder `out`, and draw the report.

    `say` gets one line at the start and end of each stage. The report is drawn from the stages'
    manifests each time: it is quick, and then never older than they are.

    Raises:
        NirvanaError: a stage failed in a way that the user can mend; finished stages are kept.
    """
    manifests: dict[str, JsonObject] = {}
    skipped: list[str] = []
    from pruning.checkpoints.model_source import refuse_onnx

    refuse_onnx(recipe.model)  # before there is a folder
    with explain_limits("the run", out, resumes=True), claim_run_folder(out):
        write_text(out / RECIPE_FILE, dump_yaml(to_plain(recipe)))
        for stage in stages:
            folder = StageFolder(run_dir=out, name=stage.name, scratch=stage.scratch)
            with (
                _explain_deleted(out, folder),
                explain_limits(
                    f"stage {stage.name!r}", folder.partial, finished=tuple(manifests), resumes=True
                ),
            ):
                parts = collect_key_parts(stage, recipe, manifests)
                folder.recover()
                manifest = _find_finished(folder, parts, say)
                if manifest is None:
                    manifest = _run_stage(stage, folder, parts, recipe, manifests, say)
                else:
                    skipped.append(stage.name)
            manifests[stage.name] = manifest
        with explain_limits("the report", out, finished=tuple(manifests), resumes=True):
            report = write_report(out) if write_report else None
    return RunOutcome(
        out=out,
        folders={name: out / name for name in manifests},
        results={name: manifest["result"] for name, manifest in manifests.items()},
        skipped=tuple(skipped),
        report=report,
    )


@contextlib.contextmanager
def _explain_deleted(out: Path, folder: StageFolder) -> Iterator[None]:
    """Say so where a stage failed because the run's folder was deleted under it."""
    try:
        yield
    except Exception as error:
        if (out / RUN_FILE).exists():
            raise
        # Without its run.json, what the stage wrote since would be in the way of the next run.
        shutil.rmtree(folder.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.rmdir()
        raise NirvanaError(
            f"The output folder {out} was deleted while stage {folder.name!r} worked in it. Run "
            "the same command again: it starts anew."
        ) from error


def _find_finished(
    folder: StageFolder, parts: Mapping[str, object], say: Say
) -> dict[str, object] | None:
    """Return the manifest of a finished stage that still holds; say why when it does not."""
    manifest = folder.read_manifest()
    if manifest is None:
        if folder.final.exists():
            say(f"{folder.name}: its manifest is damaged; it runs again")
        return None
    if manifest.get("key") != hash_key_parts(parts):
        change = describe_change(manifest.get("key_parts", {}), parts)
        say(f"{folder.name}: runs again ({change})")
        return None
    if manifest["result"].get("status") == "skipped":
        if "install" not in manifest["result"]:  # nothing could have come that it lacked
            say(f"{folder.name}: left out, as before")
            return manifest
        say(f"{folder.name}: was skipped before, is tried again")
        return None
    damage = folder.find_damage(manifest)
    if damage is not None:
        say(f"{folder.name}: runs again (its file {damage})")
        return None
    say(f"{folder.name}: finished before, skipped")
    return manifest


def _describe_start(interrupted: JsonMapping | None, parts: Mapping[str, object]) -> str:
    """Say that a stage starts, and of interrupted work that is let go why."""
    if interrupted is None:
        return "starts"
    change = describe_change(interrupted.get("key_parts", {}), parts)
    return f"starts anew; what was interrupted had another recipe ({change})"


def _run_stage(
    stage: Stage,
    folder: StageFolder,
    parts: Mapping[str, object],
    recipe: Recipe,
    manifests: Mapping[str, JsonMapping],
    say: Say,
) -> dict[str, object]:
    key = hash_key_parts(parts)
    interrupted = folder.read_interrupted()
    num_attempts, started = folder.open_partial(key, parts, now())
    say(f"{stage.name}: " + ("resumes" if num_attempts else _describe_start(interrupted, parts)))
    clock = time.monotonic()
    inputs = StageInputs(
        recipe=recipe,
        folders={name: folder.run_dir / name for name in manifests},
        results={name: manifest["result"] for name, manifest in manifests.items()},
        say=lambda line: say(f"{stage.name}: {line}"),
        progress=say_tenths(lambda line: say(f"{stage.name}: {line}")),
    )
    result = stage.run(inputs, folder.partial)
    seconds = time.monotonic() - clock
    say(f"{stage.name}: done in {seconds:.1f} s")
    return folder.finish(
        {
            "stage": stage.name,
            "key": key,
            "started": started,
            # Of the last attempt: a killed one leaves no clock.
            "seconds": round(seconds, 3),
            "num_attempts": num_attempts + 1,
            "trust_remote_code": recipe.trust_remote_code,
            "key_parts": parts,
            "result": result,
        }
    )
