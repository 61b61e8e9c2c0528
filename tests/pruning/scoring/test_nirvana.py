from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForQuestionAnswering

from pruning.errors import NirvanaError
from pruning.scoring.nirvana import Nirvana, reduce_logits
from pruning.scoring.saliency import Scores, ScoringTask
from tests.pruning.oneshot.tiny_tasks import make_task, task_for
from tests.pruning.scoring.unit_oracle import FAMILIES, mark_unit, some_units
from tests.pruning.tiny_models import TINY


def check_against_autograd(task: ScoringTask, scores: Scores, total: torch.Tensor) -> None:
    """Hold scores against the gradient of F, `total`, in every parameter."""
    weights = dict(task.model.named_parameters())
    slopes = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
    products = {n: (w * s).abs() for (n, w), s in zip(weights.items(), slopes, strict=True)}
    for sub_block, unit in some_units(task.model):
        marks = mark_unit(task.model, sub_block, unit)
        expected = sum((products[name] * mark).sum() for name, mark in marks.items())
        torch.testing.assert_close(scores[sub_block][unit], expected, rtol=1e-4, atol=1e-7)


def split_unevenly(task: ScoringTask) -> ScoringTask:
    """The same sequences in batches of 6, 1 and 5."""
    first, second = task.batches
    ends = [{k: v[i] for k, v in second.items()} for i in (slice(0, 1), slice(1, None))]
    return ScoringTask(task.model, task.sites, [first, *ends])


@pytest.mark.parametrize("name", FAMILIES)
def test_is_the_gradient_of_the_mean_peak_of_the_logits(name: str) -> None:
    task = make_task(name)
    first, second = task.batches
    logits = task.model(**{k: torch.cat((first[k], second[k])) for k in first}).logits
    peaks = logits if logits.dim() == 2 else logits.max(dim=1).values
    check_against_autograd(task, Nirvana().score(split_unevenly(task)), peaks.mean())


def test_start_and_end_of_an_answer_are_two_logits() -> None:
    config = AutoConfig.for_model("bert", **{**TINY["bert"].config, "num_labels": 2})
    task = task_for(AutoModelForQuestionAnswering.from_config(config).eval())
    rows = torch.cat([batch["input_ids"] for batch in task.batches])
    output = task.model(input_ids=rows)
    peaks = (output.start_logits.amax(dim=1) + output.end_logits.amax(dim=1)) / 2
    check_against_autograd(task, Nirvana().score(task), peaks.mean())


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_does_not_look_at_what_labels_say(name: str) -> None:
    task = make_task(name)
    shift = getattr(task.model, "prepare_decoder_input_ids_from_labels", None)
    bare = []
    for batch in task.batches:
        bare.append({k: v for k, v in batch.items() if k != "labels"})
        if shift is not None:
            bare[-1]["decoder_input_ids"] = shift(labels=batch["labels"])
    expected = Nirvana().score(task)
    found = Nirvana().score(ScoringTask(task.model, task.sites, bare))
    assert all(torch.equal(found[s], expected[s]) for s in expected)


def test_reduces_over_positions_then_the_vocabulary() -> None:
    logits = torch.tensor([[[1.0, 5.0], [3.0, -1.0]]])
    assert reduce_logits(logits).tolist() == [4.0]
    assert reduce_logits(logits[0]).tolist() == [3.0, 1.0]


def test_refuses_a_model_without_a_head() -> None:
    config = AutoConfig.for_model("bert", **TINY["bert"].config)
    task = task_for(AutoModel.from_config(config).eval())
    with pytest.raises(NirvanaError, match=r"needs logits, and BertModel gives none\. Load the"):
        Nirvana().score(task)
