import pytest
import torch
import transformers
from transformers import AutoConfig

from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from pruning.errors import NirvanaError
from tests.exporters.trace.traced import Traced, assert_same_as_torch
from tests.pruning.tiny_models import TINY, VOCAB

BY_TOKEN = ("batch", "sequence")
# By class: what its graph returns.
HEADS = {
    "BertModel": {"last_hidden_state": (*BY_TOKEN, 32)},
    "BertForMaskedLM": {"logits": (*BY_TOKEN, VOCAB)},
    "BertForTokenClassification": {"logits": (*BY_TOKEN, 2)},
    "BertForQuestionAnswering": {"start_logits": BY_TOKEN, "end_logits": BY_TOKEN},
    "ViTModel": {"last_hidden_state": ("batch", 17, 32)},
    "LlamaForSequenceClassification": {"logits": ("batch", 2)},
    "T5EncoderModel": {"last_hidden_state": (*BY_TOKEN, 32)},
}


def make_head(name: str) -> transformers.PreTrainedModel:
    model_class = getattr(transformers, name)
    tiny = TINY[model_class.config_class.model_type]
    short = {"num_layers": 1} if tiny.model_type == "t5" else {"num_hidden_layers": 1}
    config = AutoConfig.for_model(tiny.model_type, **{**tiny.config, "num_labels": 2, **short})
    torch.manual_seed(0)
    return model_class._from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", HEADS)
def test_each_head_has_its_outputs_and_is_torch(name: str, tmp_path) -> None:
    (part,) = list_parts(make_head(name), ExportConfig())
    assert {tensor.name: tensor.shape for tensor in part.outputs} == HEADS[name]
    write_graph(trace_graph(part, 18), tmp_path / "model.onnx")
    assert_same_as_torch(Traced(part, tmp_path / "model.onnx"))


def test_a_head_of_another_kind_is_refused() -> None:
    model = make_head("BertModel")
    model.forward = lambda input_ids, attention_mask=None: {"seq_relationship": input_ids}
    with pytest.raises(NirvanaError, match="returns seq_relationship; expected logits"):
        list_parts(model, ExportConfig())
