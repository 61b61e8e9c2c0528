"""Folders of engines that hold any bytes, with the manifest of a build."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from exporters.engines.engine_manifest import EngineManifest, EngineResult
from exporters.engines.local_gpu import LocalGpu

L4 = LocalGpu(name="NVIDIA L4", compute_capability="8.9", driver="580.65.06", driver_cuda="13.0")


def write_engine(
    folder: Path, *, engine: bytes = b"plan", graph: bytes = b"graph", **changes: Any
) -> EngineManifest:
    """Write an engine into `folder`, and its manifest; `changes` are fields of either record."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.engine").write_bytes(engine)
    (folder / "build.log").write_text("log", encoding="utf-8")
    result = EngineResult(
        flavour="tensorrt_rtx",
        version="1.7.1.116",
        precision_asked="fp32",
        precision_found={"fp32": 3},
        compute_capabilities=("sm89",),
        num_attention_layers=2,
        num_fused_attentions=1,
        engine_path="model.engine",
        engine_size_bytes=len(engine),
        build_seconds=1.5,
        onnx_sha256=hashlib.sha256(graph).hexdigest(),
        optimisation_profile={"x": {"min": [1], "opt": [2], "max": [3]}},
        warnings=("one is not fused",),
    )
    of_result = {field.name for field in dataclasses.fields(EngineResult)}
    mine = {name: value for name, value in changes.items() if name in of_result}
    rest = {name: value for name, value in changes.items() if name not in of_result}
    manifest = EngineManifest(
        result=dataclasses.replace(result, **mine),
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        onnx_name="model.onnx",
        onnx_data_sha256={},
        versions={"onnx": "1.23"},
    )
    manifest = dataclasses.replace(manifest, **rest)
    manifest.write(folder)
    return manifest
