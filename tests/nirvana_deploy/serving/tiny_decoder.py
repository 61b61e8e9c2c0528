"""The export's folder of a tiny decoder, dense or pruned, and what transformers generates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from nirvana_deploy.serving.graph_decoder import GraphDecoder
from tests.exporters.trace.traced import prune_mixed
from tests.pruning.tiny_models import make_tiny


@dataclass(frozen=True)
class TinyDecoder:
    """A folder with `model.onnx`, config and tokenizer; and its torch model."""

    folder: Path
    model: PreTrainedModel

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    def generate(self, prompts: list[list[int]], num_new: int) -> list[list[int]]:
        """Return transformers' greedy search, shorter prompts padded on the left with 0."""
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
        lengths = [len(prompt) for prompt in prompts]
        mask = torch.tensor([[0] * (length - n) + [1] * n for n in lengths])
        made = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=num_new, do_sample=False
        )
        return made.tolist()


def export_tiny(folder: Path, *, pruned: bool) -> TinyDecoder:
    """Trace a Llama of two blocks, or one of four: fewer heads, no attention, dropped block."""
    model = make_tiny("llama", "eager", num_hidden_layers=4 if pruned else 2)
    if pruned:
        model = prune_mixed(model)
    (part,) = list_parts(model, ExportConfig())
    folder.mkdir()
    write_graph(trace_graph(part, 18), folder / "model.onnx")
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("auto_map", None)
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    return TinyDecoder(folder, model)


def save_tokenizer(folder: Path, alphabet: list[str] | None = None) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # All bytes, more words than the model has: only the tokens' numbers are compared.
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the first text", "a longer text (and more), 12"] * 2, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    wrapped.save_pretrained(folder)


def generate_greedily(onnx: Path, prompt: list[int], num_new: int) -> list[int]:
    """Return a prompt and the likeliest tokens after it, one by one over the graph's cache."""
    decoder = GraphDecoder(onnx)
    tokens, past, new = list(prompt), decoder.start(1), list(prompt)
    for _ in range(num_new):
        mask = np.ones((1, len(tokens)), np.int64)
        logits, past = decoder.step(np.array([new], np.int64), mask, past)
        new = [int(logits[0, -1].argmax())]
        tokens += new
    return tokens
