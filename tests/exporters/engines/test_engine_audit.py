from pathlib import Path

import pytest

from exporters.engines.engine_audit import EngineAudit, audit_build_log, list_warnings

LOG = Path(__file__).parent / "data" / "tensorrt_rtx_1_7_1_layers.log"


def test_a_real_log_is_counted() -> None:
    audit = audit_build_log(LOG.read_text(encoding="utf-8"))
    assert audit == EngineAudit(
        num_layers=9, num_fused_attentions=2, precision_found={"fp16": 4, "fp32": 3, "other": 2}
    )


def test_only_the_kernel_name_makes_a_fused_attention() -> None:
    # A module called `mha`, and a tactic or metadata that names the kernel, are not the kernel.
    row = (
        "Name: /mha_gemm_mha_v2/MatMul_myl0_2, LayerType: gemm, Inputs: [], Constants: [], "
        "Outputs: [ { Name: y, Dimensions: [4], Datatype: Half, Format: (Linear) }], "
        "TacticName: _gemm_mha_v2_0x1, StreamId: 0, Metadata: [ONNX Layer: _gemm_mha_v2]"
    )
    audit = audit_build_log(f"Layers:\n{row}\n")
    assert audit is not None
    assert (audit.num_layers, audit.num_fused_attentions) == (1, 0)


def test_inputs_and_constants_do_not_set_the_precision() -> None:
    row = (
        "Name: a, LayerType: gemm, Inputs: [ { Name: x, Datatype: Float }], "
        "Constants: [ { Name: w, Datatype: Float }], Outputs: [ { Name: y, Datatype: {} }]"
    )
    rows = [row.replace("{}", datatype) for datatype in ("Half", "BFloat16", "Float", "Int64")]
    audit = audit_build_log("\n".join(rows))
    assert audit is not None
    assert audit.precision_found == {"bf16": 1, "fp16": 1, "fp32": 1, "other": 1}


def test_a_log_without_table_is_unknown_not_zero() -> None:
    assert audit_build_log("Engine generation completed in 0.3 seconds.\n") is None
    (warning,) = list_warnings(None, precision="fp16", num_attention_layers=2)
    assert "not known" in warning


def make_audit(num_fused: int, **found: int) -> EngineAudit:
    return EngineAudit(num_layers=9, num_fused_attentions=num_fused, precision_found=found)


@pytest.mark.parametrize(
    ("precision", "audit", "expected"),
    [
        ("fp16", make_audit(4, fp16=9), []),
        ("fp16", make_audit(3, fp16=9), ["1 of 4 attentions are not fused"]),
        ("fp16", make_audit(5, fp16=9), ["shows 5 fused attentions, the model has 4"]),
        ("fp32", make_audit(0, fp32=9), ["fp32 attention is never fused"]),
        ("fp16", make_audit(0, fp32=9), ["4 of 4 attentions", "No layer writes fp16"]),
    ],
)
def test_what_was_not_done_is_said(precision: str, audit: EngineAudit, expected: list[str]) -> None:
    warnings = list_warnings(audit, precision=precision, num_attention_layers=4)
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning


FUSED = "Name: _gemm_mha_v2_myl{0}_1, LayerType: kgen, Inputs: [], Outputs: [], Metadata: {1}"
OTHER = "Name: a [profile {0}]_myl{1}_2, LayerType: gemm, Inputs: [], Outputs: [], Metadata: {2}"


def test_an_attention_that_is_not_fused_is_named_with_its_profile() -> None:
    log = "\n".join(
        [
            FUSED.format(1, "[ONNX Layer: first][ONNX Layer: x]"),
            FUSED.format(1, "[ONNX Layer: second]"),
            FUSED.format(3, "[ONNX Layer: second]"),
            OTHER.format(1, 3, "[ONNX Layer: first]"),
        ]
    )
    attentions = ("first", "second")
    audit = audit_build_log(log, attentions=attentions, profiles=("prefill", "decode"))
    assert audit is not None
    assert audit.num_fused_attentions == 1
    assert audit.unfused_attentions == ("first (profile decode)",)
    (warning, _) = list_warnings(audit, precision="fp16", num_attention_layers=2)
    assert warning.startswith("1 of 2 attentions are not fused (first (profile decode)): they run")


def test_where_a_kernel_does_not_tell_no_name_is_guessed() -> None:
    audit = audit_build_log(FUSED.format(0, "[ONNX Layer: x]"), attentions=("first", "second"))
    assert audit is not None
    assert (audit.num_fused_attentions, audit.unfused_attentions) == (1, ())


def test_kernels_are_counted_by_block() -> None:
    rows = [
        OTHER.format(0, 0, "[ONNX Layer: a1][ONNX Layer: a2][ONNX Layer: b1]"),
        OTHER.format(0, 0, "[ONNX Layer: b1]"),
        OTHER.format(0, 0, "[ONNX Layer: head]"),
        OTHER.format(1, 1, "[ONNX Layer: b1]"),
        OTHER.format(0, 0, "[ONNX Layer: a1]").replace("gemm", "shape_call"),
    ]
    blocks = {"a1": "layer.0", "a2": "layer.0", "b1": "layer.1"}
    audit = audit_build_log("\n".join(rows), blocks=blocks, profiles=("prefill", "decode"))
    assert audit is not None
    assert audit.kernels_by_block == {"layer.0": 1, "layer.1": 1, "outside": 1}
