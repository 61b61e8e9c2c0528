"""Heads that are not exported are refused in words, before their weights are read."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    DetrConfig,
    DetrForObjectDetection,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LayoutLMConfig,
    LayoutLMModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    LukeConfig,
    LukeForEntityClassification,
    MambaConfig,
    MambaForCausalLM,
    MT5Config,
    MT5EncoderModel,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5EncoderModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint
from exporters.trace.list_parts import list_parts
from exporters.trace.load_source import load_source, refuse_head
from nirvana_deploy.cli import main
from pruning.errors import NirvanaError

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
BERT = BertConfig(**SMALL)


@pytest.mark.parametrize(
    ("stock", "config", "reason"),
    [
        (BertForNextSentencePrediction, BERT, "next sentence prediction"),
        (BertForMultipleChoice, BERT, "several choices"),
        (BertForPreTraining, BERT, "heads of pretraining"),
        (
            EncoderDecoderModel,
            EncoderDecoderConfig.from_encoder_decoder_configs(BERT, BERT),
            "joins two models",
        ),
        (WhisperForConditionalGeneration, WhisperConfig(), "takes input_features instead of"),
        (CLIPModel, CLIPConfig(), "joins several models"),
        (CLIPTextModelWithProjection, CLIPTextConfig(), "projects what it reads"),
        (Blip2ForConditionalGeneration, Blip2Config(), "joins several models"),
        (
            VisionEncoderDecoderModel,
            VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), BERT),
            "joins two models",
        ),
        (
            VisionTextDualEncoderModel,
            VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(), BERT),
            "joins several models",
        ),
        (LayoutLMModel, LayoutLMConfig(**SMALL), "where words stand on a page"),
        (ResNetModel, ResNetConfig(), "sets no image_size"),
        (DetrForObjectDetection, DetrConfig(), "gives boxes besides logits"),
    ],
)
def test_the_class_and_what_is_exported_are_named(stock, config, reason: str) -> None:
    message = rf"it is a {stock.__name__}, which is not exported: .*{reason}.*Exported are text"
    with pytest.raises(NirvanaError, match=message.replace("it is", "m is")):
        refuse_head(stock, config, "m")


BART = BartConfig(
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    vocab_size=99,
)


@pytest.mark.parametrize(
    ("stock", "config", "reason"),
    [
        (
            MambaForCausalLM,
            MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=99, state_size=4),
            "does not run as a decoder with a cache of keys and values",
        ),
        (
            LukeForEntityClassification,
            LukeConfig(**SMALL, entity_vocab_size=9, entity_emb_size=8),
            "does not run on input_ids, attention_mask alone",
        ),
        (BartForSequenceClassification, BART, "where tokens or pixels are drawn at random"),
    ],
)
def test_a_class_that_does_not_run_is_refused_without_an_error_of_python(
    stock, config, reason: str
) -> None:
    with pytest.raises(
        NirvanaError, match=rf"{stock.__name__} is not exported: .*{reason}"
    ) as told:
        list_parts(stock(config).eval(), ExportConfig())
    assert "Error" not in str(told.value) and "NoneType" not in str(told.value)


def test_what_a_head_gives_besides_is_not_lost() -> None:
    class Boxed(BertModel):
        def forward(self, input_ids=None, attention_mask=None):
            found = super().forward(input_ids=input_ids, attention_mask=attention_mask)
            found["pred_boxes"] = found.last_hidden_state
            return found

    with pytest.raises(NirvanaError, match=r"its head gives pred_boxes beside last_hidden_state"):
        list_parts(Boxed(BERT).eval(), ExportConfig())


def test_the_refusal_comes_before_the_weights_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BertConfig(**SMALL)
    config.architectures = ["BertForNextSentencePrediction"]
    config.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"these are no weights")
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "out")]) == 1
    assert "is a BertForNextSentencePrediction, which is not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_classifies_needs_a_padding_token(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, num_key_value_heads=2, num_labels=3, pad_token_id=None)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    message = r"sets no pad_token_id, by which LlamaForSequenceClassification .* in config\.json"
    with pytest.raises(NirvanaError, match=message):
        load_source(tmp_path)


@pytest.mark.parametrize(
    ("stock", "config"), [(T5EncoderModel, T5Config), (MT5EncoderModel, MT5Config)]
)
def test_the_encoder_of_t5_exports(stock, config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=99)
    stock(small).save_pretrained(tmp_path / "m")
    told = export_checkpoint(tmp_path / "m", tmp_path / "onnx", ExportConfig())
    assert told["task"] == "feature-extraction"
    assert [o["name"] for o in told["graphs"]["model"]["outputs"]] == ["last_hidden_state"]
