"""Kills verbs at random moments, runs them again, and compares what comes of it.

python benchmarks/kills.py [--kills 200] [--seed 0] [--minutes 60]

Each verb is forked from a process that has imported torch and run it once, so that a kill costs
little, and its process group is killed (SIGKILL): before a file operation, after some processor
time or after some time, each drawn from the whole of a run that was not killed. Then it is started
again, and often killed again, until it ends by itself. All files of its own folder, its working
folder and its folder for temporary files are then compared by their hashes, without times, with
those of a run that was never killed.

Counted: a finished stage that ran again (lost), a file that is missing or differs, a file or folder
too many (left), and a next run that was refused (blocked). A kill between the last rename and the
end of the process finds the work done: what writes over nothing then says that its output is there,
which is no block if that output is whole and equal (finished_before_kill).

The result is written after each round; a campaign that was stopped goes on from it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from figures import describe_hardware, make_bar  # noqa: E402

RESULT = Path(__file__).parent / "results" / "kills.json"
_SHARES = {"prune --plan": 55, "score": 50, "surgeon": 50, "export": 20, "deploy": 25}  # of 200
_AGAIN = {"deploy": 0.8, "export": 0.8}  # a whole run of a slow verb serves more kills
_LIMIT_S = 600.0
_KEYS = ("kills", "rounds", "lost_stages", "differing", "leftovers", "blocked")
_KEYS += ("finished_before_kill",)
# A killed run counts these before it kills itself: what changes files, seen by Python's audit hook.
_OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}
_MOMENTS = {"operation": 0.5, "processor": 0.3, "time": 0.2}
# Keys of JSON that tell times, or follow from files that do; the files themselves are compared.
_TIMED = {"created", "started", "finished_at", "digest", "sha256", "stat", "size_bytes"}
_TIMED |= {"num_attempts", "key", "steps_per_second", "engine_sha256", "engine_size_bytes"}
# Their content is not compared: times, latencies, a page that shows them, a process id, what ONNX
# Runtime keeps for itself, and engines, which TensorRT-RTX seldom builds twice to the same bytes.
_MEASURED = re.compile(r".*/(profile/.*|report\.html|build\.log|\.lock|\.ses|.*\.engine)")
_REFUSED = re.compile(r"(holds something already|exists already)\.")


@dataclasses.dataclass(frozen=True)
class Case:
    """A verb: what it runs, and the name of what it writes."""

    name: str
    run: Callable[[Path], Any]
    out: str


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: before the n-th operation, or after seconds of a clock; never by default."""

    operation: float = float("inf")
    processor: float = float("inf")
    time: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended (done, failed, killed, hung), and what it had used of each clock."""

    how: str
    used: Moment


def make_cases(work: Path) -> Iterator[Case]:
    """Make a tiny model, a plan and a graph of it, and the verbs that take them."""
    from transformers import AutoModel

    import nirvana_deploy as nd
    from exporters.surgeon.prune_onnx import prune_onnx
    from nirvana_deploy import plan_for
    from pruning.checkpoints.model_source import load_model
    from tests.pruning.tiny_models import make_tiny
    from tests.pruning.tiny_text import write_tiny_data, write_tiny_model

    model, data = write_tiny_model(work / "model"), write_tiny_data(work / "data", 48, 12)
    make_tiny("bert", num_hidden_layers=1).base_model.save_pretrained(model)
    headed = work / "headed"  # scores need a loss
    make_tiny("bert", num_hidden_layers=1).save_pretrained(headed)
    for file in (*model.glob("*token*"), model / "vocab.txt"):
        shutil.copy(file, headed)
    loaded = load_model(AutoModel, str(model))
    plan = _make_plan(loaded, plan_for)
    text = nd.CalibrationConfig(
        source=str(data),
        text_column="description",
        num_sequences=8,
        sequence_length=16,
        num_draws=1,
    )
    scoring = nd.ScoringConfig(calibration=text, dtype="float32", saliency="taylor")
    recipe = nd.Recipe(
        model=str(model),
        data=nd.DataConfig(
            dataset=str(data),
            text_column="description",
            label_column="section",
            max_length=16,
        ),
        baseline=nd.BaselineConfig(num_epochs=1, batch_size=8, bf16=False),
        prune=nd.PruneConfig(
            budget=0.5,
            num_epochs=2,
            batch_size=8,
            save_steps=5,
            sequence_length=16,
            warm_start_rows=16,
            bf16=False,
        ),
        profile=nd.ProfileConfig(
            length=8,
            vocab_size=99,
            batch_sizes=(1,),
            warmup_seconds=0.05,
            min_samples=4,
            min_seconds=0.05,
        ),
    )
    yield Case("prune --plan", lambda out: nd.apply_plan(model, plan, out=out), "pruned")
    yield Case("score", lambda out: nd.score(headed, scoring, out=out), "scores")
    graph = nd.export(model, out=work / "graph").onnx
    beside = _with_weights_beside(graph, work / "beside")  # two files have to appear
    yield Case("surgeon", lambda out: prune_onnx(beside, plan, out), "small.onnx")
    yield Case("export", lambda out: nd.export(model, out=out), "onnx")
    yield Case("deploy", lambda out: nd.deploy(recipe, out, say=print), "run")


def _make_plan(model: Any, plan_for: Callable[..., Any]) -> Any:
    from pruning.cutting.wiring_inference import read_model

    current = read_model(model).current
    (_dims, layers), *_ = current.stacks()
    kept = [
        dataclasses.replace(
            layer, kept_heads=layer.kept_heads[:1], kept_neurons=layer.kept_neurons[::2]
        )
        for layer in layers
    ]
    return plan_for(model, kept)


def _with_weights_beside(graph: Path, folder: Path) -> Path:
    import onnx

    folder.mkdir()
    for name in ("config.json",):
        shutil.copy(graph.with_name(name), folder)
    model, path = onnx.load(str(graph)), folder / graph.name
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data")
    return path


def fork(case: Case, home: Path, moment: Moment | None = None) -> Ended:
    """Run a case in a forked process in `home`, and kill it at a moment."""
    moment = moment or Moment()
    for name in ("cwd", "tmp", "made"):
        (home / name).mkdir(parents=True, exist_ok=True)
    started, processor = time.monotonic(), 0.0
    process = os.fork()
    if process == 0:
        _run_child(case, home, moment.operation)
    killed = False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        seconds = time.monotonic() - started
        if ended:
            break
        processor = _read_processor_seconds(process) or processor
        if not killed and (processor >= moment.processor or seconds >= min(moment.time, _LIMIT_S)):
            killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)  # it may not lead a group yet
                os.killpg(process, signal.SIGKILL)
        time.sleep(0.003)
    code = os.waitstatus_to_exitcode(status)
    how = {0: "done", -signal.SIGKILL: "killed"}.get(code, "failed")
    counted = home / "operations"
    operations = float(counted.read_text()) if how == "done" else 0.0
    counted.unlink(missing_ok=True)
    how = "hung" if how == "killed" and seconds >= _LIMIT_S else how
    return Ended(how, Moment(operation=operations, processor=processor, time=seconds))


def _read_processor_seconds(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _run_child(case: Case, home: Path, kill_before: float) -> NoReturn:
    code, count = 3, 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & writes
        if opened or event in _OPERATIONS:
            count += 1
            if count >= kill_before:
                os.killpg(0, signal.SIGKILL)

    try:
        os.setsid()
        os.chdir(home / "cwd")
        os.environ["TMPDIR"] = tempfile.tempdir = str(home / "tmp")
        random.seed()  # as in a process of its own
        log = os.open(home / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.addaudithook(watch)
        case.run(home / "made" / case.out)
        code, kill_before = 0, float("inf")
        (home / "operations").write_text(str(count))
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def list_files(home: Path) -> dict[str, str]:
    """Return the hash of each file that a case made, and of each folder none, by their names.

    JSON is compared without times, text without the folder's own path, and safetensors without the
    order of its metadata, which is another in each process.
    """
    found = {}
    for path in (p for name in ("cwd", "tmp", "made") for p in (home / name).rglob("*")):
        name, content = path.relative_to(home).as_posix(), b""
        if path.is_file() and not _MEASURED.fullmatch(name):
            content = path.read_bytes().replace(str(home).encode(), b"HOME")
            with contextlib.suppress(ValueError):
                if path.suffix == ".json":
                    content = json.dumps(_untimed(json.loads(content)), sort_keys=True).encode()
                if path.suffix == ".safetensors":
                    end = 8 + int.from_bytes(content[:8], "little")
                    header = json.loads(content[8:end])
                    content = json.dumps(header, sort_keys=True).encode() + content[end:]
        found[name] = hashlib.sha256(content).hexdigest() if path.is_file() else "folder"
    return found


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMED and "seconds" not in k}
        if isinstance(kept.get("files"), dict):
            kept["files"] = sorted(kept["files"])  # without their hashes
        return {k: _untimed(v) for k, v in kept.items()}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def read_finished(out: Path) -> dict[str, bytes]:
    """Return the manifests of the finished stages in a folder: one that runs again has another."""
    found = {}
    for path in (*out.glob("manifest.json"), *out.glob("[!.]*/manifest.json")):
        told = json.loads(path.read_bytes())
        skipped = told.get("result", {}).get("status") == "skipped"  # tried again each time
        if told.get("finished", True) and not skipped:
            found[path.relative_to(out).as_posix()] = path.read_bytes()
    return found


def judge(how: str, log: str, reference: dict[str, str], found: dict[str, str]) -> dict[str, Any]:
    """Tell what is wrong with a case that ended by itself after its kills."""
    differing = sorted(n for n in reference if found.get(n) != reference[n])
    leftovers = sorted(found.keys() - reference)
    refused = how == "failed" and _REFUSED.search(log) is not None
    finished = refused and not differing
    blocked = how != "done" and not finished
    examples = [f"differs: {n}" for n in differing] + [f"left: {n}" for n in leftovers]
    return {
        "differing": int(bool(differing) and not blocked),
        "leftovers": len(leftovers),
        "blocked": int(blocked),
        "finished_before_kill": int(finished),
        "examples": ([f"{how}: {log[-300:]}"] if blocked else []) + examples[:4],
    }


def kill_case(
    case: Case, work: Path, cell: dict[str, Any], num_kills: int, seed: int, until: float
) -> Iterator[dict[str, Any]]:
    """Kill a case `num_kills` times, or until the clock's second `until`; give the sums so far."""
    home = work / case.name.replace(" ", "")
    (work / "warm").mkdir(exist_ok=True)
    case.run(work / "warm" / case.out)  # imports what the forked processes need
    whole = [fork(case, home / name) for name in ("reference", "other")]
    if {ended.how for ended in whole} != {"done"}:
        raise SystemExit(f"{case.name}: {(home / 'reference/errors.log').read_text()[-2000:]}")
    reference, other = (list_files(home / name) for name in ("reference", "other"))
    unstable = sorted(n for n in reference if reference[n] != other.get(n))  # as an engine is
    if reference.keys() != other.keys():
        names = sorted(reference.keys() ^ other)
        raise SystemExit(f"{case.name}: of two runs that were not killed one lacks {names}")
    reference |= dict.fromkeys(unstable, "")
    examples = cell.get("examples", [])
    counts = Counter({key: cell.get(key, 0) for key in (*_KEYS, *_MOMENTS)})
    while counts["kills"] < num_kills and time.monotonic() < until:
        counts["rounds"] += 1
        draw = random.Random(f"{seed} {case.name} {counts['rounds']}")
        round_home = home / f"round{counts['rounds']}"
        how = _run_round(case, round_home, whole[0].used, draw, num_kills, counts)
        log = (round_home / "errors.log").read_text()
        found = list_files(round_home)
        found |= {name: "" for name in unstable if name in found}
        verdict = judge(how, log, reference, found)
        examples = (examples + verdict.pop("examples"))[:12]
        counts.update(verdict)
        shutil.rmtree(round_home)
        yield {
            "seconds_whole": round(whole[0].used.time, 2),
            "operations_whole": int(whole[0].used.operation),
            **counts,
            "files_compared": len(reference) - len(unstable),
            "differ_without_kills": unstable,
            "examples": examples,
        }


def _run_round(
    case: Case,
    home: Path,
    whole: Moment,
    draw: random.Random,
    num_kills: int,
    counts: Counter[str],
) -> str:
    """Run a case until it ends by itself, with some kills; return how it ended."""
    out, kills = home / "made" / case.out, 0
    finished: dict[str, bytes] = {}
    while True:
        again = kills == 0 or (
            counts["kills"] < num_kills and draw.random() < _AGAIN.get(case.name, 0.5)
        )
        by = draw.choices(list(_MOMENTS), list(_MOMENTS.values()))[0]
        at = draw.uniform(0.0, getattr(whole, by))
        ended = fork(case, home, Moment(**{by: at}) if again else None)
        now = read_finished(out)
        counts["lost_stages"] += sum(now.get(name) != text for name, text in finished.items())
        finished = now
        if ended.how != "killed":
            return ended.how
        kills += 1
        counts.update({"kills": 1, by: 1})


def main() -> None:
    """Run the campaign and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="no kill is drawn after them")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--verbs", nargs="*", default=list(_SHARES))
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    started = time.monotonic()
    until = started + 60 * args.minutes
    before = read_unfinished(args.out, args.seed, args.kills)
    cells: dict[str, Any] = before.get("verbs", {})
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for case in make_cases(Path(folder)):
            num_kills = max(1, args.kills * _SHARES[case.name] // 200)
            cell = cells.get(case.name, {})
            if case.name not in args.verbs or cell.get("kills", 0) >= num_kills:
                continue
            for sums in kill_case(case, Path(folder), cell, num_kills, args.seed, until):
                cells[case.name] = sums
                seconds = before.get("seconds", 0) + round(time.monotonic() - started)
                result = summarize(cells, args.seed, args.kills, seconds)
                args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(case.name, json.dumps(cells.get(case.name)), flush=True)


def read_unfinished(path: Path, seed: int, kills: int) -> dict[str, Any]:
    """Return the result of a campaign that was stopped; none where it ended or was another."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    asked = {"seed": seed, "asked_kills": kills}
    same = {key: found.get(key) for key in asked} == asked
    return found if same and found["total"]["kills"] < kills else {}


def summarize(cells: dict[str, Any], seed: int, kills: int, seconds: int) -> dict[str, Any]:
    """Add up the cases and compare the sums with their bars; without a kill none is met."""
    total = {key: sum(cell[key] for cell in cells.values()) for key in _KEYS}
    bars = [
        make_bar("kills", total["kills"], kills, "at_least"),
        make_bar("verbs that were killed, of five", len(cells), 5, "at_least"),
        make_bar("stages that were finished and ran again", total["lost_stages"], 0, "at_most"),
        make_bar("results that differ", total["differing"], 0, "at_most"),
        make_bar("files left after the next run", total["leftovers"], 0, "at_most"),
        make_bar("next runs that were refused", total["blocked"], 0, "at_most"),
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime")},
        "seed": seed,
        "asked_kills": kills,
        "seconds": seconds,
        "not_compared": [_MEASURED.pattern, "keys of JSON that hold times"],
        "verbs": cells,
        "not_reached": [name for name in _SHARES if name not in cells],
        "total": total,
        "bars": [{**bar, "met": bar["met"] and total["kills"] > 0} for bar in bars],
    }


if __name__ == "__main__":
    main()
