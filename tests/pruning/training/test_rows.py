import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pruning.errors import NirvanaError
from pruning.tasks.collation import collate, hide_tokens
from pruning.tasks.data_config import DataConfig
from pruning.tasks.task import IGNORED
from pruning.tasks.tasks import TASKS
from pruning.tasks.text_data import load_text
from tests.pruning.training.tiny_tasks import WORDS, make_tokenizer, write_rows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write(folder: Path, config: DataConfig, *rows: dict[str, Any]) -> DataConfig:
    """Replace the rows that `config` reads by `rows`, in both splits."""
    for split in ("train", "validation"):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{split}.jsonl").write_text(lines + "\n")
    return config


def read(folder: Path, task: str, tokenizer: Any, *rows: dict[str, Any], **changes: Any) -> Any:
    config = write(folder, replace(write_rows(folder, task), **changes), *rows)
    return load_text(config, tokenizer)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_rows_that_a_model_takes(task: str, tmp_path, tokenizer) -> None:
    text = load_text(write_rows(tmp_path, task), tokenizer)
    assert text.task is TASKS[task]
    for rows in (text.train, text.validation):
        batch = collate(tokenizer, list(rows))
        assert set(TASKS[task].label_columns) <= set(batch)
        assert "special_tokens_mask" not in batch
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert batch["input_ids"].shape[1] <= 16


def test_a_tag_stands_on_the_first_token_of_its_word(tmp_path, tokenizer) -> None:
    words, tags = ["play", "playing", "dice", "playing"], ["a", "b", "a", "c"]
    row = {"tokens": words, "tags": tags}
    text = read(tmp_path, "token-classification", tokenizer, row, max_length=7)
    assert text.labels == ("a", "b", "c")
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=7)
    expected, last = [], None
    for word in encoded.word_ids():
        is_first = word is not None and word != last
        expected.append(text.labels.index(tags[word]) if is_first else IGNORED)
        last = word
    assert text.train[0]["input_ids"] == encoded["input_ids"]
    assert text.train[0]["labels"] == expected
    assert expected.count(IGNORED) == 3  # [CLS], ##ing, [SEP]; the last ##ing was cut off


def test_tags_stand_right_on_byte_level_tokens(tmp_path) -> None:
    words, tags = ["dice", "playing", "a", "cards"], ["x", "y", "z", "x"]
    row = {"tokens": words, "tags": tags}
    text = read(tmp_path, "token-classification", byte_level(), row, max_length=64)
    labelled = [i for i, label in enumerate(text.train[0]["labels"]) if label != IGNORED]
    assert [text.labels[text.train[0]["labels"][i]] for i in labelled] == tags
    first = [byte_level().decode(text.train[0]["input_ids"][i]) for i in labelled]
    assert first == ["d", " p", "a", " c"], "a token may begin with the space before its word"


def test_answers_are_found_among_the_tokens(tmp_path, tokenizer) -> None:
    rows = [
        {
            "question": "dice",
            "context": "send playing cards",
            "answers": {"text": [], "answer_start": []},
        },
        {
            "question": "dice",
            "context": "send playing cards",
            "answers": {"text": ["playing", "cards"], "answer_start": [5, 13]},
        },
    ]
    text = read(tmp_path, "question-answering", tokenizer, *rows)
    spans = list(zip(text.train["start_positions"], text.train["end_positions"], strict=True))
    assert spans[0] == (0, 0), "no answer"
    start, end = spans[1]
    assert tokenizer.decode(text.train[1]["input_ids"][start : end + 1]) == "playing"
    cut = read(tmp_path, "question-answering", tokenizer, *rows, max_length=5)
    assert cut.train["end_positions"] == [0, 0], "the answer was cut off"


def byte_level(lead: bool = False) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(alphabet)}}
    merges = [("Ġ", "p"), ("Ġ", "c")]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(merges)}
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if lead:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("lead", [False, True])
def test_texts_are_packed_without_loss_or_padding(lead: bool, tmp_path) -> None:
    tokenizer = byte_level(lead)
    texts = ["grüße", "a b", "", "wordy words"]
    rows = [{"text": text} for text in texts]
    text = read(tmp_path, "causal-lm", tokenizer, *rows, max_length=6)
    stream = [
        token
        for words in texts
        if words
        for token in [*tokenizer(words, add_special_tokens=False)["input_ids"], 1]
    ]
    size = 5 if lead else 6
    expected = [stream[i : i + size] for i in range(0, len(stream), size)]
    expected = [([0] if lead else []) + row for row in expected if len(row) == size]
    assert text.validation["input_ids"] == text.validation["labels"] == expected
    num_bytes = sum(len(words.encode()) for words in texts)
    assert text.bytes_per_token == pytest.approx(num_bytes / len(stream))
    assert tokenizer.pad_token_id is None
    assert collate(tokenizer, list(text.train))["input_ids"].shape == (len(expected), 6)


def test_less_than_a_row_of_text_is_one_short_row(tmp_path, tokenizer) -> None:
    text = read(tmp_path, "causal-lm", tokenizer, {"text": "play dice"})
    assert text.train["input_ids"] == [tokenizer("play dice")["input_ids"][1:]]


def test_validation_hides_the_same_tokens_and_training_others(tmp_path, tokenizer) -> None:
    config = write_rows(tmp_path, "masked-lm")
    one, other = load_text(config, tokenizer), load_text(config, tokenizer)
    assert one.validation["input_ids"] == other.validation["input_ids"]
    plain = tokenizer([json.loads(line)["text"] for line in (tmp_path / "validation.jsonl").open()])
    for hidden, labels, ids in zip(
        one.validation["input_ids"], one.validation["labels"], plain["input_ids"], strict=True
    ):
        whole = [i if i != IGNORED else h for h, i in zip(hidden, labels, strict=True)]
        assert whole == ids, "labels hold what was hidden, and nothing else was"
        assert any(label != IGNORED for label in labels)
        assert labels[0] == labels[-1] == IGNORED, "special tokens are not hidden"
    torch.manual_seed(0)
    first, second = (collate(tokenizer, list(one.train)) for _ in range(2))
    assert not torch.equal(first["labels"], second["labels"])
    torch.manual_seed(0)
    assert torch.equal(first["labels"], collate(tokenizer, list(one.train))["labels"])


def test_hidden_shares_are_those_of_bert(tokenizer) -> None:
    torch.manual_seed(0)
    ids = torch.full((400, 100), 7)
    hidden, labels = hide_tokens(ids, torch.zeros_like(ids), tokenizer)
    chosen = labels != IGNORED
    assert float(chosen.float().mean()) == pytest.approx(0.15, abs=0.01)
    masked = float((hidden[chosen] == tokenizer.mask_token_id).float().mean())
    same = float((hidden[chosen] == 7).float().mean())
    vocabulary = len(tokenizer)
    assert masked == pytest.approx(0.8 + 0.1 / vocabulary, abs=0.02)
    assert same == pytest.approx(0.1 + 0.1 / vocabulary, abs=0.02)
    assert torch.equal(hidden[~chosen], ids[~chosen])
    blank, labels = hide_tokens(ids, torch.ones_like(ids), tokenizer)
    assert torch.equal(blank, ids) and bool((labels == IGNORED).all()), "all are special"


def test_targets_are_cut_and_padded_for_themselves(tmp_path, tokenizer) -> None:
    rows = [{"text": "play", "target": "send"}, {"text": "send post", "target": "add prove play"}]
    text = read(tmp_path, "seq2seq", tokenizer, *rows, max_length=4)
    batch = collate(tokenizer, list(text.train))
    ids = tokenizer(["send", "add prove play"], truncation=True, max_length=4)["input_ids"]
    assert batch["labels"].tolist() == [[*ids[0], IGNORED], ids[1]]


def test_padding_on_the_left_moves_labels_with_their_tokens(tmp_path) -> None:
    left = make_tokenizer(tmp_path / "left")
    left.padding_side = "left"
    rows = [{"tokens": ["play"], "tags": [1]}, {"tokens": ["send", "post"], "tags": [0, 1]}]
    text = read(tmp_path, "token-classification", left, *rows)
    assert collate(left, list(text.train))["labels"][0].tolist() == [IGNORED, IGNORED, 1, IGNORED]
    answers = {"text": "post", "answer_start": 5}
    rows = [
        {"question": "dice", "context": "send post", "answers": answers},
        {"question": "dice cards", "context": "send post add", "answers": answers},
    ]
    text = read(tmp_path, "question-answering", left, *rows)
    batch = collate(left, list(text.train))
    spots = batch["input_ids"].gather(1, batch["start_positions"][:, None]).flatten().tolist()
    assert spots == [left.convert_tokens_to_ids("post")] * 2


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm", "seq2seq"])
def test_lines_of_text_are_rows(task: str, tmp_path, tokenizer) -> None:
    line = "play\tdice" if task == "seq2seq" else "play dice\tcards"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(f"{line}\n" * 20)
    config = DataConfig(dataset=str(tmp_path), task=task, text_column="line", max_length=8)
    text = load_text(config, tokenizer)
    assert len(text.train) == (10 if task == "causal-lm" else 20)


SLOW = type("SlowTokenizer", (), {"is_fast": False})()
QUESTION = {"question": "play", "context": "send post", "answers": {}}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("token-classification", {"tokens": "play", "tags": ["a"]}, "Expected a list of words"),
        ("token-classification", {"tokens": ["play"], "tags": ["a", "b"]}, "row 0 has"),
        ("question-answering", QUESTION, "must hold .text, answer_start. as in SQuAD"),
        (
            "question-answering",
            {**QUESTION, "answers": {"text": ["post"], "answer_start": [4]}},
            "'post' should stand at character 4",
        ),
        (
            "question-answering",
            {**QUESTION, "question": "play " * 20, "answers": {"text": [], "answer_start": []}},
            "leaves no room for its context in 16 tokens",
        ),
        ("seq2seq", {"text": "play", "target": 1}, "'target' must hold text"),
        ("causal-lm", {"text": 3}, "'text' must hold text"),
        ("causal-lm", {"text": ""}, "holds no text in any of 1 rows"),
        ("masked-lm", {"words": "play"}, "no column 'text'.*Set data.text_column, or data.task"),
    ],
)
def test_rows_that_do_not_fit_are_refused(task, row, message, tmp_path, tokenizer) -> None:
    with pytest.raises(NirvanaError, match=message):
        read(tmp_path, task, tokenizer, row)


def test_tokenizers_that_do_not_fit_are_refused(tmp_path, tokenizer) -> None:
    for task in ("token-classification", "question-answering"):
        with pytest.raises(NirvanaError, match=f"{task} needs a fast tokenizer.*SlowTokenizer"):
            load_text(write_rows(tmp_path, task), SLOW)
    with pytest.raises(NirvanaError, match="masked-lm needs a tokenizer with a mask token"):
        load_text(write_rows(tmp_path, "masked-lm"), byte_level())
    endless = byte_level()
    endless.eos_token = None
    with pytest.raises(NirvanaError, match="has no token that ends a text"):
        load_text(write_rows(tmp_path, "causal-lm"), endless)
    rows = [{"input_ids": [2] * n, "attention_mask": [1] * n, "labels": 0} for n in (3, 5)]
    with pytest.raises(NirvanaError, match="Rows of 3 to 5 tokens must be padded"):
        collate(byte_level(), rows)


def test_a_txt_file_of_tags_is_refused(tmp_path, tokenizer) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("play\n")
    config = DataConfig(dataset=str(tmp_path), task="token-classification")
    with pytest.raises(NirvanaError, match="A txt file cannot hold rows of token-classification"):
        load_text(config, tokenizer)


def test_a_tag_that_training_lacks_is_named(tmp_path, tokenizer) -> None:
    config = write_rows(tmp_path, "token-classification")
    row = {"tokens": [WORDS[0]], "tags": ["new"]}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(NirvanaError, match="Validation has the class 'new'"):
        load_text(config, tokenizer)
