"""Form `deci`: DeciLM's `block_configs` (nemotron-nas), which vLLM and TensorRT-LLM both know.

It says for each block its KV heads, the width of its MLP, and which of the two is not there; the
query heads are one number for all. What it cannot say is filled up with zeros. Sources:
vllm/model_executor/models/nemotron_nas.py and tensorrt_llm/_torch/models/modeling_nemotron_nas.py.
"""

from __future__ import annotations

from pathlib import Path

from nirvana_deploy.serving.vllm import configuration_deci
from nirvana_deploy.serving.vllm.held_sizes import hold_query_heads
from nirvana_deploy.serving.vllm.layer_sizes import LayerSize, read_sizes
from nirvana_deploy.serving.vllm.padded_weights import find_biases
from nirvana_deploy.serving.vllm.served_form import ServedForm, ask_config_class, make_plain
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

ARCHITECTURE = "DeciLMForCausalLM"
CONFIG_FILE = "configuration_deci.py"
# The norm in front of a part, which goes with it.
_NORMS = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}
_TYPES = ("llama", "mistral")


def make_deci(
    document: dict[str, object],
    checkpoint: Path,
    *,
    server: str,
    neuron_multiple: int,
    takes_biases: bool,
    remote_code: bool,
) -> ServedForm:
    """Return a checkpoint's form as DeciLM.

    With a `neuron_multiple` above 1 the widths are told as DeciLM's factors of the hidden size,
    which are rounded up to multiples of 256. With `remote_code`, the folder carries the config's
    class.

    Raises:
        NirvanaError: the model computes what DeciLM does not, or its heads cannot be said.
    """
    _refuse_other_blocks(document, server, takes_biases)
    sizes = read_sizes(document)
    biases = find_biases(checkpoint, sizes)
    held = hold_query_heads(
        sizes.layers,
        ask_config_class(document, sizes.stack.config),
        sizes.dense_heads,
        neuron_multiple,
        # vLLM's first block must have an attention: it begins the residual stream.
        must_stay=lambda number, part: (number, part) in biases | {(0, "attention")},
    )
    parts = {
        number: {"attention": bool(size.num_heads), "mlp": bool(size.num_neurons)}
        for number, size in enumerate(held)
    }
    left_out = frozenset(
        (number, _NORMS[part])
        for number, there in parts.items()
        for part, stays in there.items()
        if not stays
    )
    keys = sizes.stack.config
    new = {
        **make_plain(document),
        "architectures": [ARCHITECTURE],
        "model_type": "nemotron-nas",
        keys.heads: max(size.num_heads for size in held),
        keys.kv_heads: max(size.num_kv_heads for size in held),
        keys.neurons: max(size.num_neurons for size in held),
        keys.head_dim: sizes.head_dim,
        "block_configs": [_describe(size, document, neuron_multiple) for size in held],
    }
    if remote_code:
        new["auto_map"] = {"AutoConfig": f"{CONFIG_FILE.removesuffix('.py')}.DeciConfig"}
        note = (
            f"WARNING: holds code ({CONFIG_FILE}, the config's class), which runs in the server "
            "with trust_remote_code: start it so only for folders whose hashes you have checked"
        )
        code = {CONFIG_FILE: Path(configuration_deci.__file__).read_text(encoding="utf-8")}
    else:
        note = (
            f"needs nirvana-deploy in {server}'s environment: its plugin has the config's class "
            "(entry point vllm.general_plugins); no code in the folder"
        )
        code = {}
    return ServedForm(
        document=new, sizes=sizes, held=held, left_out=left_out, code=code, notes=(note,)
    )


def _refuse_other_blocks(document: dict[str, object], server: str, takes_biases: bool) -> None:
    if document["model_type"] not in _TYPES:
        raise NirvanaError(
            f"{server}'s DeciLM has blocks of {' and '.join(_TYPES)}, and this is "
            f"{document['model_type']}. Package it with form padded, or for vLLM with per-layer."
        )
    if document.get("sliding_window"):
        raise NirvanaError(
            f"{server}'s DeciLM attends to everything, and this model to the last "
            f"{document['sliding_window']} tokens. Package it with form padded."
        )
    biased = [key for key in ("attention_bias", "mlp_bias") if document.get(key)]
    if biased and not takes_biases:
        raise NirvanaError(
            f"{server}'s DeciLM has no biases, and this model's {biased[0]} is true. Package it "
            "with form padded."
        )


def _describe(size: LayerSize, document: JsonObject, neuron_multiple: int) -> dict[str, object]:
    """Return one block's entry; where a part is not there, its numbers are null."""
    attention = {
        "no_op": not size.num_heads,
        "replace_with_linear": False,
        "n_heads_in_group": size.heads_per_group or None,
    }
    mlp: dict[str, object] = {"no_op": not size.num_neurons, "replace_with_linear": False}
    if neuron_multiple == 1:
        mlp["intermediate_size"] = size.num_neurons or None
    else:
        mlp["ffn_mult"] = 3 * size.num_neurons / (2 * document["hidden_size"]) or None
    return {"attention": attention, "ffn": mlp}
