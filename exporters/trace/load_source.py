"""Loads what is exported, and what an export is compared with: a checkpoint in float32."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from pruning.checkpoints.checkpoint import is_pruned, load_pruned
from pruning.checkpoints.config_file import read_config_file
from pruning.checkpoints.model_source import find_own_class, load_model, load_stock_model
from pruning.errors import NirvanaError

EXPORTED = (
    "Exported are text and image encoders (bare, or with a head for sequence classification, token "
    "classification, question answering, masked language modeling or image classification), "
    "decoders (ForCausalLM, ForSequenceClassification) and encoder-decoders of text "
    "(ForConditionalGeneration)."
)
# By the end of a class's name: why it is not exported.
_REFUSED_HEADS = {
    "ForMultipleChoice": "it takes several choices per row",
    "ForNextSentencePrediction": "next sentence prediction is no task of an exported model",
    "ForPreTraining": "it has the heads of pretraining",
    "DoubleHeadsModel": "it has two heads",
    "EncoderDecoderModel": "it joins two models by a class of its own",
    "WithProjection": "it projects what it reads into a space that it shares with another model",
    "ForObjectDetection": "it gives boxes besides logits",
}
# Inputs without which a model runs, and computes something else than it was trained for.
_NEEDED_INPUTS = {
    "bbox": "it reads where words stand on a page (bbox)",
    "visual_embeds": "it reads parts of an image beside the text (visual_embeds)",
}
_INPUTS = ("input_ids", "pixel_values")


def load_source(folder: Path) -> PreTrainedModel:
    """Load a checkpoint in float32, with the head it was saved with and eager attention.

    Raises:
        NirvanaError: its class is not exported, which is said before the weights are read.
    """
    stock = _find_class(folder)
    refuse_head(stock, load_stock_model(AutoConfig, str(folder)), str(folder))
    if is_pruned(folder):
        model = load_pruned(folder, attn_implementation="eager")
    else:
        model = load_model(stock, str(folder), attn_implementation="eager")
    loaded: PreTrainedModel = model.float().eval()
    return loaded


def refuse_head(stock: Any, config: PretrainedConfig, source: str) -> None:
    """Raise NirvanaError, naming the class, where a model of it is not exported."""
    name = stock.__name__
    reason = next((why for end, why in _REFUSED_HEADS.items() if name.endswith(end)), None)
    takes = getattr(stock, "main_input_name", "input_ids")
    accepted = inspect.signature(stock.forward).parameters
    needed = (why for name, why in _NEEDED_INPUTS.items() if name in accepted)
    reason = reason or next(needed, None)
    if reason is None and takes not in _INPUTS:
        reason = f"it takes {takes} instead of {' or '.join(_INPUTS)}"
    parts = [p for p in ("text_config", "vision_config", "audio_config") if _has(config, p)]
    if reason is None and len(parts) > 1 and not _takes_one_part(stock):
        reason = f"it joins several models ({', '.join(parts)})"
    if reason is None and takes == "pixel_values" and not _has(config, "image_size"):
        reason = "its config sets no image_size, the size of the images that its graph would take"
    if reason is not None:
        raise NirvanaError(f"{source} is a {name}, which is not exported: {reason}. {EXPORTED}")
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None and _reads_pad(stock):
        raise NirvanaError(
            f"The config of {source} sets no pad_token_id, by which {name} finds the last token of "
            "each row in a batch. Set pad_token_id in config.json to the tokenizer's padding token "
            "(or its end token, where it has none) and export again."
        )


def _has(config: PretrainedConfig, name: str) -> bool:
    return getattr(config, name, None) is not None


def _takes_one_part(stock: Any) -> bool:
    return sum(word in stock.__name__ for word in ("Text", "Vision")) == 1


def _reads_pad(stock: Any) -> bool:
    """Return whether a classifier looks for padding tokens itself."""
    if not stock.__name__.endswith("ForSequenceClassification"):
        return False
    try:
        source = inspect.getsource(inspect.unwrap(stock.forward))
    except (OSError, TypeError):
        return False
    return "no padding token" in source and "pad_token_id" in source


def _find_class(folder: Path) -> object:
    config = read_config_file(folder)
    named = config.get("architectures") or [""]
    name = str(named[0]).removeprefix("Pruned" if is_pruned(folder) else "")
    found = getattr(transformers, name, None)
    if found is None:
        found = find_own_class(config, named[0], str(folder))
    if found is None:
        raise NirvanaError(
            f"The config of {folder} should name a class of transformers in `architectures`, it "
            f"has {named[0]!r}. Save the model by save_pretrained."
        )
    return found
