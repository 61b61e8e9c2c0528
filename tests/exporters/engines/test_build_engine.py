"""Real builds, on a machine with no GPU. What the engines compute cannot be run here."""

import json
import signal
from pathlib import Path

import onnx
import pytest

from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.engines.engine_manifest import EngineResult, check_engine
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_models import INPUTS, export_bert, save_op

pytestmark = pytest.mark.tensorrt

CONFIG = {
    "flavour": "tensorrt_rtx",
    "batch": ShapeRange(min=1, opt=4, max=8),
    "length": ShapeRange(min=2, opt=16, max=64),
}


@pytest.fixture(scope="module", autouse=True)
def trt() -> object:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def traced(folder: Path) -> Path:
    """Return a TorchScript export with four heads in one layer and one in the other."""
    return export_bert(folder / "traced.onnx", (4, 1))


@pytest.fixture(scope="module")
def dynamo_onnx(folder: Path) -> Path:
    return export_bert(folder / "dynamo.onnx", (4, 1), dynamo=True)


@pytest.fixture(scope="module")
def built(folder: Path, dynamo_onnx: Path) -> EngineResult:
    return build_engine(dynamo_onnx, folder / "built", EngineConfig(**CONFIG), 2)


def test_every_attention_is_fused_even_with_one_head(built: EngineResult) -> None:
    # Dynamo's graph of eager attention is the form in which a single head fuses too.
    assert (built.num_fused_attentions, built.num_attention_layers) == (2, 2)
    assert built.precision_found["fp16"] > 5 * built.precision_found["fp32"] > 0
    assert built.warnings == ()


def test_result_says_what_was_built(built: EngineResult, folder: Path, trt: object) -> None:
    document = json.loads(json.dumps(built.to_json()))
    assert document["status"] == "built"
    assert (document["flavour"], document["version"]) == ("tensorrt_rtx", trt.__version__)
    assert (document["precision_asked"], document["compute_capabilities"]) == ("fp16", ["sm89"])
    shape = {"min": [1, 2], "opt": [4, 16], "max": [8, 64]}
    assert document["optimisation_profile"] == dict.fromkeys(INPUTS, shape)
    assert document["build_seconds"] > 0
    engine = folder / "built" / document["engine_path"]
    assert engine.stat().st_size == document["engine_size_bytes"] > 10_000
    assert "_gemm_mha_v2" in (folder / "built" / document["log_path"]).read_text(encoding="utf-8")
    names = {path.name for path in (folder / "built").iterdir()}
    assert names == {"model.engine", "engine.json", "build.log"}


def test_the_folder_vouches_for_engine_graph_and_weights(
    built: EngineResult, folder: Path, dynamo_onnx: Path
) -> None:
    manifest = check_engine(folder / "built", dynamo_onnx)
    assert manifest.result == built
    assert set(manifest.versions) == {"tensorrt_rtx", "onnx", "onnx-ir"}


def test_an_attention_that_does_not_fuse_is_said(traced: Path, tmp_path: Path) -> None:
    config = EngineConfig(**CONFIG, compute_capabilities=("8.6", "12.0"), workspace_mib=256)
    result = build_engine(traced, tmp_path, config, 2)
    assert result.num_fused_attentions == 1
    assert result.compute_capabilities == ("sm86", "sm120")
    assert any("1 of 2 attentions are not fused" in warning for warning in result.warnings)


def test_fp32_is_fp32_and_unfused(traced: Path, tmp_path: Path) -> None:
    result = build_engine(traced, tmp_path, EngineConfig(**CONFIG, precision="fp32"), 2)
    assert (result.num_fused_attentions, result.precision_found.get("fp16")) == (0, None)
    assert any("fp32 attention is never fused" in warning for warning in result.warnings)


def test_attention_op_without_a_kernel_falls_back_to_its_parts(tmp_path: Path) -> None:
    source = save_op(tmp_path / "op.onnx", "Attention", ("batch", 2, "sequence", 8), num_inputs=3)
    result = build_engine(source, tmp_path / "out", EngineConfig(**CONFIG))
    assert result.num_fused_attentions == 0
    assert any("1 of 1 attentions are not fused" in warning for warning in result.warnings)


def test_weights_in_a_file_of_their_own_are_read_and_hashed(traced: Path, tmp_path: Path) -> None:
    source = tmp_path / "split.onnx"
    onnx.save(onnx.load(traced), source, save_as_external_data=True, location="split.onnx.data")
    build_engine(source, tmp_path / "out", EngineConfig(**CONFIG), 2)
    data = tmp_path / "split.onnx.data"
    assert set(check_engine(tmp_path / "out", source).onnx_data_sha256) == {data.name}
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(NirvanaError, match=r"split\.onnx\.data has SHA-256"):
        check_engine(tmp_path / "out", source)


def test_an_operator_that_the_parser_lacks_is_named(tmp_path: Path) -> None:
    source = save_op(tmp_path / "op.onnx", "Det", ("batch", 4, 4))
    with pytest.raises(NirvanaError, match=r"ONNX parser: .*the_node.*Det.*without an engine"):
        build_engine(source, tmp_path / "out", EngineConfig(**CONFIG), 0)


def test_a_graph_for_onnxruntime_says_which_form_to_export(tmp_path: Path) -> None:
    source = save_op(tmp_path / "op.onnx", "QuickGelu", ("batch", 4), domain="com.microsoft")
    match = r"node the_node \(QuickGelu\).*of ONNX Runtime \(QuickGelu\): export .* form tensorrt"
    with pytest.raises(NirvanaError, match=match):
        build_engine(source, tmp_path / "out", EngineConfig(**CONFIG, precision="fp32"), 0)


def test_a_failed_build_gives_the_reason_and_keeps_the_log(traced: Path, tmp_path: Path) -> None:
    config = EngineConfig(**CONFIG, workspace_mib=1, precision="fp32")
    with pytest.raises(
        NirvanaError, match=r"could not build .*workspace limit.*Raise workspace_mib"
    ):
        build_engine(traced, tmp_path, config, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["build.log"]
    assert "workspace limit" in (tmp_path / "build.log").read_text(encoding="utf-8")


def test_a_failed_build_leaves_the_older_engine(traced: Path, folder: Path, built: object) -> None:
    config = EngineConfig(**CONFIG, workspace_mib=1, precision="fp32")
    with pytest.raises(NirvanaError, match="could not build"):
        build_engine(traced, folder / "built", config, 2)
    check_engine(folder / "built")


def test_ctrl_c_ends_the_build(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: object, *args: object, **kwargs: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # The bar's first update stands for the moment in which the user presses the keys.
    monkeypatch.setattr("rich.progress.Progress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_engine(traced, tmp_path, EngineConfig(**CONFIG), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["build.log"]
    # Stopped on the way: a build that ran to its end prints the table of layers.
    assert "LayerType" not in (tmp_path / "build.log").read_text(encoding="utf-8")


def test_a_capability_that_cannot_be_built_names_those_that_can(
    traced: Path, tmp_path: Path
) -> None:
    config = EngineConfig(**CONFIG, compute_capabilities=("9.0", "8.9"))
    with pytest.raises(
        NirvanaError, match=r"cannot build for compute capability 9\.0\. .*8\.9, 12"
    ):
        build_engine(traced, tmp_path, config, 2)
    with pytest.raises(NirvanaError, match="needs at least one of compute_capabilities 7"):
        build_engine(traced, tmp_path, EngineConfig(**CONFIG, compute_capabilities=()), 2)


def test_a_file_in_the_way_is_kept(traced: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(NirvanaError, match="is a file; an engine needs a folder"):
        build_engine(traced, tmp_path / "out", EngineConfig(**CONFIG), 2)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
