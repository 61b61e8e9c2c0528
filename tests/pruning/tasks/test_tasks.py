"""Which task a model and a data set are for, and a whole pruning run of each."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, BertForPreTraining, BertModel

from pruning.checkpoints.checkpoint import load_pruned
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from pruning.gates.prune_config import DistillationConfig, PruneConfig, ScheduleConfig
from pruning.gates.prune_stage import run_prune
from pruning.tasks.data_config import DataConfig
from pruning.tasks.tasks import TASKS, choose_task, find_task, recognise_task
from pruning.training.baseline_stage import run_baseline
from pruning.training.training_configs import BaselineConfig
from tests.pruning.tiny_models import TINY, make_tiny, uneven_plan
from tests.pruning.training.tiny_tasks import make_headed, write_headed, write_rows

BASELINE = BaselineConfig(num_epochs=2, learning_rate=2e-3, batch_size=8, bf16=False)
PRUNE = PruneConfig(
    budget=0.5,
    num_epochs=3,
    batch_size=8,
    learning_rate=3e-3,
    gate_learning_rate=0.3,
    warm_start_rows=8,
    sequence_length=16,
    schedule=ScheduleConfig(num_stages=2, prune_fraction=0.6),
    bf16=False,
)


@pytest.mark.parametrize("name", [n for n, tiny in TINY.items() if tiny.model_type != "vit"])
def test_the_head_says_the_task(name: str) -> None:
    model = make_tiny(name)
    assert find_task(model).auto_class is TINY[name].task
    assert find_task(repack(model, uneven_plan(model))) is find_task(model)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_found_by_its_head(task: str) -> None:
    assert find_task(make_headed(task)) is TASKS[task]


def test_a_model_without_a_head_has_no_task() -> None:
    config = make_tiny("bert").config
    assert recognise_task(BertModel(config)) is None
    with pytest.raises(NirvanaError, match=r"Expected a model with a head for classif.*Bert"):
        find_task(BertForPreTraining(config))


def test_a_task_is_asked_for_or_read_from_the_data_or_the_model() -> None:
    own = TASKS["causal-lm"]
    assert choose_task(DataConfig(task="seq2seq"), ["section"], own).name == "seq2seq"
    assert choose_task(DataConfig(), ["description", "section"], own).name == "classification"
    assert choose_task(DataConfig(), ["description"], own) is own
    assert choose_task(DataConfig(), ["description"], None).name == "classification"


# Each task once; Marian has weights that are not saved.
@pytest.mark.parametrize(
    ("task", "name"), [*((task, None) for task in TASKS), ("seq2seq", "marian")]
)
def test_every_task_is_pruned_to_its_budget(task: str, name: str | None, tmp_path: Path) -> None:
    source = write_headed(tmp_path / "source", task, name)
    data = write_rows(tmp_path / "data", task)
    baseline = run_baseline(str(source), data, BASELINE, tmp_path / "baseline")
    checkpoint = tmp_path / "baseline" / "checkpoint"
    result = run_prune(checkpoint, data, PRUNE, tmp_path / "out")
    assert result["task"] == baseline["task"] == task
    left = 0.5 - result["budget"]["kept_fraction"]
    assert 0 <= left * result["budget"]["dense_cost"] < result["budget"]["unit_cost"]
    assert [proof["num_rows"] for proof in result["proofs"]] == [min(8, result_rows(baseline))] * 2
    assert all(proof["max_abs_difference"] < 1e-5 for proof in result["proofs"])
    assert result["metric"] in result["dense"] and result["metric"] in result["pruned"]
    assert result["dense"]["loss"] == pytest.approx(baseline["loss"], rel=1e-5)
    assert len(result["validations"]) == 2
    measured = TASKS[task].score is not None
    assert all((result["metric"] in v) == measured for v in result["validations"])
    assert find_task(load_pruned(tmp_path / "out" / "checkpoint")) is TASKS[task]


def result_rows(baseline: dict) -> int:
    rows: int = baseline["num_validation_rows"]
    return rows


def test_validation_between_the_stages_is_that_of_the_end(tmp_path: Path) -> None:
    """The Trainer gathers spans its own way; both ways must say the same."""
    source = write_headed(tmp_path / "source", "question-answering")
    data = write_rows(tmp_path / "data", "question-answering")
    still = replace(
        PRUNE,
        budget=1.0,
        learning_rate=1e-12,
        warm_start_rows=0,
        distillation=DistillationConfig(weight=0.0),
    )
    result = run_prune(source, data, still, tmp_path / "out")
    assert result["validations"][-1]["f1"] == pytest.approx(result["dense"]["f1"])
    assert result["validations"][-1]["loss"] == pytest.approx(result["dense"]["loss"], rel=1e-4)


def test_what_the_model_is_for_decides_where_the_data_does_not(tmp_path: Path) -> None:
    source = write_headed(tmp_path / "source", "causal-lm")
    data = replace(write_rows(tmp_path / "data", "causal-lm"), task=None)
    result = run_baseline(str(source), data, BASELINE, tmp_path / "out")
    assert (result["task"], result["metric"]) == ("causal-lm", "perplexity")


def test_a_head_of_another_size_gives_way_to_the_task_s(tmp_path: Path) -> None:
    source = write_headed(tmp_path / "source", "classification")
    data = write_rows(tmp_path / "data", "question-answering")
    said: list[str] = []
    run_baseline(str(source), data, BASELINE, tmp_path / "out", said.append)
    assert said == ["drawn at random, to be trained: qa_outputs.bias, qa_outputs.weight"]
    config = AutoConfig.from_pretrained(tmp_path / "out" / "checkpoint")
    assert (config.num_labels, config.architectures) == (2, ["BertForQuestionAnswering"])


@pytest.mark.parametrize(
    ("head", "name", "task", "message"),
    [
        ("masked-lm", "bert", "seq2seq", "no head for seq2seq on bert; it has those for classif"),
        ("masked-lm", "bert", "causal-lm", "this is a BertForMaskedLM, whose head is for masked"),
        ("classification", "bert", "masked-lm", "one made new would know no language"),
        ("seq2seq", "t5", "masked-lm", "no head for masked-lm on t5"),
    ],
)
def test_a_model_of_another_task_is_refused(head, name, task, message, tmp_path) -> None:
    source = write_headed(tmp_path / "source", head, name)
    data = write_rows(tmp_path / "data", task)
    with pytest.raises(NirvanaError, match=message):
        run_baseline(str(source), data, BASELINE, tmp_path / "out")


def test_a_body_without_a_head_gets_that_of_its_type_only(tmp_path: Path) -> None:
    source = write_headed(tmp_path / "source", "masked-lm")
    make_headed("masked-lm").base_model.save_pretrained(source)
    data = write_rows(tmp_path / "data", "causal-lm")
    with pytest.raises(NirvanaError, match="with a head for causal-lm, this is a BertModel, which"):
        run_baseline(str(source), data, BASELINE, tmp_path / "out")
    data = replace(data, task="masked-lm")
    assert run_baseline(str(source), data, BASELINE, tmp_path / "out")["task"] == "masked-lm"


def test_a_model_that_is_not_fine_tuned_for_the_task_is_not_pruned(tmp_path: Path) -> None:
    source = write_headed(tmp_path / "source", "masked-lm")
    data = write_rows(tmp_path / "data", "classification")
    with pytest.raises(NirvanaError, match="fine-tuned for classification, this is a BertForMask"):
        run_prune(source, data, PRUNE, tmp_path / "out")


def test_a_model_of_other_classes_is_not_pruned(tmp_path: Path) -> None:
    numbered = {"num_labels": 2, "id2label": {0: "a", 1: "b"}}
    source = write_headed(tmp_path / "source", "classification", **numbered)
    data = write_rows(tmp_path / "data", "classification")
    with pytest.raises(NirvanaError, match="which the model does not have: it tells apart a, b"):
        run_prune(source, data, PRUNE, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_labels": 1}, "num_labels 1"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_a_head_that_chooses_no_class_is_not_pruned(
    changes: dict, reason: str, tmp_path: Path
) -> None:
    names = {"num_labels": 3, "id2label": dict(enumerate(("games", "mail", "math")))}
    if "num_labels" in changes:
        names = {}
    source = write_headed(tmp_path / "source", "classification", **{**names, **changes})
    data = write_rows(tmp_path / "data", "classification")
    with pytest.raises(NirvanaError, match=f"{reason}|which the model does not have|cannot be mat"):
        run_prune(source, data, PRUNE, tmp_path / "out")
