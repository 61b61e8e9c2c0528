"""Loaded encoder-decoders against the torch models that they were traced from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import nirvana_deploy
from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from nirvana_deploy.serving.loaded.generating_model import CACHE_NAME
from pruning.cutting.repack import plan_for, repack
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan
from tests.nirvana_deploy.serving.loaded.export_file import describe_export
from tests.pruning.tiny_models import make_tiny

IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def export(folder: Path, model: PreTrainedModel) -> tuple[PreTrainedModel, Any]:
    """Trace a model; return it, and what is loaded of its folder."""
    folder.mkdir()
    for part in list_parts(model, ExportConfig()):
        write_graph(trace_graph(part, 18), folder / f"{part.name}.onnx")
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("auto_map", None)  # as an export does
    (folder / "config.json").write_text(json.dumps(config))
    describe_export(folder)
    return model, nirvana_deploy.load(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Any]:
    model = make_tiny("bart", "eager", encoder_layers=1, decoder_layers=1)
    return export(tmp_path_factory.mktemp("bart") / "export", model.eval())


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Any]:
    """Other heads in each attention of the decoder, self and cross; one layer with no own."""
    model = make_tiny("t5", "eager", num_layers=2, num_decoder_layers=2)
    decoder = (
        LayerPlan(kept_heads=None, kept_neurons=(0, 5, 7), kept_cross_heads=(0, 2, 3)),
        LayerPlan(kept_heads=(1, 3), kept_neurons=None, kept_cross_heads=(2,)),
    )
    encoder = LayerPlan(kept_heads=(0, 1, 3), kept_neurons=tuple(range(9)))
    model = repack(model, plan_for(model, (encoder, encoder, *decoder))).eval()
    return export(tmp_path_factory.mktemp("t5") / "export", model)


@pytest.fixture(params=["dense", "pruned"])
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Any]:
    found: tuple[PreTrainedModel, Any] = request.getfixturevalue(request.param)
    return found


def test_its_logits_are_torchs_at_once_and_step_by_step(pair: tuple[PreTrainedModel, Any]) -> None:
    model, loaded = pair
    written = torch.tensor([[1, 20, 21, 22], [1, 30, 31, 32]])
    with torch.no_grad():
        expected = model(**INPUTS, decoder_input_ids=written).logits
    torch.testing.assert_close(loaded(**INPUTS, decoder_input_ids=written).logits, expected)
    first = loaded(**INPUTS, decoder_input_ids=written[:, :2])
    cache = {CACHE_NAME: first[CACHE_NAME]}
    rest = loaded(**INPUTS, decoder_input_ids=written[:, 2:], **cache)
    torch.testing.assert_close(rest.logits, expected[:, 2:])
    # Without a mask all tokens count; hidden states that are given are not made again.
    hidden = loaded.encoder(IDS[:1])
    came = loaded(encoder_outputs=hidden, decoder_input_ids=written[:1]).logits
    torch.testing.assert_close(came, expected[:1])


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}, {"use_cache": False}],
    ids=["greedy", "beams", "sampling", "no cache"],
)
def test_it_generates_what_transformers_generates(
    pair: tuple[PreTrainedModel, Any], settings: dict[str, Any]
) -> None:
    made = []
    for each in pair:
        torch.manual_seed(0)
        made.append(each.generate(**INPUTS, max_new_tokens=12, **settings).tolist())
    assert made[1] == made[0]


def test_the_caches_have_a_layer_for_each_attention_that_is_left(
    pruned: tuple[PreTrainedModel, Any],
) -> None:
    _, loaded = pruned
    outputs = loaded(**INPUTS, decoder_input_ids=torch.ones(2, 1).long())
    cache = outputs[CACHE_NAME]
    assert [layer.keys.shape[1] for layer in cache.self_attention_cache.layers] == [2]
    assert [layer.keys.shape[1] for layer in cache.cross_attention_cache.layers] == [3, 1]
    assert {layer.keys.shape[2] for layer in cache.cross_attention_cache.layers} == {IDS.shape[1]}


def test_what_the_graphs_cannot_do_is_refused(dense: tuple[PreTrainedModel, Any]) -> None:
    _, loaded = dense
    with pytest.raises(NirvanaError, match=r"needs decoder_input_ids, got none\. Begin .* token 1"):
        loaded(**INPUTS)
    mask = torch.tensor([[1, 1], [0, 1]])
    with pytest.raises(NirvanaError, match="decoder_attention_mask masks tokens"):
        loaded(**INPUTS, decoder_input_ids=torch.ones(2, 2).long(), decoder_attention_mask=mask)
    with pytest.raises(NirvanaError, match="encoder needs input_ids, got none"):
        loaded(decoder_input_ids=torch.ones(2, 2).long())
    with pytest.raises(NirvanaError, match=r"runs on the CPU, .* cannot go to cuda:0"):
        loaded.to("cuda:0")
    assert loaded.to("cpu") is loaded
    with pytest.raises(NirvanaError, match="holds no weights to save"):
        loaded.save_pretrained("anywhere")
