"""A tiny model with the head of each task, a tokenizer, and a few rows that fit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from transformers import AutoConfig, BertTokenizerFast

from pruning.tasks.data_config import DataConfig
from pruning.tasks.tasks import TASKS
from tests.pruning.tiny_models import TINY, make_tiny
from tests.pruning.tiny_text import CLASSES, SPECIAL

WORDS = sorted({word for words in CLASSES.values() for word in words.split()})
TAGS = {word: name for name, words in CLASSES.items() for word in words.split()}
MODELS = {
    "classification": "bert",
    "token-classification": "bert",
    "question-answering": "bert",
    "seq2seq": "t5",
    "masked-lm": "bert",
    "causal-lm": "llama",
}


def make_tokenizer(folder: Path) -> BertTokenizerFast:
    """A tokenizer of the words, and of one that is two tokens: playing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "##ing"]) + "\n")
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"))


def make_headed(task: str, name: str | None = None, **changes: Any) -> Any:
    """A tiny random model with the head of `task`."""
    name = name or MODELS[task]
    model = make_tiny(name)
    tiny = TINY[name]
    if TASKS[task].head_size is not None:
        changes["num_labels"] = TASKS[task].head_size
    special = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    config = AutoConfig.for_model(tiny.model_type, **{**tiny.config, **special, **changes})
    headed = TASKS[task].auto_class.from_config(config)
    headed.base_model.load_state_dict(model.base_model.state_dict(), strict=False)  # no pooler
    return headed.eval()


def write_headed(folder: Path, task: str, name: str | None = None, **changes: Any) -> Path:
    """Save such a model and its tokenizer."""
    make_tokenizer(folder).save_pretrained(folder)
    make_headed(task, name, **changes).save_pretrained(folder)
    return folder


def write_rows(folder: Path, task: str, num_train: int = 24, num_validation: int = 8) -> DataConfig:
    """Write train.jsonl and validation.jsonl for `task`; return the config that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for split, num_rows in (("train", num_train), ("validation", num_validation)):
        rows = [json.dumps(draw_row(task, draw)) for _ in range(num_rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return DataConfig(
        dataset=str(folder),
        task=task,  # type: ignore[arg-type]
        text_column="text",
        label_column="label",
        tags_column="tags",
        max_length=16,
    )


def draw_row(task: str, draw: random.Random) -> dict[str, Any]:
    words = draw.choices(WORDS, k=draw.randint(4, 9))
    text = " ".join(words)
    if task == "classification":
        return {"text": text, "label": TAGS[words[0]]}
    if task == "token-classification":
        return {"tokens": words, "tags": [TAGS[word] for word in words]}
    if task == "question-answering":
        answer = {"text": [words[2]], "answer_start": [len(" ".join(words[:2])) + 1]}
        return {"question": words[1], "context": text, "answers": answer}
    if task == "seq2seq":
        return {"text": text, "target": " ".join(words[:3])}
    return {"text": text}
