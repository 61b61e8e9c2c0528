"""Perplexity and bits per byte, from the mean loss of a token."""

import math

_LARGEST = 700.0  # exp of more is no float any more


def score_language(loss: float, bytes_per_token: float | None = None) -> dict[str, float]:
    """Return perplexity, and bits per byte where `bytes_per_token` is known.

    `loss` is in nats a token. Bits per byte, `loss / ln 2 * tokens / bytes`, compares models with
    different tokenizers (Gao et al. 2020, The Pile, section 3.1).
    """
    scores = {"perplexity": math.exp(min(loss, _LARGEST))}
    if bytes_per_token:
        scores["bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return scores
