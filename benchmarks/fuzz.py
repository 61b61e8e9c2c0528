"""Give damaged files to every reader: no Python error, no hang, no crash, nothing wrong accepted.

python benchmarks/fuzz.py --num_inputs 10000 --num_workers 2

Each input is a whole file of ours of which a seeded mutation changed something. A worker process
reads one after the other as the command line would; a reader that takes more than 20 s of the
processor, sleeps as long, or ends the process is counted, and the worker started again. What is
accepted is compared with what is right (see fuzz_readers.py and fuzz_graphs.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import describe_hardware, make_bar
from fuzz_folders import make_folders
from fuzz_graphs import UNJUDGED
from fuzz_readers import READERS, Reader, refit

from nirvana_deploy.serving.server.inference_request import RefusedError
from pruning.errors import NirvanaError

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
# Of the processor, or asleep: an input that waits for a busy processor does not hang.
SECONDS = 20.0
_KINDS = ("refused", "accepted", UNJUDGED, "raw", "wrong", "hang", "crash")


def draw_reader(seed: int) -> Reader:
    """Return the reader that input number `seed` is for."""
    shares = [reader.share for reader in READERS]
    return random.Random(seed).choices(READERS, shares)[0]


def run_input(base: Path, seed: int, folder: Path) -> tuple[str, str]:
    """Damage a copy of the reader's folder and read it; return how it went, and a detail."""
    reader = draw_reader(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base / reader.folder, folder)
    path = folder / reader.file
    before = path.read_bytes()
    path.write_bytes(reader.mutate(before, random.Random(f"{seed}:{reader.name}")))
    if reader.vouched:
        refit(folder, reader.vouched)
    try:
        wrong = reader.read(folder)
    except (NirvanaError, RefusedError):
        return "refused", ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [
            f for f in frames if "/benchmarks/" not in f.filename and "site-pack" not in f.filename
        ]
        last = (own or frames)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return "raw", f"{place} {type(error).__name__}: {str(error)[:150]}"
    if wrong is None or wrong == UNJUDGED:
        return ("accepted" if wrong is None else UNJUDGED), ""
    return "wrong", wrong


def prepare(work: Path) -> None:
    """Write the whole files, and read each once: the readers are imported then, and take them."""
    import datasets
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = work / "cache"
    make_folders(work / "base")
    for reader in READERS:
        shutil.copytree(work / "base" / reader.folder, work / "whole")
        refused: Any = None
        try:
            refused = reader.read(work / "whole")
        except (NirvanaError, RefusedError) as error:
            refused = error
        shutil.rmtree(work / "whole")
        if refused is not None:
            raise RuntimeError(f"{reader.name}: its whole file is not taken: {refused}")


def _work(work: Path, number: int, seeds: list[int], send: Any) -> None:
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # other libraries' logs
    for seed in seeds:
        send.send((seed, "start", ""))
        send.send((seed, *run_input(work / "base", seed, work / f"worker-{number}")))
    send.send((None, "", "done"))


def _look_at(pid: int) -> tuple[float, bool]:
    """Return the processor seconds of a process and its children, and whether one of them runs.

    One that waits for a processor counts as running, one that sleeps does not.
    """
    seconds, runs = 0.0, False
    with contextlib.suppress(OSError):  # it ended meanwhile
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        runs = fields[0] in "RD"
        seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            used, child_runs = _look_at(int(child))
            seconds, runs = seconds + used, runs or child_runs
    return seconds, runs


class Campaign:
    """The inputs of one worker, and what became of them."""

    def __init__(self, work: Path, number: int, seeds: list[int]) -> None:
        self.work, self.number, self.seeds = work, number, seeds
        self.found: dict[int, tuple[str, str]] = {}

    def run(self, until: float) -> None:
        """Read all inputs, or those until a time; restart the worker where it hangs or dies."""
        left = list(self.seeds)
        while left and time.monotonic() < until:
            receive, send = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("fork").Process(
                target=_work, args=(self.work, self.number, left, send), daemon=True
            )
            process.start()
            send.close()
            self._watch(process, receive, until)
            process.kill()
            process.join()
            left = [seed for seed in left if seed not in self.found]

    def _watch(self, process: Any, receive: Any, until: float) -> None:
        """Note what the worker tells, until it is done, hangs, dies, or the time is over."""
        current, began, idle = None, 0.0, 0.0
        while time.monotonic() < until:
            if not receive.poll(1.0):
                if current is None or not process.is_alive():
                    continue
                used, runs = _look_at(process.pid)
                idle = 0.0 if runs else idle + 1.0
                if used - began > SECONDS or idle > SECONDS:
                    self.found[current] = ("hang", f"over {SECONDS:.0f} s")
                    return
                continue
            try:
                seed, kind, detail = receive.recv()
            except EOFError:
                process.join()
                if current is not None:
                    self.found[current] = ("crash", f"exit code {process.exitcode}")
                return
            if detail == "done":
                return
            if kind == "start":
                current, began, idle = seed, _look_at(process.pid)[0], 0.0
            else:
                self.found[seed], current = (kind, detail), None


def run_campaign(num_inputs: int, num_workers: int, seconds: float, seed: int) -> dict[str, Any]:
    """Read `num_inputs` damaged files and count what became of them, by reader."""
    started = time.monotonic()
    seeds = [seed * 10**9 + n for n in range(num_inputs)]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        prepare(work)
        campaigns = [Campaign(work, n, seeds[n::num_workers]) for n in range(num_workers)]
        threads = [
            threading.Thread(target=campaign.run, args=(started + seconds,))
            for campaign in campaigns
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = {seed: what for campaign in campaigns for seed, what in campaign.found.items()}
    readers: dict[str, Counter[str]] = {reader.name: Counter() for reader in READERS}
    for each, (kind, _) in found.items():
        readers[draw_reader(each).name][kind] += 1
    bad = Counter(
        f"{draw_reader(each).name}: {kind}: {detail}"
        for each, (kind, detail) in found.items()
        if kind not in ("refused", "accepted", UNJUDGED)
    )
    total = sum(readers.values(), Counter())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: version(n) for n in ("torch", "transformers", "onnx", "msgspec", "pyyaml")},
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "readers": {
            name: {kind: counts[kind] for kind in _KINDS} for name, counts in readers.items()
        },
        "found": [{"what": what, "times": times} for what, times in bad.most_common()],
        "bars": [
            make_bar("inputs", len(found), 10_000, "at_least"),
            make_bar("raw exceptions", total["raw"], 0, "at_most"),
            make_bar("hangs over 20 s", total["hang"], 0, "at_most"),
            make_bar("crashes", total["crash"], 0, "at_most"),
            make_bar("wrong successes", total["wrong"], 0, "at_most"),
            make_bar("readers that accepted an input", _count_accepting(readers), 50, "at_least"),
        ],
    }


def _count_accepting(readers: dict[str, Counter[str]]) -> int:
    """Count the readers whose answers were compared: one that refuses all of them shows little."""
    return sum(counts["accepted"] > 0 for counts in readers.values())


def main() -> None:
    """Run the campaign, print what was found, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_inputs", type=int, default=10_000)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    result = run_campaign(args.num_inputs, args.num_workers, args.seconds, args.seed)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for finding in result["found"]:
        print(f"{finding['times']:5} {finding['what']}")
    for bar in result["bars"]:
        print(f"{bar['name']}: {bar['value']:g} ({'met' if bar['met'] else 'missed'})")


if __name__ == "__main__":
    main()
