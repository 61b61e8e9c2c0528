"""The names of a graph's inputs and outputs: optimum's, which the ecosystem reads.

past_key_values.0.key     the cache before the call, a tensor per layer, key and value
present.0.key             the same after the call
"""

from __future__ import annotations

import re

# The argument of transformers' models that takes a cache; newer ones call it `cache`.
PAST_ARGUMENT = "past_key_values"
PAST_PREFIX = f"{PAST_ARGUMENT}."
PRESENT_PREFIX = "present."
CACHE_PREFIXES = (PAST_PREFIX, PRESENT_PREFIX)
# The number of the layer, and which tensor it is: key or value.
PAST_ENTRY = re.compile(re.escape(PAST_PREFIX) + r"(\d+)\.(key|value)")
# Of an encoder-decoder: the number, and whose tokens are in it.
PAST_OF_PAIR = re.compile(re.escape(PAST_PREFIX) + r"(\d+)\.(decoder|encoder)\.")


def is_past(name: str) -> bool:
    """Return whether an input is a part of the cache."""
    return name.startswith(PAST_PREFIX)


def to_present(past: str) -> str:
    """Return the output that an input of the cache becomes."""
    return past.replace(PAST_PREFIX, PRESENT_PREFIX, 1)


def to_past(present: str) -> str:
    """Return the input that an output of the cache becomes in the next call."""
    return present.replace(PRESENT_PREFIX, PAST_PREFIX, 1)
