"""Options on a stand-in for TensorRT 10 and 11, and on the real TensorRT-RTX, which lacks some."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.engines.engine_manifest import read_engine_manifest
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_models import save_op
from tests.exporters.engines.fake_builder import make_tensorrt

CONFIG = {
    "flavour": "tensorrt",
    "batch": ShapeRange(min=1, opt=2, max=4),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_op(tmp_path / "op.onnx", "Relu", ("batch", 4))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exporters.engines.build_engine.find_gpu", lambda: None)

    def install(trt: ModuleType) -> ModuleType:
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        return trt

    return install


@pytest.mark.parametrize("version", ["10.12.0", "11.1.0"])
def test_every_option_reaches_the_builder(
    install, source: Path, tmp_path: Path, version: str
) -> None:
    trt = install(make_tensorrt(version))
    config = EngineConfig(
        **CONFIG,
        workspace_mib=64,
        optimisation_level=5,
        version_compatible=True,
        hardware_compatible="ampere_plus",
        weight_streaming=True,
        refittable=True,
        timing_cache=str(tmp_path / "timings"),
    )
    result = build_engine(source, tmp_path / "out", config)
    (settings,) = trt.built
    assert trt.network_flags == 1 << 1  # strongly typed
    assert settings.flags == {"VERSION_COMPATIBLE", "WEIGHT_STREAMING", "REFIT"}
    assert settings.pools == {"WORKSPACE": 64 * 2**20}
    assert settings.builder_optimization_level == 5
    assert settings.hardware_compatibility_level == "ampere"
    assert settings.profiles == [{"x0": ([1, 4], [2, 4], [4, 4])}]
    assert (result.flavour, result.version) == ("tensorrt", version)
    assert result.compute_capabilities == ()  # this machine's
    assert result.num_fused_attentions == 1  # of the recorded log
    manifest = read_engine_manifest(tmp_path / "out")
    assert manifest.refittable and manifest.version_compatible and manifest.weight_streaming
    assert manifest.hardware_compatible == "ampere_plus"
    assert manifest.timing_cache == f"tensorrt-{version}-no_gpu.timing"


def test_attentions_of_tensorrt_11_may_fall_back_to_their_parts(
    install, source: Path, tmp_path: Path
) -> None:
    trt = install(make_tensorrt("11.1.0"))
    build_engine(source, tmp_path / "out", EngineConfig(**CONFIG))
    assert trt.attention.decomposable


def test_timings_are_kept_by_flavour_version_and_device(install, source: Path, tmp_path) -> None:
    trt = install(make_tensorrt())
    folder = tmp_path / "timings"
    config = EngineConfig(**CONFIG, timing_cache=str(folder))
    build_engine(source, tmp_path / "a", config)
    build_engine(source, tmp_path / "b", config)
    assert [settings.cache.data for settings in trt.built] == [b"", b"timed;"]
    install(make_tensorrt("10.13.0"))
    build_engine(source, tmp_path / "c", config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "tensorrt-10.12.0-no_gpu.timing": b"timed;timed;",
        "tensorrt-10.13.0-no_gpu.timing": b"timed;",
    }
    (folder / "tensorrt-10.13.0-no_gpu.timing").write_bytes(b"foreign")
    with pytest.raises(
        NirvanaError, match=r"10\.13\.0-no_gpu\.timing is not a timing cache .*Delete"
    ):
        build_engine(source, tmp_path / "d", config)


def test_what_a_flavour_lacks_is_refused_by_name(install, source: Path, tmp_path: Path) -> None:
    options = {
        "version_compatible": True,
        "weight_streaming": True,
        "refittable": True,
        "hardware_compatible": "ampere_plus",
    }
    trt = install(make_tensorrt())
    trt.BuilderFlag = type("Flags", (), {})
    trt.HardwareCompatibilityLevel = type("Levels", (), {})
    for option, value in options.items():
        with pytest.raises(NirvanaError, match=rf"tensorrt 10\.12\.0 has no {option}"):
            build_engine(source, tmp_path / "out", EngineConfig(**CONFIG, **{option: value}))
    assert trt.built == []


@pytest.mark.parametrize(
    ("failure", "settings", "advice"),
    [
        (
            "Error Code 2: OutOfMemory (Requested size was 123 bytes.)",
            {},
            "ran out of memory; the workspace has no limit. Lower batch.max, length.max",
        ),
        (
            "Requested amount of GPU memory (9 bytes) could not be allocated.",
            {"workspace_mib": 512},
            "the workspace has 512 MiB. Lower batch.max.* or set a lower workspace_mib",
        ),
        (
            "insufficient workspace for any tactic",
            {"workspace_mib": 1},
            "Raise workspace_mib, which is 1, or lower batch.max",
        ),
        ("cudaError 35", {}, "This build needs a GPU and its driver"),
    ],
)
def test_a_failed_build_says_what_to_do(
    install, source: Path, tmp_path: Path, failure: str, settings: dict[str, int], advice: str
) -> None:
    install(make_tensorrt(plan=None)).failure = failure
    with pytest.raises(NirvanaError, match=f"could not build .*{advice}"):
        build_engine(source, tmp_path / "out", EngineConfig(**CONFIG, **settings))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["build.log"]


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timing_cache": "timings"}, "has no timing_cache.*no-ops"),
        ({"hardware_compatible": "ampere_plus"}, "has no hardware_compatible.*unsupported"),
        ({"version_compatible": True}, "could not build.*version_compatible needs the lean"),
    ],
)
def test_tensorrt_rtx_says_what_it_lacks(
    source: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")
    config = EngineConfig(flavour="tensorrt_rtx", batch=CONFIG["batch"], **settings)
    with pytest.raises(NirvanaError, match=message):
        build_engine(source, tmp_path / "out", config)
