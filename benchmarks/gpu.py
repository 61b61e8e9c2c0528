"""Runs in one go what no CPU can show: dense against pruned on a GPU, and the tests marked `gpu`.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json --minutes 8
    python benchmarks/gpu.py --out rehearsal.json --rehearse           # on a CPU, tiny, to try it

Each part is a process of its own, with a share of the time: one that fails, hangs or takes the
device down is stored with its reason and the rows that it had, and the next one runs. The file is
written anew every two seconds, so that a run that is killed keeps what it had.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_POLL_SECONDS = 2.0
# A part stops by itself between two rows; one that does not is killed this much later.
_GRACE_SECONDS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process: what it runs, and its share of the time.

    Attributes:
        share: against those of the parts after it; what a part leaves over goes to the next ones.
    """

    name: str
    share: float
    run: Callable[..., None]
    needs_graphs: bool = False


def main() -> None:
    """Run all parts, or one of them as the process that it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--parts", nargs="+", choices=[p.name for p in PARTS], default=None)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on whatever is here")
    parser.add_argument("--worker", choices=[p.name for p in (*PARTS, *GRAPHS)], help="internal")
    parser.add_argument("--until", type=float, help="internal: seconds since the epoch")
    parser.add_argument("--graphs", type=Path, help="internal")
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(arguments)
        return
    if not arguments.rehearse and not _has_gpu():
        sys.exit("No GPU here. --rehearse tries the script on a CPU.")
    run_parts(arguments)


def run_parts(arguments: argparse.Namespace) -> None:
    """Run the parts one after the other, the tracing of graphs beside them."""
    deadline = time.monotonic() + arguments.minutes * 60
    parts = [p for p in PARTS if arguments.parts is None or p.name in arguments.parts]
    result = describe_run(arguments)
    result["parts"] = {}
    with tempfile.TemporaryDirectory() as folder:
        graphs = Path(folder) / "graphs"
        graphs.mkdir()
        tracing = {}
        if any(part.needs_graphs for part in parts):
            seconds = arguments.minutes * 60
            tracing = {p.name: Worker(p, arguments, graphs, seconds=seconds) for p in GRAPHS}
        for number, part in enumerate(parts):
            left = deadline - time.monotonic()
            share = part.share / sum(p.share for p in parts[number:])
            worker = Worker(part, arguments, graphs, seconds=max(0.0, left * share))
            while not worker.is_done():
                result["parts"][part.name] = worker.read()
                write_result(arguments.out, result)
                time.sleep(_POLL_SECONDS if not arguments.rehearse else 0.1)
            result["parts"][part.name] = worker.read()
            print(summarise(part.name, result["parts"][part.name]), flush=True)
            result["parts"] |= {name: beside.read() for name, beside in tracing.items()}
            write_result(arguments.out, result)
        for name, beside in tracing.items():
            beside.stop("the run is over")
            result["parts"][name] = beside.read()
    result["gpu_after"] = _ask(list_gpus)
    result["finished"] = True
    write_result(arguments.out, result)


class Worker:
    """A part in a process of its own."""

    def __init__(
        self, part: Part, arguments: argparse.Namespace, graphs: Path, *, seconds: float
    ) -> None:
        self._part = part
        self._record = graphs.parent / f"{part.name}.json"
        self._log = graphs.parent / f"{part.name}.log"
        self._kill_at = time.monotonic() + seconds + _GRACE_SECONDS
        self._ended = ""
        command = [sys.executable, str(Path(__file__)), "--out", str(self._record)]
        command += [
            "--worker",
            part.name,
            "--until",
            str(time.time() + seconds),
            "--graphs",
            str(graphs),
        ]
        if arguments.rehearse:
            command.append("--rehearse")
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
            )

    def is_done(self) -> bool:
        """Tell whether the process has ended; end it when its time is long up."""
        if self._process.poll() is not None:
            return True
        if time.monotonic() > self._kill_at:
            self.stop("it did not end when its time was up")
            return True
        return False

    def stop(self, reason: str) -> None:
        """End the process if it runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            self._ended = f"ended from outside: {reason}"

    def read(self) -> dict[str, Any]:
        """Return what the part has recorded; where it died, how, and the end of what it printed."""
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
        except (OSError, ValueError):
            record = {"rows": [], "failed": [], "not_run": []}
        code = self._process.poll()
        if code is None:
            return {**record, "status": "running"}
        if record.get("status") in (None, "running"):
            log = self._log.read_text(errors="replace").strip().splitlines()[-8:]
            record.update(status="died", exit_code=code, reason=self._ended or "\n".join(log))
        return record


def run_worker(arguments: argparse.Namespace) -> None:
    """Run one part in this process."""
    from gpu_record import PartRecord, describe

    part = next(p for p in (*PARTS, *GRAPHS) if p.name == arguments.worker)
    if part in GRAPHS:
        os.nice(10)
    device = "cuda" if _has_gpu() else "cpu"
    left = arguments.until - time.time()  # less than was given: to import torch took its time
    record = PartRecord(arguments.out, seconds=left, device=device, rehearse=arguments.rehearse)
    try:
        part.run(record, *([arguments.graphs] if part.needs_graphs else []))
    except Exception as error:
        record.state(reason=record.data.get("reason", describe(error)))
        record.finish("failed")
    else:
        record.finish("done")


def _compare_in_torch(name: str, record: Any) -> None:
    from gpu_torch import compare_in_torch

    compare_in_torch(record, name)


def _compare_compiled(record: Any) -> None:
    from gpu_torch import compare_compiled

    compare_compiled(record)


def _measure_roofline(record: Any) -> None:
    from gpu_roofline import measure_roofline

    measure_roofline(record)


def _measure_sub_blocks(record: Any) -> None:
    from gpu_sub_blocks import measure_sub_blocks

    measure_sub_blocks(record)


def _write_graphs(name: str, record: Any, folder: Path) -> None:
    from gpu_graphs import write_graphs

    write_graphs(record, name, folder)


def _compare_in_onnxruntime(record: Any, folder: Path) -> None:
    from gpu_onnxruntime import compare_in_onnxruntime

    compare_in_onnxruntime(record, folder)


def _compare_engines(record: Any, folder: Path) -> None:
    from gpu_engines import compare_engines

    compare_engines(record, folder)


def _run_gpu_tests(record: Any) -> None:
    """Run the tests marked `gpu`, from the files that have such tests."""
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short"]
    command += ["--continue-on-collection-errors", "-p", "no:cacheprovider", *files]
    with tempfile.TemporaryFile("w+") as log:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=max(1.0, record.seconds_left()),
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        log.seek(0)
        lines = log.read().strip().splitlines()
    record.add(exit_code=code, summary=lines[-1] if lines else "", tail=lines[-40:])
    if code != 0:
        reason = "the part's time was used up" if code is None else (lines or [""])[-1]
        record.data["failed"].append({"what": "tests", "reason": reason})


# In the order in which they run: the most wanted first.
PARTS: tuple[Part, ...] = (
    Part(name="roofline", share=40, run=_measure_roofline),
    Part(name="torch-llama-8b", share=90, run=partial(_compare_in_torch, "llama-8b")),
    Part(name="torch-bert-base", share=60, run=partial(_compare_in_torch, "bert-base")),
    Part(name="sub-blocks", share=60, run=_measure_sub_blocks),
    Part(name="torch-bert-large", share=60, run=partial(_compare_in_torch, "bert-large")),
    Part(name="onnxruntime", share=70, run=_compare_in_onnxruntime, needs_graphs=True),
    Part(name="torch-llama-1b", share=60, run=partial(_compare_in_torch, "llama-1b")),
    Part(name="tests", share=60, run=_run_gpu_tests),
    Part(name="tensorrt", share=70, run=_compare_engines, needs_graphs=True),
    Part(name="torch-compile", share=60, run=_compare_compiled),
)
# Run beside the others, on the CPU.
GRAPHS: tuple[Part, ...] = tuple(
    Part(name=f"graphs-{name}", share=0, run=partial(_write_graphs, name), needs_graphs=True)
    for name in ("bert-base", "bert-large")
)


def describe_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say where, when and how."""
    from profiles.measuring.environment import capture_environment

    gpus = _ask(list_gpus)
    return {
        "benchmark": "gpu",
        "rehearsal": arguments.rehearse,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": gpus[0].get("name") if gpus and isinstance(gpus, list) else "CPU",
        "environment": _ask(lambda: capture_environment(len(os.sched_getaffinity(0)))),
        "data": "random weights, random token ids, no padding: speed only, nothing is predicted",
        "method": (
            "dense and pruned in turns (ABBA or BAAB, drawn at random), medians, bootstrap "
            "intervals of 95 %. end_to_end: host clock, one call at a time, tensors stay on the "
            "device. device: between two events around the same calls; eager code that cannot "
            "keep the device busy has its gaps in there, CUDA graphs have none. kind none: the "
            "dense model against itself."
        ),
        "minutes": arguments.minutes,
        "other_processes_on_the_gpu": count_gpu_processes(),
        "left_out": [
            "training and pruning of a larger model on the GPU",
            "T5 and other encoder-decoders",
            "fp8 and int8 kernels",
        ],
        "bars": [],  # no figure on a GPU is asked for yet
        "finished": False,
    }


def _ask(question: Callable[[], Any]) -> Any:
    """Return the answer, or in words why there is none: no description is worth the run."""
    try:
        return question()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def list_gpus() -> list[dict[str, Any]]:
    """Describe the GPUs and their state now."""
    from profiles.measuring.environment import list_gpus as describe_gpus

    return describe_gpus()


def count_gpu_processes() -> int | None:
    """Count the processes that compute on the first GPU now; None where that cannot be told."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except Exception:  # no driver, no GPU, or a container that hides them
        return None


def summarise(name: str, record: dict[str, Any]) -> str:
    """Return a line for the terminal."""
    counts = ", ".join(f"{len(record[key])} {key}" for key in ("rows", "failed", "not_run"))
    first = record.get("reason") or (record["failed"][0]["reason"] if record["failed"] else "")
    return f"{name}: {record['status']} in {record.get('seconds')} s: {counts} {first[:300]}"


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write all aside and rename."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".aside")
    aside.write_text(json.dumps(result, indent=1, default=str) + "\n")
    aside.replace(out)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
