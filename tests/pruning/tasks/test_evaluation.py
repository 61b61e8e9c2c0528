import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pruning.errors import NirvanaError
from pruning.tasks.collation import collate
from pruning.tasks.evaluation import evaluate, evaluate_text
from pruning.tasks.metrics import score_rouge_l
from pruning.tasks.tasks import TASKS
from pruning.tasks.text_data import load_text
from tests.pruning.training.tiny_tasks import MODELS, make_headed, make_tokenizer, write_rows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def prepare(task: str, folder: Any, tokenizer: Any, **changes: Any) -> tuple[Any, Any]:
    text = load_text(write_rows(folder, task), tokenizer)
    sizes = {"num_labels": len(text.labels)} if text.labels else {}
    return make_headed(task, **sizes, **changes), text


@torch.no_grad()
def nats_of_each_label(model: Any, rows: Any, tokenizer: Any, shifted: bool) -> list[float]:
    """Row by row and token by token, by nothing but the logits."""
    nats = []
    for row in rows:
        batch = collate(tokenizer, [row])
        labels = batch["labels"][0].tolist()
        log_probabilities = model(**batch).logits[0].log_softmax(-1)
        pairs = list(enumerate(labels))[1:] if shifted else list(enumerate(labels))
        nats += [-float(log_probabilities[i - shifted, v]) for i, v in pairs if v != -100]
    return nats


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm", "seq2seq", "token-classification"])
def test_the_loss_is_the_mean_of_all_labels(task: str, tmp_path, tokenizer) -> None:
    model, text = prepare(task, tmp_path, tokenizer)
    nats = nats_of_each_label(model, text.validation, tokenizer, TASKS[task].shifted)
    for batch_size in (1, 3, 64):
        scores = evaluate(model, text.validation, tokenizer, text.task, batch_size=batch_size)
        assert scores["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
        if task != "token-classification":
            assert scores["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)


def test_bits_per_byte_are_told_for_packed_text_only(tmp_path, tokenizer) -> None:
    model, text = prepare("causal-lm", tmp_path, tokenizer)
    scores = evaluate_text(model, text, tokenizer)
    lines = (tmp_path / "validation.jsonl").read_text().splitlines()
    texts = [line[len('{"text": "') : -len('"}')] for line in lines]
    num_tokens = sum(len(words.split()) + 1 for words in texts)
    bits = scores["loss"] / math.log(2) * num_tokens / sum(map(len, texts))
    assert scores["bits_per_byte"] == pytest.approx(bits)
    model, text = prepare("masked-lm", tmp_path, tokenizer)
    assert set(evaluate_text(model, text, tokenizer)) == {"loss", "perplexity"}


def test_classes_are_scored_as_ever(tmp_path, tokenizer) -> None:
    model, text = prepare("classification", tmp_path, tokenizer)
    batch = collate(tokenizer, list(text.validation))
    with torch.no_grad():
        logits = model(**batch).logits
    scores = evaluate_text(model, text, tokenizer)
    assert list(scores) == ["accuracy", "macro_f1", "loss"]
    assert scores["accuracy"] == float((logits.argmax(-1) == batch["labels"]).float().mean())
    assert scores["loss"] == pytest.approx(float(F.cross_entropy(logits, batch["labels"])))


def test_spans_are_the_likeliest_ends(tmp_path, tokenizer) -> None:
    model, text = prepare("question-answering", tmp_path, tokenizer)
    batch = collate(tokenizer, list(text.validation))
    with torch.no_grad():
        outputs = model(**batch)
    hits = outputs.start_logits.argmax(-1) == batch["start_positions"]
    hits &= outputs.end_logits.argmax(-1) == batch["end_positions"]
    scores = evaluate_text(model, text, tokenizer)
    assert scores["exact_match"] == float(hits.float().mean())
    assert scores["loss"] == pytest.approx(float(outputs.loss), rel=1e-5)


def test_texts_are_written_greedily_and_compared(tmp_path, tokenizer) -> None:
    model, text = prepare("seq2seq", tmp_path, tokenizer)
    seen: dict[str, Any] = {}

    def keep(predictions: Any, labels: Any) -> dict[str, float]:
        seen.update(predictions=predictions, labels=labels)
        return {"own": 1.0}

    scores = evaluate(
        model, text.validation, tokenizer, text.task, own_metric=keep, num_written_rows=3
    )
    assert seen["labels"] == tokenizer.batch_decode(
        text.validation["labels"][:3], skip_special_tokens=True
    )
    assert scores["rouge_l"] == score_rouge_l(seen["predictions"], seen["labels"])
    assert scores["own"] == 1.0
    row = collate(tokenizer, [text.validation[0]])
    tokens = [0]
    longest = max(map(len, text.validation["labels"][:3]))
    while len(tokens) <= longest and tokens[-1] != 3:  # by hand, without a cache
        inputs = {"decoder_input_ids": torch.tensor([tokens]), "use_cache": False}
        with torch.no_grad():
            logits = model(row["input_ids"], row["attention_mask"], **inputs).logits
        tokens.append(int(logits[0, -1].argmax()))
    assert seen["predictions"][0] == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("task", TASKS)
def test_a_metric_of_ones_own_gets_what_counts(task: str, tmp_path, tokenizer) -> None:
    model, text = prepare(task, tmp_path, tokenizer)
    seen: list[Any] = []

    def keep(*pair: Any) -> dict[str, float]:
        seen.extend(pair)
        return {"own": 1.0}

    scores = evaluate(model, text.validation, tokenizer, text.task, own_metric=keep, batch_size=3)
    assert scores["own"] == 1.0
    assert text.task.metric in scores
    predictions, labels = seen
    assert len(predictions) == len(labels) > 0
    if text.task.per_token and not text.task.writes:
        assert predictions.shape == labels.shape
        assert -100 not in labels
    if task == "causal-lm":
        with torch.no_grad():
            logits = model(**collate(tokenizer, list(text.validation))).logits
        assert predictions.tolist() == logits[:, :-1].argmax(-1).flatten().tolist()
        assert labels.tolist() == [t for ids in text.validation["input_ids"] for t in ids[1:]]


@pytest.mark.parametrize("task", TASKS)
def test_the_model_is_left_in_its_mode(task: str, tmp_path, tokenizer) -> None:
    model, text = prepare(task, tmp_path, tokenizer)
    model.train()
    evaluate_text(model, text, tokenizer)
    assert model.training
    assert MODELS[task] in type(model).__name__.lower()


def test_rows_without_any_label_are_refused(tmp_path, tokenizer) -> None:
    model, text = prepare("token-classification", tmp_path, tokenizer)
    blank = text.validation.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(NirvanaError, match="No validation row has a label that counts"):
        evaluate(model, blank, tokenizer, text.task)
