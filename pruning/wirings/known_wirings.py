"""All wiring records by model type, and why some types can have none."""

from __future__ import annotations

from pruning.errors import NirvanaError
from pruning.wirings.decoder_wirings import DECODERS
from pruning.wirings.encoder_decoder_wirings import ENCODER_DECODERS
from pruning.wirings.encoder_wirings import ENCODERS
from pruning.wirings.wiring import Wiring

WIRINGS: dict[str, Wiring] = {
    record.model_type: record for record in (*ENCODERS, *DECODERS, *ENCODER_DECODERS)
}

# Types that no record can describe. Many more are recognized by their config or their modules.
UNSUPPORTED: dict[str, str] = {
    "albert": "its layers share one set of weights, so no layer can keep a count of its own",
}
_EXPERTS = "mixture-of-experts: the units of an expert see only the tokens routed to it"
_STATE_SPACE = "state-space or recurrent layers have no heads and neurons that could be cut alike"
# Attributes of a config that give a family away.
_TELLTALES: dict[str, str] = {
    "num_experts": _EXPERTS,
    "num_local_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "moe_num_experts": _EXPERTS,
    "ssm_state_size": _STATE_SPACE,
    "mamba_d_state": _STATE_SPACE,
    "state_size": _STATE_SPACE,
    "mamba_n_heads": _STATE_SPACE,
    "attention_hidden_size": _STATE_SPACE,  # RWKV
    "linear_num_key_heads": _STATE_SPACE,  # gated delta nets
    "num_hidden_groups": UNSUPPORTED["albert"],
}


def explain_unwired(model_type: str, why: str = "") -> str:
    """Say that a type is not wired, which are, and how to add one."""
    return (
        f"Model type {model_type!r} is not wired for pruning{why}. Known: "
        f"{', '.join(sorted(WIRINGS))}. To add one: a record beside the like of it in "
        "pruning/wirings/*_wirings.py and a tiny config in tests/pruning/tiny_models.py."
    )


def refuse_unsupported(config: object, *, experts: bool = True) -> None:
    """Raise NirvanaError, with the reason, for an architecture that no record can describe.

    `experts`: whether numbers of experts count. They stand in configs of models without any, too.
    """
    model_type = str(getattr(config, "model_type", ""))
    reason = UNSUPPORTED.get(model_type) or next(
        (
            why
            for name, why in _TELLTALES.items()
            if _is_set(config, name) and (experts or why != _EXPERTS)
        ),
        None,
    )
    if reason and model_type not in WIRINGS:
        raise NirvanaError(f"Model type {model_type!r} cannot be pruned: {reason}.")


def _is_set(config: object, name: str) -> bool:
    value = getattr(config, name, None)
    return (isinstance(value, int) and value > 1) or (name == "num_hidden_groups" and value == 1)
