"""Stands in for the work of the real stages: same signatures, same results, no torch."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters.engines.engine_config import EngineConfig
from exporters.export_config import ExportConfig
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from profiles.measuring.measure_config import ProfileConfig
from pruning.errors import MissingExtraError
from pruning.gates.prune_config import PruneConfig
from pruning.tasks.data_config import DataConfig
from pruning.training.training_configs import BaselineConfig
from pruning.write_aside import refuse_used_folder

calls: list[str] = []


class Result:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    def to_json(self) -> dict[str, Any]:
        return self.data


def check_fit(recipe: Recipe, say: Any) -> dict[str, str]:
    return {}


def check_rows(recipe: Recipe, say: Any) -> None:
    pass


def run_baseline(
    model: str, data: DataConfig, config: BaselineConfig, out_dir: Path, say: Any
) -> dict[str, Any]:
    calls.append("baseline")
    (out_dir / "checkpoint").mkdir()
    (out_dir / "checkpoint" / "w").write_text(f"{model} {config.seed}")
    (out_dir / "trainer").mkdir()
    return {"model": model, "accuracy": 0.8}


def run_prune(
    baseline: Path, data: DataConfig, config: PruneConfig, out_dir: Path, pricing: None = None
) -> dict[str, Any]:
    calls.append("prune")
    (out_dir / "checkpoint").mkdir()
    text = (baseline / "w").read_text()
    (out_dir / "checkpoint" / "w").write_text(f"{text} {config.budget}")
    (out_dir / "plan.json").write_text("{}")
    figures = {"accuracy": 0.8, "size_bytes": 91_000_000}
    return {
        "budget": {"cost": "macs", "asked_kept_fraction": config.budget, "kept_fraction": 0.4999},
        "dense": figures,
        "pruned": {"accuracy": 0.793, "size_bytes": 70_000_000},
        "layers": [{"kept_heads": [0, 2]}, {"kept_heads": [], "kept_cross_heads": [1]}],
    }


def run_export(
    dense: Path, pruned: Path, config: ExportConfig, out_dir: Path, progress: object = None
) -> dict[str, Any]:
    calls.append("export")
    for name, checkpoint in (("dense", dense), ("pruned", pruned)):
        (out_dir / name).mkdir()
        (out_dir / name / "model.onnx").write_text((checkpoint / "w").read_text())
    return {
        name: {"onnx_path": f"{name}/model.onnx", "graphs": {"model": {"file": "model.onnx"}}}
        for name in ("dense", "pruned")
    }


def export_encoder_decoder(
    dense: Path, pruned: Path, config: ExportConfig, out_dir: Path, progress: object = None
) -> dict[str, Any]:
    calls.append("export")
    graphs = {name: {"file": f"{name}.onnx"} for name in ("encoder_model", "decoder_model")}
    for folder in ("dense", "pruned"):
        (out_dir / folder).mkdir()
        for name in graphs:
            (out_dir / folder / f"{name}.onnx").write_text(name)
    return {
        name: {"onnx_path": f"{name}/encoder_model.onnx", "graphs": graphs}
        for name in ("dense", "pruned")
    }


def build_engine(
    onnx_path: Path,
    out_dir: Path,
    config: EngineConfig,
    num_attention_layers: int | None = None,
) -> Result:
    calls.append("build")
    out_dir.mkdir(exist_ok=True)
    (out_dir / "model.engine").write_text(onnx_path.read_text())
    return Result(
        {
            "status": "built",
            "flavour": "tensorrt_rtx",
            "version": "1.7",
            "precision_asked": "fp16",
            "engine_path": "model.engine",
            "num_attention_layers": num_attention_layers,
            "num_fused_attentions": 1,
        }
    )


def build_engine_without_tensorrt(
    onnx_path: Path, out_dir: Path, config: EngineConfig, num_attention_layers: int
) -> Result:
    raise MissingExtraError("TensorRT (neither flavor)", "rtx")


def profile_artefacts(dense: str, pruned: str, config: ProfileConfig) -> Result:
    calls.append("profile")
    assert Path(dense).is_file() and Path(pruned).is_file()
    case = {
        "batch": 8,
        "length": 128,
        "dense": {"median_ms": 200.0},
        "pruned": {"median_ms": 110.0},
        "speedup": {"ratio": 1.818, "low": 1.79, "high": 1.84, "confidence": 0.95},
        "stationary": True,
    }
    return Result({"cases": [case]})


def package_triton(sources: OnnxSources, out_dir: Path, config: PackageConfig) -> Result:
    calls.append("package")
    refuse_used_folder(out_dir)
    (out_dir / "repository").mkdir(parents=True)
    (out_dir / "repository" / "model.onnx").write_text(sources.onnx.read_text())
    files = ["repository/model.onnx"]
    return Result({"folder": "repository", "models": ["m"], "files": files})


def write_report(run_dir: Path) -> Path:
    calls.append("report")
    (run_dir / "report.html").write_text("<html>")
    return run_dir / "report.html"


HOMES = {
    "nirvana_deploy.runs.deploy_fit": check_fit,
    "pruning.training.baseline_stage": run_baseline,
    "pruning.gates.prune_stage": run_prune,
    "exporters.export_stage": run_export,
    "exporters.engines.build_engine": build_engine,
    "profiles.comparing.profile_artefacts": profile_artefacts,
    "nirvana_deploy.serving.triton.triton_package": package_triton,
    "nirvana_deploy.report": write_report,
}


@pytest.fixture
def fake_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Put the stand-ins in place, work in an empty folder; return the list of calls."""
    for module, function in HOMES.items():
        stand_in = SimpleNamespace(**{function.__name__: function})
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.setattr(
        sys.modules["nirvana_deploy.runs.deploy_fit"], "check_rows", check_rows, raising=False
    )
    monkeypatch.chdir(tmp_path)
    calls.clear()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("weights")
    return calls
