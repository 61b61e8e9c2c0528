"""What is read from recorded tables; the head of each file in `data` says where it is from.

Of TensorRT 11 no public table was found; TensorRT-RTX 1.7 has its API and prints what it prints.
"""

from pathlib import Path

import pytest

from exporters.engines.engine_audit import EngineLayer, read_layer_table

DATA = Path(__file__).parent / "data"


def read(name: str) -> tuple[EngineLayer, ...]:
    return read_layer_table((DATA / name).read_text(encoding="utf-8"))


def test_tensorrt_10_log() -> None:
    rows = read("tensorrt_10_10_layers.log")
    assert [row.kind for row in rows] == ["gemm", "gemm", "kgen", "kgen", "fusion"]
    assert [row.precision for row in rows] == ["fp16"] * 5
    assert rows[2].name == "_gemm_mha_v2_myl0_17"
    assert rows[2].onnx_layers == ("/encoder/layers.2/mha/attn/MatMul",)
    assert len(rows[4].onnx_layers) == 7
    assert {row.profile for row in rows} == {0}


def test_tensorrt_10_log_with_names_alone_has_no_table() -> None:
    assert read("tensorrt_10_10_names_only.log") == ()
    assert read_layer_table('{"Layers": ["a + b", "c"]}') == ()


def test_tensorrt_10_inspector() -> None:
    (row,) = read("tensorrt_10_1_layers.json")
    assert (row.kind, row.precision, row.onnx_layers) == ("Reformat", "int8", ())


def test_tensorrt_rtx_log_of_two_profiles() -> None:
    rows = read("tensorrt_rtx_1_7_1_two_profiles.log")
    assert [row.profile for row in rows] == [0] * 6 + [1] * 6
    assert [row.is_kernel for row in rows[:3]] == [True, False, True]
    assert [row.name[:12] for row in rows if "mha" in row.name] == [
        *["_gemm_mha_v2"] * 3,
        "_gemv_mha_v1",
        *["_gemm_mha_v2"] * 2,
    ]
    assert rows[3].onnx_layers == rows[9].onnx_layers == ("node_Softmax_220_Attention",)


@pytest.mark.parametrize(
    ("datatype", "precision"),
    [
        ("Datatype: Half, Format: (Linear) Row major linear format", "fp16"),
        ("Datatype: BFloat16, Format: x", "bf16"),
        ("Datatype: Float, Format: x", "fp32"),
        ("Format/Datatype: Row major linear FP16 format", "fp16"),
        ("Datatype: FP8, Format: x", "fp8"),
        ("Datatype: Int8, Format: x", "int8"),
        ("Datatype: Int64, Format: x", "other"),
    ],
)
def test_types_in_either_words(datatype: str, precision: str) -> None:
    row = f"Name: a, LayerType: gemm, Inputs: [], Outputs: [ {{ Name: Float8, {datatype} }}]"
    assert [found.precision for found in read_layer_table(row)] == [precision]


@pytest.mark.parametrize("text", ["", "{", '{"Layers": 3}', "Engine generation completed"])
def test_no_table(text: str) -> None:
    assert read_layer_table(text) == ()
