"""A tiny model with a real tokenizer, and a few rows that it can learn."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from transformers import BertTokenizerFast

from tests.pruning.tiny_models import make_tiny

CLASSES = {"games": "play dice cards", "mail": "send letters post", "math": "add prove numbers"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tiny_model(folder: Path, name: str = "bert") -> Path:
    """Save a random model without a classification head, and a tokenizer of these words."""
    words = sorted({word for words in CLASSES.values() for word in words.split()})
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    # Encoder-decoders classify at the end-of-sequence token.
    model = make_tiny(name, eos_token_id=tokenizer.sep_token_id)
    model.base_model.save_pretrained(folder)
    return folder


def write_tiny_data(folder: Path, num_train: int = 96, num_validation: int = 24) -> Path:
    """Write train.csv and validation.csv: two words of the class and one of another."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    for split, num_rows in (("train", num_train), ("validation", num_validation)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["description", "section"])
            for _ in range(num_rows):
                label, other = draw.sample(sorted(CLASSES), 2)
                words = draw.choices(CLASSES[label].split(), k=2)
                words.append(draw.choice(CLASSES[other].split()))
                rows.writerow([" ".join(words), label])
    return folder
