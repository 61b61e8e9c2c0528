"""What a Triton package may be made of. No server runs here."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from exporters.engines.engine_manifest import EngineManifest, EngineResult, read_engine_manifest
from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.package_manifest import PackageResult
from nirvana_deploy.serving.triton import triton_engine
from nirvana_deploy.serving.triton.triton_package import (
    check_triton_repository,
    package_triton,
)
from nirvana_deploy.serving.triton.triton_schema import read_config_file
from nirvana_deploy.serving.triton.tritonserver import find_tritonserver
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import (
    LABELS,
    make_classifier,
    save_checkpoint,
    save_classifier,
    save_engine,
)

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")
pytestmark = pytest.mark.triton
CONFIG = PackageConfig(model_name="tiny")


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "source" / "model.onnx")


def package(tmp_path: Path, config: PackageConfig = CONFIG, **sources: Any) -> PackageResult:
    return package_triton(OnnxSources(**sources), tmp_path / "package", config)


def read(tmp_path: Path, model: str) -> Any:
    return read_config_file(tmp_path / "package" / "model_repository" / model / "config.pbtxt")


def test_the_engines_profile_is_chosen_and_limits_the_batch(
    onnx_path: Path, tmp_path: Path
) -> None:
    engine = save_engine(tmp_path / "engine", onnx_path)
    package(tmp_path, onnx=onnx_path, engine=engine)
    message = read(tmp_path, "tiny")
    assert message.backend == "tensorrt"
    assert list(message.instance_group[0].profile) == ["0"]
    # The warm-up is of the length that the engine was built to be best at.
    assert list(message.model_warmup[0].inputs["input_ids"].dims) == [24]
    served = tmp_path / "package/model_repository/tiny/1/model.plan"
    assert served.read_bytes() == b"no engine"

    served.write_bytes(b"another")
    with pytest.raises(NirvanaError, match=r"model\.plan is not the engine that engine\.json"):
        check_triton_repository(tmp_path / "package" / "model_repository")


@pytest.mark.parametrize(
    ("flavour", "most", "message"),
    [
        ("tensorrt_rtx", 32, "an engine of tensorrt_rtx; Triton's .* tensorrt alone"),
        ("tensorrt", 16, "max_batch_size is 32, .* end at batch 16 of input_ids"),
    ],
)
def test_an_engine_that_triton_cannot_serve_so_is_refused(
    onnx_path: Path, tmp_path: Path, flavour: str, most: int, message: str
) -> None:
    engine = save_engine(tmp_path / "engine", onnx_path, flavour, most)
    with pytest.raises(NirvanaError, match=message):
        package(tmp_path, onnx=onnx_path, engine=engine)


PROFILES = (((1, 1), 200), ((2, 8), 24), ((4, 32), 16))


@pytest.fixture
def manifest(onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineManifest:
    """An engine's with three profiles: batches, and the length that each is best at."""
    shapes = [
        {"min": [low, 1], "opt": [low, length], "max": [high, 256]}
        for (low, high), length in PROFILES
    ]
    profiles = tuple(dict.fromkeys(("input_ids", "attention_mask"), each) for each in shapes)
    monkeypatch.setattr(EngineResult, "optimisation_profiles", profiles)
    return read_engine_manifest(save_engine(tmp_path / "engine", onnx_path))


def test_all_profiles_or_those_that_are_chosen_are_served(
    manifest: EngineManifest, onnx_path: Path, tmp_path: Path
) -> None:
    package(tmp_path, onnx=onnx_path, engine=tmp_path / "engine")
    assert list(read(tmp_path, "tiny").instance_group[0].profile) == ["0", "1", "2"]
    assert triton_engine.find_best_length(manifest, 1) == 24
    signature = read_signature(onnx_path)
    some = PackageConfig(profiles=(0, 1), max_batch_size=8, preferred_batch_sizes=())
    assert triton_engine.choose_profiles(manifest, signature, some) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profiles": (0, 3)}, "no optimization profile 3; it has 0, 1, 2"),
        ({"profiles": (0, 1)}, "max_batch_size is 32, .* end at batch 8 of input_ids"),
        ({"profiles": (0, 2)}, "max_batch_size is 32, .* end at batch 1 of input_ids"),
        ({"profiles": (1, 2)}, "takes batches of 2 or more of input_ids"),
    ],
)
def test_profiles_that_leave_a_batch_out_are_refused(
    manifest: EngineManifest, onnx_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(NirvanaError, match=message):
        triton_engine.choose_profiles(
            manifest, read_signature(onnx_path), PackageConfig(**settings)
        )


def test_settings_that_cannot_be_are_refused(onnx_path: Path, tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match="profiles must be different numbers from 0, got 1, 1"):
        PackageConfig(profiles=(1, 1))
    with pytest.raises(NirvanaError, match="target l4 is what the manifests ask for: set kuber"):
        PackageConfig(target="l4")
    with pytest.raises(NirvanaError, match="profiles are those of an engine: give --engine"):
        package(tmp_path, PackageConfig(profiles=(0,)), onnx=onnx_path)
    engine = save_engine(tmp_path / "engine", onnx_path)
    with pytest.raises(NirvanaError, match="serves ONNX, not engines"):
        package(tmp_path, PackageConfig(ray=True), onnx=onnx_path, engine=engine)


def test_an_engine_of_another_graph_is_refused(onnx_path: Path, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "engine", save_classifier(tmp_path / "other.onnx", seed=9))
    with pytest.raises(NirvanaError, match="built from another graph"):
        package(tmp_path, onnx=onnx_path, engine=engine)


def test_versions_must_take_and_give_the_same(onnx_path: Path, tmp_path: Path) -> None:
    dense = make_classifier()
    dense.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ("batch", 3)))
    onnx.save(dense, tmp_path / "dense.onnx")
    with pytest.raises(NirvanaError, match=r"not two forms .* sum is TYPE_FP32 \[3\] in the first"):
        package(tmp_path, onnx=onnx_path, dense=tmp_path / "dense.onnx")
    assert not (tmp_path / "package").exists()
    with pytest.raises(NirvanaError, match="give --engine or --dense"):
        OnnxSources(onnx=onnx_path, dense=onnx_path, engine=tmp_path)


def test_a_model_that_takes_text_is_four_models(onnx_path: Path, tmp_path: Path) -> None:
    result = package(tmp_path, onnx=onnx_path, checkpoint=save_checkpoint(tmp_path / "checkpoint"))
    assert result.models == ("tiny", "tiny_label", "tiny_text", "tiny_tokenizer")
    parameters = read(tmp_path, "tiny_tokenizer").parameters
    # 40 positions, in steps of 16 tokens.
    assert parameters["max_length"].string_value == "32"
    assert parameters["pad_id"].string_value == "0"
    steps = read(tmp_path, "tiny_text").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["tiny_tokenizer", "tiny", "tiny_label"]
    labels = tmp_path / "package/model_repository/tiny_label/1/labels.json"
    assert json.loads(labels.read_text()) == list(LABELS)
    assert "/v2/models/tiny_text/infer" in (tmp_path / "package" / "README.md").read_text()


def test_a_missing_tokenizer_pad_token_or_label_is_named(onnx_path: Path, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "yes", "1": "no"}}))
    with pytest.raises(NirvanaError, match="has 3 classes, and the checkpoint names 2"):
        package(tmp_path / "a", onnx=onnx_path, checkpoint=folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(NirvanaError, match=r"names no pad token .*found none"):
        package(tmp_path / "b", onnx=onnx_path, checkpoint=folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"tokenizer_config\.json cannot be read"):
        package(tmp_path / "c", onnx=onnx_path, checkpoint=folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NirvanaError, match=r"tokenizer\.json is missing: text needs a tokenizer"):
        package(tmp_path / "d", onnx=onnx_path, checkpoint=folder)


def test_only_a_classifier_takes_text(tmp_path: Path) -> None:
    model = make_classifier()
    model.graph.output[0].name = "sum"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match=r"needs a classifier, .* this graph gives sum \[3\]"):
        package(
            tmp_path,
            onnx=tmp_path / "model.onnx",
            checkpoint=save_checkpoint(tmp_path / "checkpoint"),
        )


def test_a_missing_server_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIRVANA_TRITON", raising=False)
    with pytest.raises(NirvanaError, match=r"No tritonserver was named.*nvidia-pytriton"):
        find_tritonserver()
    with pytest.raises(NirvanaError, match=r"is not a virtual environment: expected .*bin/python"):
        find_tritonserver(tmp_path)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "python"
    found = {"version": "3.11", "libdir": "/lib", "packages": ["numpy"], "site": str(tmp_path)}
    script.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    script.chmod(0o755)
    with pytest.raises(NirvanaError, match="lacks nvidia-pytriton, onnxruntime, tokenizers"):
        find_tritonserver(tmp_path)
    script.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(NirvanaError, match="does not run: broken"):
        find_tritonserver(tmp_path)
