"""What other tools say of our graphs: Polygraphy's comparator, and ONNX's reference evaluator."""

from pathlib import Path

import numpy as np
import pytest

from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from tests.exporters.compare.onnx_damage import change_weight
from tests.exporters.conftest import Exported

CASE = Case(batch=2, length=9, padding="left", num_steps=2)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_reference_evaluator_computes_what_the_comparison_saw(
    name: str, request: pytest.FixtureRequest
) -> None:
    from onnx.reference import ReferenceEvaluator

    exported: Exported = request.getfixturevalue(name)
    artefact = exported.in_torch()
    tokens = make_tokens(CASE, [artefact], CompareConfig())
    reference = ReferenceEvaluator(str(exported.onnx / "model.onnx"))
    for call in run_case(artefact, CASE, tokens):
        (logits,) = reference.run(["logits"], dict(call.feeds))
        live = ... if call.live is None or logits.ndim == 2 else call.live.astype(bool)
        np.testing.assert_allclose(logits[live], call.outputs["logits"][live], atol=1e-5)


@pytest.mark.parametrize("damaged", [False, True])
def test_polygraphy_comes_to_the_same_verdict(
    bert: Exported, tmp_path: Path, damaged: bool
) -> None:
    pytest.importorskip("polygraphy", reason="polygraphy (extra test) is not installed")
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc

    source = bert.onnx / "model.onnx"
    other = change_weight(
        source, tmp_path / "model.onnx", "layer.1.output.dense.bias", 1.5 if damaged else 1
    )
    artefact = bert.in_onnx()
    case = Case(batch=8, length=128, padding="right", num_steps=0)
    tokens = make_tokens(case, [artefact], CompareConfig())
    (call,) = run_case(artefact, case, tokens)
    runners = [
        OnnxrtRunner(SessionFromOnnx(str(path), providers=["cpu"]), name=name)
        for path, name in ((source, "source"), (other, "candidate"))
    ]
    results = Comparator.run(runners, data_loader=[dict(call.feeds)])
    theirs = Comparator.compare_accuracy(
        results, compare_func=CompareFunc.simple(atol=1e-4, rtol=0, check_error_stat="max")
    )
    ours = compare_artefacts(artefact, open_onnx(other))
    assert bool(theirs) == ours.passed == (not damaged)
    left, right = (iterations[0]["logits"] for _, iterations in results)
    found = next(c for c in ours.cases if c.case.batch == 8 and c.case.padding == "right")
    assert found.difference.max_abs == pytest.approx(float(np.abs(left - right).max()), abs=1e-7)
