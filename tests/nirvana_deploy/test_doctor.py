"""The doctor: finds what is there, says what to install for what is not, and never crashes."""

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nirvana_deploy.api import machines
from nirvana_deploy.api.machines import Finding
from nirvana_deploy.cli import main


def find(what: str) -> Finding:
    return next(finding for finding in machines.doctor() if finding.what == what)


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def import_module(name: str) -> Any:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.import_module(name)

    monkeypatch.setattr(machines, "importlib", SimpleNamespace(import_module=import_module))


def test_the_machine_is_described() -> None:
    assert find("Python").found.startswith(sys.version.split()[0])
    assert find("CPUs").state == "ok"
    assert find("memory").found.endswith("GiB")
    assert find("torch").found.startswith(version("torch").split("+")[0])


def test_torch_is_described_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError")
    monkeypatch.setattr(
        machines, "find_spec", lambda _: SimpleNamespace(origin=str(package / "__init__.py"))
    )
    (package / "version.py").write_text("__version__ = '9.9'\ncuda = '13.0'\n")
    assert find("torch").found == "9.9 (CUDA 13.0)"
    (package / "version.py").write_text("__version__ = '9.9'\ncuda = None\n")
    assert find("torch").state == "ok"
    gpu = {"name": "L4", "compute_capability": "8.9", "memory_gib": 24.0, "driver": "580.1"}
    monkeypatch.setattr(machines, "list_gpus", lambda: [gpu])
    assert find("torch").state == "warning"
    assert "does not use the GPU" in find("torch").found
    monkeypatch.setattr(machines, "find_spec", lambda _: None)
    assert find("torch").state == "missing"


@pytest.mark.parametrize(
    ("what", "module", "extra"),
    [
        ("TensorRT", "tensorrt", "tensorrt"),
        ("TensorRT-RTX", "tensorrt_rtx", "rtx"),
        ("onnxruntime", "onnxruntime", "cpu"),
        ("Triton client", "tritonclient.grpc", "triton"),
        ("ORT GenAI", "onnxruntime_genai", "genai"),
    ],
)
def test_what_is_missing_names_its_extra(
    what: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, module)
    finding = find(what)
    assert finding.state == "missing"
    assert finding.remedy == f"pip install 'nirvana-deploy[{extra}]'"


def test_a_part_without_its_libraries_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        if name == "tensorrt_rtx":
            raise ImportError("libtensorrt_rtx.so.1: cannot open shared object file")
        return importlib.import_module(name)

    monkeypatch.setattr(machines, "importlib", SimpleNamespace(import_module=import_module))
    finding = find("TensorRT-RTX")
    assert finding.state == "warning"
    assert "does not import: libtensorrt_rtx.so.1" in finding.found


def test_a_part_that_lacks_another_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        if name == "tritonclient.grpc":
            raise ModuleNotFoundError("No module named 'grpc'", name="grpc")
        return importlib.import_module(name)

    monkeypatch.setattr(machines, "importlib", SimpleNamespace(import_module=import_module))
    finding = find("Triton client")
    assert (finding.state, finding.found) == ("missing", "installed without grpc")
    assert finding.remedy == "pip install 'nirvana-deploy[triton]'"


def test_both_onnxruntimes_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_version", lambda _: "1.0")
    finding = find("conflict")
    assert finding.state == "warning"
    assert "pip uninstall onnxruntime onnxruntime-gpu" in finding.remedy


def test_one_onnxruntime_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_version", lambda name: None if "gpu" in name else "1.0")
    assert not [finding for finding in machines.doctor() if finding.what == "conflict"]


def test_the_missing_demo_model_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find_version", lambda _: None)
    assert find("MiniLM-L6").remedy == "pip install 'nirvana-deploy[demo]'"


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "NVIDIA L4", "compute_capability": "8.9", "memory_gib": 24.0, "driver": "580.1"}
    monkeypatch.setattr(machines, "list_gpus", lambda: [gpu])
    said = "NVIDIA L4, compute capability 8.9, 24.0 GiB, driver 580.1"
    assert find("GPU 0").found == said


def test_a_broken_part_does_not_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise OSError("bad driver")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=break_down))
    findings = machines.doctor()
    assert any(f.area == "devices" and "cannot be examined" in f.found for f in findings)
    assert any(f.area == "demo" for f in findings)


def test_doctor_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "What this machine can do" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"area", "what", "state", "found", "remedy"} == set(rows[0])
