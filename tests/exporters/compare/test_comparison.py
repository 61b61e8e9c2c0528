import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.compare.verify_artefacts import keep_failed, verify_artefacts
from pruning.errors import NirvanaError
from tests.exporters.compare.onnx_damage import change_weight
from tests.exporters.conftest import Exported


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_traced_graph_equals_its_model(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    comparison = verify_artefacts(exported.in_torch(), exported.in_onnx())
    assert comparison.passed
    assert comparison.max_abs_difference < 1e-5
    assert comparison.max_kl < 1e-10
    assert comparison.agreement == 1
    assert comparison.divergence is None
    calls = {case.what for case in comparison.cases}
    decoded = {"prompt", "step 1", "step 2", "step 3"}
    assert calls == {"bert": {"outputs"}, "t5": {"encoder", *decoded}}.get(name, decoded)
    assert {case.case.padding for case in comparison.cases} == {"none", "left", "right"}


def test_one_graph_of_a_decoder_equals_two(llama: Exported) -> None:
    split = llama.in_torch("split")
    assert set(split.graphs) == {"decoder_model", "decoder_with_past_model"}
    comparison = compare_artefacts(split, llama.in_onnx())
    assert comparison.passed
    assert comparison.max_abs_difference < 1e-5


def test_each_side_goes_on_with_its_own_cache(llama: Exported, tmp_path: Path) -> None:
    """A damaged cache shows in the steps, not in the prompt, and each step's is the last one's."""
    model = onnx.load(llama.onnx / "model.onnx")
    node = next(n for n in model.graph.node if "present.1.value" in n.output)
    node.output[list(node.output).index("present.1.value")] = "whole"
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == "present.1.value":
                other.input[index] = "whole"
    two = onnx.numpy_helper.from_array(np.float32(1.5), "two")
    model.graph.initializer.append(two)
    model.graph.node.append(onnx.helper.make_node("Mul", ["whole", "two"], ["present.1.value"]))
    onnx.save(model, tmp_path / "model.onnx")
    comparison = compare_artefacts(llama.in_torch(), open_onnx(tmp_path / "model.onnx"))
    assert not comparison.passed
    by_call: dict[str, float] = {}
    for case in comparison.cases:
        (logits,) = (o for o in case.difference.outputs if o.output == "logits")
        by_call[case.what] = max(by_call.get(case.what, 0), logits.max_abs)
    assert {o.output for o in comparison.cases[0].difference.outputs if o.scaled > 1e-4} == {
        "present.1.value"
    }
    assert by_call["prompt"] < 1e-5
    assert 1e-4 < by_call["step 1"] < by_call["step 3"]
    assert comparison.divergence.first == 1


def test_cached_steps_equal_a_prompt_of_all_tokens(llama: Exported) -> None:
    """The cases do what they say: three steps after a prompt see what one long prompt sees."""
    config = CompareConfig()
    case = Case(batch=2, length=6, padding="left", num_steps=3)
    artefact = llama.in_torch()
    tokens = make_tokens(case, [artefact], config)
    observed = run_case(artefact, case, tokens)
    assert [o.what for o in observed] == ["prompt", "step 1", "step 2", "step 3"]
    live = np.concatenate([tokens.live, np.ones((2, 3), np.int64)], axis=1)
    graph = artefact.graphs["model"]
    feeds = dict(observed[0].feeds)
    feeds["input_ids"] = np.concatenate([tokens.ids, tokens.steps], axis=1)
    feeds["attention_mask"] = live
    feeds["position_ids"] = np.maximum(live.cumsum(1) - 1, 0)
    whole = graph.run({spec.name: feeds[spec.name] for spec in graph.inputs})["logits"]
    for step in range(3):
        came = observed[step + 1].outputs["logits"][:, 0]
        np.testing.assert_allclose(came, whole[:, 6 + step], atol=1e-5)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize(
    ("name", "weight"),
    [("bert", "layer.{}.output.dense.bias"), ("llama", "layers.{}.input_layernorm")],
)
def test_the_first_diverging_layer_is_named(
    name: str, weight: str, block: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported: Exported = request.getfixturevalue(name)
    source = exported.onnx / "model.onnx"
    bad = change_weight(source, tmp_path / "model.onnx", weight.format(block), 1.5)
    with pytest.raises(NirvanaError, match=rf"first diverging layer is {block}\. Do not use it"):
        verify_artefacts(exported.in_torch(), open_onnx(bad))


def test_a_difference_in_the_head_is_told_from_one_in_a_layer(
    bert: Exported, tmp_path: Path
) -> None:
    bad = change_weight(bert.onnx / "model.onnx", tmp_path / "bad.onnx", "classifier.bias", 2)
    comparison = compare_artefacts(bert.in_onnx(), open_onnx(bad))
    assert comparison.divergence.first is None
    assert comparison.divergence.where == "no layer differs: it is what comes after the last one"
    assert [block.block for block in comparison.divergence.blocks] == [0, 1]


def test_a_graph_that_does_not_name_its_blocks_says_so(bert: Exported, tmp_path: Path) -> None:
    bad = change_weight(bert.onnx / "model.onnx", tmp_path / "bad.onnx", "classifier.bias", 2)
    model = onnx.load(bad)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = ""
    onnx.save(model, bad)
    with pytest.raises(NirvanaError, match="cannot be named: the graph's nodes do not say"):
        verify_artefacts(bert.in_torch(), open_onnx(bad))


def test_the_message_has_the_number_the_gate_and_the_worst_case(
    bert: Exported, tmp_path: Path
) -> None:
    bad = change_weight(bert.onnx / "model.onnx", tmp_path / "bad.onnx", "classifier.bias", 2)
    message = (
        r"bad\.onnx does not compute what the torch model does: logits differs by \d\.\d\de-0\d, "
        r"at most \d\.\de-0\d was expected \(fp32\).*Worst at batch \d, length \d+, .*padded"
    )
    with pytest.raises(NirvanaError, match=message):
        verify_artefacts(bert.in_torch(), open_onnx(bad))
    accepted = verify_artefacts(
        bert.in_torch(),
        open_onnx(bad),
        CompareConfig(tolerance=1.0, max_kl=1.0, min_agreement=0.0),
    )
    assert accepted.gates.tolerance == 1.0


def test_each_gate_can_fail_alone(bert: Exported, tmp_path: Path) -> None:
    bad = open_onnx(
        change_weight(bert.onnx / "model.onnx", tmp_path / "bad.onnx", "classifier.bias", -30)
    )
    worst = compare_artefacts(bert.in_torch(), bad).worst.difference.scaled
    loose = {"tolerance": 1.1 * worst, "max_kl": 100.0, "min_agreement": 0.0}
    assert compare_artefacts(bert.in_torch(), bad, CompareConfig(**loose)).passed
    for gate, value, message in (
        ("tolerance", 1e-3, "logits differs by"),
        ("max_kl", 1e-9, "the predictions diverge by"),
        ("min_agreement", 1.0, "of the predictions are the same"),
    ):
        config = CompareConfig(**{**loose, gate: value})
        (failure,) = compare_artefacts(bert.in_torch(), bad, config).failures
        assert message in failure


def test_the_record_is_plain_json(bert: Exported) -> None:
    seen: list[tuple[int, int]] = []
    comparison = compare_artefacts(
        bert.in_torch(), bert.in_onnx(), progress=lambda done, of: seen.append((done, of))
    )
    record = json.loads(json.dumps(comparison.to_json()))
    assert record["passed"] is True
    assert record["gates"]["precision"] == "fp32"
    assert record["not_compared"] == []
    assert len(record["cases"]) == seen[-1][1] == len(seen)
    assert {"max_abs_difference", "relative_difference", "kl", "agreement", "padding"} <= set(
        record["cases"][0]
    )


def test_forms_of_different_models_are_refused(bert: Exported, llama: Exported) -> None:
    with pytest.raises(NirvanaError, match=r"not two forms of one model: one gives outputs"):
        compare_artefacts(bert.in_onnx(), llama.in_onnx())


def test_outputs_of_other_shapes_are_refused(bert: Exported) -> None:
    narrow = bert.in_onnx()
    run_bert = narrow.graphs["model"].run

    class Narrow:
        inputs = narrow.graphs["model"].inputs

        def run(self, feeds):
            return {name: value[..., :1] for name, value in run_bert(feeds).items()}

    other = replace(narrow, graphs={"model": Narrow()})
    with pytest.raises(NirvanaError, match=r"gives \w+ of shape \[1, .*not two forms"):
        compare_artefacts(bert.in_torch(), other)


def test_a_decoder_with_past_alone_names_what_is_missing(llama: Exported, tmp_path: Path) -> None:
    alone = tmp_path / "decoder_with_past_model.onnx"
    shutil.copy(llama.onnx / "model.onnx", alone)
    with pytest.raises(NirvanaError, match=r"expected decoder_model\.onnx beside"):
        compare_artefacts(llama.in_onnx(), open_onnx(alone))


def test_rows_too_long_for_the_model_say_what_to_set(bert: Exported) -> None:
    config = CompareConfig(max_length=500)
    unlimited = open_onnx(bert.onnx)
    case = Case(batch=1, length=400, padding="none", num_steps=0)
    tokens = make_tokens(case, [unlimited], config)
    for artefact in (unlimited, bert.in_torch()):
        with pytest.raises(NirvanaError, match=r"length 400.* could not run .*max_length"):
            run_case(artefact, case, tokens)


def test_what_failed_is_kept_aside(tmp_path: Path) -> None:
    for attempt in ("first", "second"):
        written = tmp_path / ".aside"
        written.mkdir()
        (written / "model.onnx").write_text(attempt)
        kept = keep_failed(written, tmp_path / "out")
        assert kept == tmp_path / "out.failed"
        assert (kept / "model.onnx").read_text() == attempt
        assert not written.exists()
    assert not (tmp_path / "out").exists()
    (tmp_path / "model.onnx.part").write_text("x")
    assert keep_failed(tmp_path / "model.onnx.part", tmp_path / "m.onnx").read_text() == "x"
