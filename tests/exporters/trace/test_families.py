"""Every wired type, pruned: different counts, sub-blocks that are gone, a block less."""

import pytest

from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from tests.exporters.trace.traced import (
    assert_captured_as_torch,
    assert_same_as_torch,
    prune_mixed,
    trace_tiny,
)
from tests.pruning.tiny_models import TINY, make_tiny

# A fourth block, which is dropped, where the config's lists do not say that there are three.
CHANGES = {
    name: {"num_hidden_layers": 4}
    for name, tiny in TINY.items()
    if "num_hidden_layers" in tiny.config and "layer_types" not in tiny.config
} | {"bart": {"encoder_layers": 4, "decoder_layers": 4}}
# Their layers compute what those of another one here do, by the same operators.
SIBLINGS = {
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "electra": "bert",
    "deberta-v2-own-position-keys": "deberta-v2",
    "llama-biased-tied": "llama",
    "qwen2": "mistral",
    "gpt_neox-serial": "gpt_neox",
    "opt-post-norm": "opt",
    "falcon-multi-query": "falcon-grouped",
    "t5-gated": "t5",
    "mt5": "t5",
    "mbart": "bart",
    "marian": "bart",
}
TRACED = tuple(name for name in TINY if name not in {*SIBLINGS, "llama"})  # test_decoder_parts
FREE = {"batch", "sequence", "past_sequence", "total_sequence", "encoder_sequence"}


@pytest.mark.parametrize("name", TRACED)
def test_the_graphs_of_a_pruned_model_are_torch(name: str, tmp_path) -> None:
    for traced in trace_tiny(tmp_path, name, prune_mixed, **CHANGES.get(name, {})).values():
        assert_same_as_torch(traced)


@pytest.mark.parametrize("name", SIBLINGS)
def test_the_sibling_of_a_traced_model_is_captured_as_torch(name: str) -> None:
    assert SIBLINGS[name] in {*TRACED, "llama"}
    model = prune_mixed(make_tiny(name, "eager", **CHANGES.get(name, {})))
    for part in list_parts(model, ExportConfig()):
        assert_captured_as_torch(part)


@pytest.mark.parametrize("name", TINY)
def test_graphs_are_named_as_optimums(name: str) -> None:
    tiny, model = TINY[name], make_tiny(name, "eager")
    parts = {part.name: part for part in list_parts(model, ExportConfig())}
    if model.config.is_encoder_decoder:
        assert list(parts) == ["encoder_model", "decoder_model", "decoder_with_past_model"]
        cached = parts["decoder_with_past_model"]
        assert [i.name for i in cached.inputs[:2]] == ["encoder_attention_mask", "input_ids"]
        names = [f"2.{kind}.{what}" for kind in ("decoder", "encoder") for what in ("key", "value")]
        assert {f"past_key_values.{n}" for n in names} <= {i.name for i in cached.inputs}
        assert {f"present.{n}" for n in names[:2]} <= {o.name for o in cached.outputs}
        assert not any("encoder" in o.name.split(".") for o in cached.outputs)
        assert {f"present.{n}" for n in names} <= {o.name for o in parts["decoder_model"].outputs}
    else:
        assert list(parts) == ["model"]
    first = parts.get("model", parts.get("encoder_model"))
    if tiny.model_type == "vit":
        assert [(i.name, i.shape) for i in first.inputs] == [("pixel_values", ("batch", 3, 16, 16))]
    else:
        assert [i.name for i in first.inputs[:2]] == ["input_ids", "attention_mask"]
    symbols = {d for p in parts.values() for t in (*p.inputs, *p.outputs) for d in t.shape}
    assert {d for d in symbols if isinstance(d, str)} <= FREE


def test_an_input_that_the_model_does_not_read_is_none_of_the_graph() -> None:
    def names(name: str, **changes) -> list[str]:
        (part,) = list_parts(make_tiny(name, "eager", **changes), ExportConfig())
        return [tensor.name for tensor in part.inputs if "past" not in tensor.name]

    assert names("falcon-alibi") == ["input_ids", "attention_mask"]  # positions are in its mask
    assert names("falcon-grouped") == ["input_ids", "attention_mask", "position_ids"]
    assert names("roberta", type_vocab_size=1) == ["input_ids", "attention_mask"]
    assert names("roberta") == ["input_ids", "attention_mask", "token_type_ids"]
