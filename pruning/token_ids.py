"""Which random token ids a model can be given: all of its vocabulary but those that steer it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from pruning.errors import NirvanaError

# Ids that stand for a picture or a sound, whose place the input must then fill.
_PLACEHOLDERS = ("image", "video", "audio", "vision")
# Models that pool at the end token, or count it, take one per row.
_POOLED_AT_END = ("clip", "siglip", "chinese_clip", "altclip", "owlvit", "owlv2", "xclip")


def find_pad(pad: object, num_tokens: int | None) -> int | None:
    """Return the padding token's id; None where it is unset, negative or outside the vocabulary."""
    if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
        return None
    return None if num_tokens is not None and pad >= num_tokens else pad


def list_steering(config: Mapping[str, object]) -> frozenset[int]:
    """Return the ids that must not be drawn at random, of a model config as a plain mapping.

    The padding token changes positions and lengths; tokens for pictures and sounds need these; the
    end token is counted by the classifiers of encoder-decoders, and CLIP pools at it.
    """
    model_type = str(config.get("model_type", ""))
    counts_end = bool(config.get("is_encoder_decoder")) or model_type.startswith(_POOLED_AT_END)
    found: set[int] = set()
    for name, value in config.items():
        if not name.endswith(("_token_id", "_token_index")):
            continue
        steers = name == "pad_token_id" or any(word in name for word in _PLACEHOLDERS)
        if steers or (counts_end and name == "eos_token_id"):
            values = value if isinstance(value, list | tuple) else [value]
            found |= {id for id in values if isinstance(id, int) and not isinstance(id, bool)}
    return frozenset(found)


def list_usable(num_tokens: int, avoided: Collection[int]) -> NDArray[np.int64]:
    """Return all ids below `num_tokens` but those avoided, [ids].

    Raises:
        NirvanaError: none is left.
    """
    usable = np.setdiff1d(np.arange(num_tokens), np.array(sorted(avoided), dtype=np.int64))
    if not usable.size:
        raise NirvanaError(
            f"The vocabulary has {num_tokens} tokens, and none of them is left to draw inputs from "
            f"(not drawn: {', '.join(map(str, sorted(avoided)))}). Expected at least one more; "
            "look at vocab_size and pad_token_id in config.json."
        )
    return usable.astype(np.int64)
