"""Kills verbs at random moments, runs them again, and compares what comes of it.

python benchmarks/kills.py [--kills 200] [--seed 0] [--minutes 10]

Each verb is forked from a process that has imported torch and run it once, so that a kill costs
little, and its process group is killed (SIGKILL) at a moment drawn from the whole length of its
run. Then it is started again, and often killed again, until it ends by itself. Its files are
compared bit by bit, but for times, with those of a run that was never killed. It has a working
folder and a folder for temporary files of its own.

Counted: a finished stage that ran again (lost), a result that differs, a file or folder that is
left in or beside the output, and a next run that was refused (blocked). A kill between the last
rename and the end of the process finds the work done: the result must be whole, and where the verb
writes over nothing, its next run says that the folder is used (finished_before_kill).

It has not run to its end yet: there is no result of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
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
# Of 200 kills; together a little more, so that the quick verbs make up for slow ones.
_SHARES = {"prune --plan": 90, "score": 30, "surgeon": 80, "export": 20, "deploy": 20}
_AGAIN = {"deploy": 0.8, "export": 0.8}  # of a slow verb, a whole run serves more kills
_LIMIT_S = 300.0
_KEYS = ("kills", "rounds", "lost_stages", "differing", "leftovers", "blocked")
_KEYS += ("finished_before_kill",)
# Keys of JSON that tell times, or follow from files that do; the files themselves are compared.
_TIMED = {"created", "started", "finished_at", "digest", "sha256", "stat", "size_bytes"}
_TIMED |= {"num_attempts", "key", "steps_per_second"}
_MEASURED = ("profile/", "report.html")  # latencies, and a page that shows them
_OURS = {"errors.log", "cwd", "tmp"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A verb: what it runs, and the name of what it writes in a folder that is its own."""

    name: str
    run: Callable[[Path], Any]
    out: str


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
    yield Case("surgeon", lambda out: prune_onnx(graph, plan, out), "small.onnx")
    yield Case("export", lambda out: nd.export(model, out=out), "onnx")
    yield Case("deploy", lambda out: nd.deploy(recipe, out, say=print), "run")


def _make_plan(model: Any, plan_for: Callable[..., Any]) -> Any:
    from pruning.checkpoints.prunable_model import read_model

    current = read_model(model).current
    (_dims, layers), *_ = current.stacks()
    kept = [
        dataclasses.replace(
            layer, kept_heads=layer.kept_heads[:1], kept_neurons=layer.kept_neurons[::2]
        )
        for layer in layers
    ]
    return plan_for(model, kept)


def fork(case: Case, home: Path, seconds: float | None) -> tuple[str, float]:
    """Run a case in a forked process; return how it ended, and after how many seconds."""
    for name in ("cwd", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _run_child(case, home)
    limit = _LIMIT_S if seconds is None else seconds
    while time.monotonic() - started < limit:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return ("done" if code == 0 else "failed"), time.monotonic() - started
        time.sleep(0.003)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)  # it may not lead a group yet
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return ("hung" if seconds is None else "killed"), time.monotonic() - started


def _run_child(case: Case, home: Path) -> NoReturn:
    code = 3
    try:
        os.setsid()
        os.chdir(home / "cwd")
        os.environ["TMPDIR"] = tempfile.tempdir = str(home / "tmp")
        random.seed()  # as in a process of its own
        log = os.open(home / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        case.run(home / case.out)
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def hash_result(out: Path) -> dict[str, str]:
    """Return a hash of each file by its name; of JSON, without times and the output's own path."""
    files = [out] if out.is_file() else sorted(p for p in out.rglob("*") if p.is_file())
    found = {}
    for path in files:
        name = path.name if path == out else path.relative_to(out).as_posix()
        content = path.read_bytes().replace(str(out).encode(), b"OUT")
        if name.startswith(_MEASURED):
            content = b""
        elif path.suffix == ".json":
            with contextlib.suppress(ValueError):
                content = json.dumps(_untimed(json.loads(content)), sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMED and "seconds" not in k}
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


def find_leftovers(home: Path, out: Path) -> list[str]:
    """Name what lies beside the result, in the working and temporary folders, or hidden in it."""
    found = [p for p in home.iterdir() if p != out and p.name not in _OURS]
    found += [p for name in ("cwd", "tmp") for p in (home / name).iterdir()]
    found += [p for p in out.rglob(".*") if p.name != ".lock"] if out.is_dir() else []
    return [p.relative_to(home).as_posix() for p in found]


def kill_case(case: Case, work: Path, num_kills: int, seed: int, until: float) -> dict[str, Any]:
    """Kill a case `num_kills` times, or until the clock's second `until`."""
    name, draw = case.name, random.Random(f"{seed} {case.name}")
    (work / "warm").mkdir(exist_ok=True)
    case.run(work / "warm" / case.out)  # imports what the forked processes need
    home = work / name.replace(" ", "")
    ended, seconds = fork(case, home / "reference", None)
    if ended != "done":
        log = (home / "reference/errors.log").read_text()
        raise SystemExit(f"{name} {ended}: {log[-2000:]}")
    reference = hash_result(home / "reference" / case.out)
    other = hash_result(work / "warm" / case.out)
    unstable = sorted(n for n in reference.keys() | other if reference.get(n) != other.get(n))
    counts: Counter[str] = Counter(dict.fromkeys(_KEYS, 0))
    examples: list[str] = []
    while counts["kills"] < num_kills and time.monotonic() < until:
        counts["rounds"] += 1
        round_home = home / f"round{counts['rounds']}"
        found = _run_round(case, round_home, seconds, draw, num_kills - counts["kills"], counts)
        result = hash_result(round_home / case.out)
        differing = [n for n in reference.keys() | result if reference.get(n) != result.get(n)]
        differing = sorted(set(differing) - set(unstable))
        leftovers = find_leftovers(round_home, round_home / case.out)
        counts["differing"] += bool(differing)
        counts["leftovers"] += len(leftovers)
        if found == "used" and not differing:
            counts["finished_before_kill"] += 1
        elif found != "done":
            counts["blocked"] += 1
            examples.append(f"{found}: {(round_home / 'errors.log').read_text()[-300:]}")
        examples += [f"differs: {n}" for n in differing] + [f"left: {n}" for n in leftovers]
        shutil.rmtree(round_home)
    cell = {"seconds_whole": round(seconds, 2), **counts, "unstable": unstable}
    print(name, json.dumps({**cell, "examples": examples[:8]}), flush=True)
    return {**cell, "examples": examples[:8]}


def _run_round(
    case: Case, home: Path, seconds: float, draw: random.Random, most: int, counts: Counter[str]
) -> str:
    """Run a case until it ends by itself, with `most` kills at most; return how it ended."""
    out, kills, finished = home / case.out, 0, {}
    while True:
        again = kills == 0 or (kills < most and draw.random() < _AGAIN.get(case.name, 0.5))
        ended, _ = fork(case, home, draw.uniform(0.0, seconds) if again else None)
        now = read_finished(out)
        counts["lost_stages"] += sum(now.get(name) != text for name, text in finished.items())
        finished = now
        if ended == "failed" and "holds something already" in (home / "errors.log").read_text():
            return "used"
        if ended != "killed":
            return ended
        kills += 1
        counts["kills"] += 1


def main() -> None:
    """Run the campaign and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10, help="no kill is drawn after them")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    started = time.monotonic()
    until = started + 60 * args.minutes
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for case in make_cases(Path(folder)):
            if time.monotonic() < until:
                num_kills = max(1, args.kills * _SHARES[case.name] // 200)
                cells[case.name] = kill_case(case, Path(folder), num_kills, args.seed, until)
                result = summarize(cells, args.seed, round(time.monotonic() - started))
                args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["bars"], indent=1))


def summarize(cells: dict[str, Any], seed: int, seconds: int) -> dict[str, Any]:
    """Add up the cases, and hold the sums against their bars; without a kill none is met."""
    total = {key: sum(cell[key] for cell in cells.values()) for key in _KEYS}
    bars = [
        make_bar("kills", total["kills"], 200, "at_least"),
        make_bar("verbs that were killed, of five", len(cells), 5, "at_least"),
        make_bar("stages that were finished and ran again", total["lost_stages"], 0, "at_most"),
        make_bar("results that differ", total["differing"], 0, "at_most"),
        make_bar("files left behind", total["leftovers"], 0, "at_most"),
        make_bar("next runs that were refused", total["blocked"], 0, "at_most"),
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime")},
        "seed": seed,
        "seconds": seconds,
        "not_compared": [*_MEASURED, "keys of JSON that hold times"],
        "verbs": cells,
        "not_reached": [name for name in _SHARES if name not in cells],
        "total": total,
        "bars": [{**bar, "met": bar["met"] and total["kills"] > 0} for bar in bars],
    }


if __name__ == "__main__":
    main()
