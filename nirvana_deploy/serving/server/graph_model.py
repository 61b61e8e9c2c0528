"""A model in a worker process: an ONNX file, alone or between a tokenizer and labels."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exporters.onnx_session import make_options, open_session
from nirvana_deploy.serving.server.served_models import ServedGraph, ServedText
from nirvana_deploy.serving.text_model_file import find_length_step, open_tokenizer, score_labels

# Room for special tokens, and for the tokens that a cut within a word spoils.
_SPARE_TOKENS = 16
# Characters of a text that are tokenized at first, per token that the model takes.
_CHARS_PER_TOKEN = 16


class GraphModel:
    """Runs one ONNX file."""

    def __init__(self, graph: ServedGraph, num_threads: int) -> None:
        self._names = [tensor.name for tensor in graph.signature.outputs]
        self._session, self._options = open_shared(str(graph.path), num_threads)

    def answer(self, feeds: Mapping[str, object]) -> dict[str, object]:
        """Return the outputs by name."""
        return dict(zip(self._names, self._run(self._names, feeds), strict=True))

    def _run(self, names: list[str], feeds: Mapping[str, object]) -> Any:
        return self._session.run(names, dict(feeds), self._options)


class TextModel(GraphModel):
    """Takes texts and gives labels, as Triton's ensemble of the same package does."""

    def __init__(self, graph: ServedGraph, text: ServedText, num_threads: int) -> None:
        super().__init__(graph, num_threads)
        self._text = text
        # To count tokens by, since one that truncates does not tell what it left out.
        self._whole = open_tokenizer(text.tokenizer_path)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._tokenizer = open_tokenizer(text.tokenizer_path)
        self._tokenizer.enable_truncation(text.max_length)
        self._tokenizer.enable_padding(
            pad_id=text.pad_id,
            pad_token=text.pad_token,
            pad_to_multiple_of=find_length_step(text.max_length),
        )

    def answer(self, feeds: Mapping[str, Any]) -> dict[str, object]:
        """Return the labels of each text and their scores."""
        logits_BC = self._classify([self._cut(text) for text in feeds["text"].reshape(-1)])
        labels, scores = score_labels(logits_BC, list(self._text.labels), self._text.score_kind)
        return {"label": np.array(labels, object).reshape(scores.shape), "score": scores}

    def _cut(self, text: str) -> str:
        """Return a beginning of the text that fills the model's length, or all of it.

        A tokenizer reads a text to its end before it truncates: megabytes for 512 tokens.
        """
        size = _CHARS_PER_TOKEN * self._text.max_length
        while size < len(text):
            start = text[:size]
            if len(self._whole.encode(start).ids) > self._text.max_length + _SPARE_TOKENS:
                return start
            size *= 4
        return text

    def _classify(self, texts: list[str]) -> Any:
        rows = self._tokenizer.encode_batch(texts)
        columns = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
            "token_type_ids": [row.type_ids for row in rows],
        }
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feeds = {
            node.name: np.array(columns[node.name], types[node.type])
            for node in self._session.get_inputs()
        }
        (logits_BC,) = self._run(["logits"], feeds)
        return logits_BC


def open_model(graph: ServedGraph, num_threads: int) -> GraphModel:
    """Open the files of a model, whose hashes were checked."""
    if graph.text is None:
        return GraphModel(graph, num_threads)
    return TextModel(graph, graph.text, num_threads)


@functools.cache
def open_shared(path: str, num_threads: int) -> tuple[Any, Any]:
    """Open a graph once per process: the text model and its classifier share the weights.

    Returns:
        The session, and options with which a run gives memory back that a large request took.
    """
    import onnxruntime

    run_options = onnxruntime.RunOptions()
    run_options.log_severity_level = 4
    run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    options = make_options(num_threads=num_threads)
    return open_session(Path(path), options=options, is_trusted=True), run_options
