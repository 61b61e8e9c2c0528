"""A tokenizer, an ONNX classifier and its labels as one model of MLServer: text in, label out."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import ResponseOutput

from nirvana_deploy.serving.server.mlserver_model import OnnxModel
from nirvana_deploy.serving.text_model_file import find_length_step, score_labels


class TextModel(OnnxModel):
    """As Triton's ensemble of the same package does it, in one process.

    `settings.parameters.extra["text"]` holds what `ServedText` does.
    """

    async def load(self) -> bool:
        """Open graph, tokenizer and labels, whose hashes were checked."""
        from tokenizers import Tokenizer

        text = self.settings.parameters.extra["text"]
        self._tokenizer = Tokenizer.from_file(text["tokenizer_path"])
        self._tokenizer.enable_truncation(int(text["max_length"]))
        self._tokenizer.enable_padding(
            pad_id=int(text["pad_id"]),
            pad_token=text["pad_token"],
            pad_to_multiple_of=find_length_step(int(text["max_length"])),
        )
        self._labels = list(text["labels"])
        self._score_kind = text["score_kind"]
        return await super().load()

    def answer(self, feeds: dict[str, Any]) -> list[ResponseOutput]:
        """Return the labels of each text and their scores."""
        logits_BC = self._classify(feeds["text"].reshape(-1).tolist())
        labels, scores = score_labels(logits_BC, self._labels, self._score_kind)
        names = [name for row in labels for name in row]
        return [
            ResponseOutput(name="label", shape=list(scores.shape), datatype="BYTES", data=names),
            NumpyCodec.encode_output("score", scores),
        ]

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
            for node in self.session.get_inputs()
        }
        (logits_BC,) = self.session.run(["logits"], feeds)
        return logits_BC
