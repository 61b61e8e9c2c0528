"""A config in the words of transformers 4, which TensorRT-LLM reads."""

from __future__ import annotations

from typing import Any

_FULL, _SLIDING = "full_attention", "sliding_attention"


def add_older_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return a config that says the rotary base and scaling, and the type, by older names too.

    transformers 5 saves them in `rope_parameters` and `dtype`. TensorRT-LLM 1.x has transformers
    4.57 and asks for `rope_theta`, `rope_scaling` and `torch_dtype`: of what it does not find it
    says nothing, and takes 10,000 for the base (tensorrt_llm/_torch/attention_backend/
    interface.py, `RopeParams.from_config`).
    """
    new = dict(document)
    if "dtype" in document:
        new.setdefault("torch_dtype", document["dtype"])
    rope = document.get("rope_parameters")
    if not rope:
        return new
    if _SLIDING in rope:
        new.setdefault("rope_local_base_freq", rope[_SLIDING]["rope_theta"])
    rope = rope.get(_FULL, rope)
    new.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        new.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    return new
