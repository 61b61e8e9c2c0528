"""A refusal says what of the architecture is in the way, never what torch or Python said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from nirvana_deploy.cli import main
from pruning.cutting.wiring_inference import find_or_infer_wiring, prove
from pruning.errors import NirvanaError
from pruning.wirings.obstacles import explain_failure
from tests.pruning.tiny_models import _BART, _GQA, _T5, SIZES, VOCAB

_N = {"vocab_size": VOCAB}
_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 48, "n_positions": 80, **_N}
_VIT = {**{k: SIZES[k] for k in list(SIZES)[:4]}, "image_size": 16, "patch_size": 4}
_SOUND = {
    **SIZES,
    "num_feat_extract_layers": 2,
    "conv_dim": (16, 16),
    "conv_kernel": (3, 3),
    "conv_stride": (2, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_TWO = {"text_config": SIZES, "vision_config": _VIT}
_LED = {k: v for k, v in _BART.items() if k != "max_position_embeddings"}
_PLAIN_MLP = r"no record names the linear maps of the MLP \(a plain one, without a gate\)"

# By class: what the model is made of, and what the refusal says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # Positions.
    "MPNetModel": (SIZES, r"one relative position bias of all heads \(`encoder.relative_att"),
    "LayoutLMv3Model": (
        {**SIZES, "coordinate_size": 5, "shape_size": 6, "input_size": 16, "patch_size": 4},
        r"one relative position bias of all heads \(`encoder.rel_pos_bias`, ",
    ),
    "BloomForCausalLM": ({"hidden_size": 32, "n_head": 4, "n_layer": 2, **_N}, "ALiBi slopes"),
    "MptForCausalLM": ({"d_model": 32, "n_heads": 4, "n_layers": 2, **_N}, "ALiBi slopes"),
    "UMT5ForConditionalGeneration": (_T5, "every layer has a position bias of its own"),
    # What heads share, and sizes written down.
    "Olmo2ForCausalLM": (SIZES, r"the norms `self_attn.q_norm`, `self_attn.k_norm` run over all"),
    "XGLMForCausalLM": (
        {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48, **_N},
        r"XGLMAttention writes the dense width of all heads \(`embed_dim`\)",
    ),
    "GPTBigCodeForCausalLM": (_GPT, r"GPTBigCodeAttention writes the dense width .*`embed_dim`"),
    "LEDForConditionalGeneration": (
        {**_LED, "attention_window": 4, "max_encoder_position_embeddings": 64},
        r"LED\w+ writes the dense width of all heads \(`embed_dim`\)",
    ),
    "GPTNeoForCausalLM": (
        {
            "hidden_size": 32,
            "num_heads": 4,
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            **_N,
        },
        "GPTNeoSelfAttention keeps the number of its layer under another name",
    ),
    "EsmModel": (
        {**SIZES, "position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 3},
        "tensors of other shapes .*`contact_head.regression.weight`: they depend on what is cut",
    ),
    "LongT5ForConditionalGeneration": (_T5, r"`LongT5LocalAttention.forward` does not run"),
    "LongformerModel": (
        {**SIZES, "attention_window": 4},
        r"beside an attention and an MLP like those of bert .*attention.self.query_global",
    ),
    # Inputs and towers.
    "WhisperForConditionalGeneration": (
        {**_BART, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40},
        r"reads audio features \(`input_features`\).*no such inputs to probe it with",
    ),
    "Wav2Vec2Model": (_SOUND, r"reads audio \(`input_values`\)"),
    "HubertModel": (_SOUND, r"reads audio \(`input_values`\)"),
    "CLIPModel": (
        _TWO,
        r"text \(clip_text_model\), vision .*save `model.text_model` to",
    ),
    "SiglipModel": (_TWO, r"joins 2 towers, text \(siglip_text_model\), vision"),
    "Gemma3ForConditionalGeneration": (
        {"text_config": _GQA, "vision_config": _VIT},
        r"text \(gemma3_text\), vision .*gemma3_text can be pruned alone: put "
        r"`model.model.language_model` and `model.lm_head` into an AutoModelForCausalLM",
    ),
    # Models that do not run on what a proof draws, or not the same way twice.
    "MusicgenForCausalLM": (
        {**SIZES, "ffn_dim": 48, "num_codebooks": 4, "pad_token_id": 0},
        r"MusicgenForCausalLM itself, with nothing cut, does not run on .*\(a padded batch of",
    ),
    "BrosModel": (
        SIZES,
        r"BrosModel itself, with nothing cut, does not run .* `BrosModel.forward`",
    ),
    "ViTMAEModel": (_VIT, "ViTMAEModel gives other outputs each time for one input"),
    # Blocks that differ, and a value for each head.
    "RecurrentGemmaForCausalLM": (
        {**_GQA, "lru_width": 48, "attention_window_size": 8},
        r"its blocks are not alike.* temporal_block.k_proj, .* and 1 more are in block 0 or in",
    ),
    "GraniteSWAForCausalLM": (
        _GQA,
        r"one value for each head \(self_attn.sinks\), which no record",
    ),
    "OpenAIGPTLMHeadModel": (_GPT, "Block has no `attn.head_dim`, which the wiring names"),
    # Experts or none, and compressed keys.
    "DeepseekV3ForCausalLM": (
        {
            **SIZES,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 3,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
        r"multi-head latent attention: .*kv_a_proj_with_mqa",
    ),
    "MixtralForCausalLM": ({**_GQA, "num_local_experts": 4}, "mixture-of-experts"),
    # Names that no record has.
    "PhiForCausalLM": (SIZES, "linear maps of the attention in PhiDecoderLayer .*self_attn.dense"),
    "GPTJForCausalLM": ({**_GPT, "rotary_dim": 4}, _PLAIN_MLP),
    "CodeGenForCausalLM": ({**_GPT, "rotary_dim": 4}, "`attn.qkv_proj` fuses queries, keys and v"),
    "ArceeForCausalLM": (_GQA, _PLAIN_MLP),
    "ApertusForCausalLM": (_GQA, _PLAIN_MLP),
    "NemotronForCausalLM": (_GQA, _PLAIN_MLP + r" in NemotronDecoderLayer \(mlp.up_proj"),
    "DebertaModel": (SIZES, "DisentangledSelfAttention writes the dense width"),
    "ModernBertDecoderForCausalLM": ({**SIZES, "pad_token_id": 0}, r"attention in .*attn.Wo"),
    "DINOv3ViTModel": (_VIT, _PLAIN_MLP),
    "XLNetModel": (
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, **_N},
        r"weights of XLNetLayer are parameters of their own .*rel_attn.q",
    ),
    "FNetModel": ({**SIZES, "pad_token_id": 0}, "FNetLayer has no attention"),
    "ConvNextModel": ({"hidden_sizes": [8] * 4, "depths": [1] * 4}, "no record|no list of equal"),
}
_RAW = re.compile(
    r"(Type|Runtime|Attribute|Index|Key|Value)Error|object has no attribute|size of tensor|"
    r"invalid for input|must be integers|like none known|merge or remove|expected scalar"
)


def build(name: str) -> PreTrainedModel:
    architecture = getattr(transformers, name)
    torch.manual_seed(0)
    return architecture(architecture.config_class(**REFUSED[name][0])).eval()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_said_of_the_architecture(name: str) -> None:
    with pytest.raises(NirvanaError, match=REFUSED[name][1]) as caught:
        find_or_infer_wiring(build(name))
    assert not _RAW.search(str(caught.value).split(" Known: ")[0]), caught.value


@pytest.mark.parametrize(
    ("name", "inner", "reason"),
    [
        (
            "EncoderDecoderModel",
            ("encoder", "decoder"),
            r"bert can be pruned alone: save `model.encoder` .* save `model.decoder`",
        ),
        ("VisionEncoderDecoderModel", ("vit", "decoder"), r"encoder \(vit\), decoder \(bert\)"),
        ("Blip2ForConditionalGeneration", (), r"joins 3 towers, (?!.*qformer has no record)"),
    ],
)
def test_models_of_several_towers_say_which_can_be_pruned_alone(
    name: str, inner: tuple[str, ...], reason: str
) -> None:
    architecture = getattr(transformers, name)
    bert = transformers.BertConfig(**SIZES)
    if inner:
        first = transformers.ViTConfig(**_VIT) if "vit" in inner else bert
        config = architecture.config_class.from_encoder_decoder_configs(first, bert)
    else:
        text = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32}
        text |= {"num_hidden_layers": 2, "num_attention_heads": 4, **_N}
        config = transformers.Blip2Config(
            vision_config=_VIT,
            qformer_config={**SIZES, "encoder_hidden_size": 32},
            text_config=text,
            num_query_tokens=4,
            image_token_index=VOCAB - 1,
        )
    with pytest.raises(NirvanaError, match=reason) as caught:
        find_or_infer_wiring(architecture(config).eval())
    assert not _RAW.search(str(caught.value).split(" Known: ")[0]), caught.value


def test_the_reason_for_a_head_that_needs_other_inputs_is_not_a_failed_proof() -> None:
    model = transformers.BertForMultipleChoice(transformers.BertConfig(**SIZES)).eval()
    reason = r"BertForMultipleChoice itself, .* does not run on .*prove that\.$"
    with pytest.raises(NirvanaError, match=reason) as caught:
        prove(model)
    assert not _RAW.search(str(caught.value))


@pytest.mark.parametrize("name", ["PegasusForCausalLM", "WhisperForCausalLM"])
def test_the_decoder_of_an_encoder_decoder_is_inferred(name: str) -> None:
    """Its config numbers the layers of both stacks, and `num_hidden_layers` is the encoder's."""
    architecture = getattr(transformers, name)
    config = architecture.config_class(**{**_BART, "encoder_layers": 4})
    assert find_or_infer_wiring(architecture(config).eval()).inferred_from == "opt"


def test_the_text_model_of_two_towers_is_pruned_as_the_refusal_says(tmp_path: Path) -> None:
    """Without its head, it could not be scored."""
    model = build("Gemma3ForConditionalGeneration")
    text = transformers.AutoModelForCausalLM.from_config(model.config.text_config)
    text.model, text.lm_head = model.model.language_model, model.lm_head
    text.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert find_or_infer_wiring(loaded).model_type == "gemma3_text"


def test_a_type_with_experts_is_judged_by_its_modules() -> None:
    """Llama 4 and Qwen 3 name numbers of experts in the config of a dense model, too."""
    config = transformers.Llama4TextConfig(
        **_GQA, intermediate_size_mlp=48, moe_layers=[], num_local_experts=4
    )
    assert find_or_infer_wiring(transformers.Llama4ForCausalLM(config).eval())


def test_the_raw_error_is_shown_under_debug_only(tmp_path: Path, capsys) -> None:
    config = {
        "architectures": ["LongT5ForConditionalGeneration"],
        "model_type": "longt5",
        **{k: v for k, v in _T5.items() if k != "eos_token_id"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path)]) == 1
    plain = capsys.readouterr().err
    assert "LongT5LocalAttention.forward" in plain
    assert not _RAW.search(plain)
    assert main(["--debug", "inspect", str(tmp_path)]) == 1
    assert "RuntimeError" in capsys.readouterr().err


def test_other_results_without_an_error_are_said_in_words() -> None:
    said = explain_failure("a dropped block", "outputs, eager", None)
    assert said.startswith("with a block taken out, the smaller model does not compute what the")
