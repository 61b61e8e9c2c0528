import onnx_ir as ir
import pytest

from exporters.passes.known_forms import apply_form
from pruning.errors import NirvanaError
from tests.exporters.passes.formed import assert_same_as_portable, count, form, load, read_heads

ENCODERS = [("bert", "uneven"), ("distilbert", "dropping")]
DECODERS = [("llama", "uneven"), ("mistral", None), ("gpt2", "uneven")]
NAMES = {"ids": lambda value: str(value or "dense")}


@pytest.mark.parametrize(("name", "plan"), ENCODERS + DECODERS, **NAMES)
def test_the_portable_form_has_no_litter(name: str, plan: str | None) -> None:
    model, outcomes = form(name, plan, "portable")
    assert not outcomes["CleanGraph"].refusals
    assert count(model, "Identity") == count(model, "Constant") == 0
    again = apply_form(model, "portable")
    assert [outcome.num_changed for outcome in again] == [0]


@pytest.mark.parametrize("wanted", ["ort-cpu", "ort-cuda"])
@pytest.mark.parametrize(("name", "plan"), ENCODERS, **NAMES)
def test_a_pruned_encoder_is_fused_with_the_counts_of_each_layer(name, plan, wanted) -> None:
    model, outcomes = form(name, plan, wanted)
    heads = {"uneven": [3, 1, 4], "dropping": [1]}[plan]
    assert read_heads(model, "MultiHeadAttention") == heads
    assert outcomes["FuseMultiHeadAttention"].refusals == ()
    assert count(model, "Softmax") == 0
    assert count(model, "BiasGelu") == outcomes["FuseBiasGelu"].num_changed > 0
    assert (count(model, "SkipLayerNormalization") > 0) == (wanted == "ort-cuda")
    assert_same_as_portable(model, name, plan)


@pytest.mark.parametrize(("name", "plan"), DECODERS, **NAMES)
def test_a_decoder_is_fused_with_its_cache(name: str, plan: str | None) -> None:
    model, outcomes = form(name, plan, "ort-cpu")
    expected = {
        ("llama", "uneven"): ([4, 1, 3], [2, 1, 3]),
        ("mistral", None): ([6, 6, 6], [3, 3, 3]),
        ("gpt2", "uneven"): ([3, 1, 4], [3, 1, 4]),
    }[name, plan]
    assert read_heads(model, "GroupQueryAttention") == expected[0]
    assert read_heads(model, "GroupQueryAttention", "kv_num_heads") == expected[1]
    assert outcomes["FuseGroupQueryAttention"].refusals == ()
    assert count(model, "Softmax") == 0
    if name != "gpt2":
        assert count(model, "RotaryEmbedding") == len(expected[0])
        assert outcomes["MergeProjections"].num_changed == len(expected[0])
    assert_same_as_portable(model, name, plan)


def test_a_window_stays_in_the_mask() -> None:
    windowed, _ = form("mistral", None, "ort-cpu")
    plain, _ = form("llama", "uneven", "ort-cpu")
    assert count(windowed, "LessOrEqual") > 0
    assert count(plain, "LessOrEqual") == 0
    longer_than_the_window = ((2, 11, 0), (2, 1, 14))
    assert_same_as_portable(windowed, "mistral", None, longer_than_the_window)


def test_the_prefill_graph_of_a_split_decoder_is_fused_too() -> None:
    model = load("llama", "dropping", "split")
    apply_form(model, "ort-cpu")
    assert read_heads(model, "GroupQueryAttention", "kv_num_heads") == [1]
    assert_same_as_portable(model, "llama", "dropping", graphs="split")


def test_a_graph_from_the_trace_is_fused_as_one_from_a_file() -> None:
    """Tensors of a trace have no names of their own; only their values have."""
    model = load("llama", "uneven")
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(value.const_value.numpy())
    outcomes = {outcome.name: outcome for outcome in apply_form(model, "ort-cpu")}
    assert outcomes["FuseGroupQueryAttention"].refusals == ()
    assert count(model, "Softmax") == 0


def test_a_fused_node_says_which_module_it_is_of() -> None:
    model, _ = form("bert", "uneven", "ort-cpu")
    (first, *_) = [n for n in model.graph if n.op_type == "MultiHeadAttention"]
    assert "layer.0" in first.metadata_props["pkg.torch.onnx.name_scopes"]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(NirvanaError, match=r"form must be one of portable, ort-cpu.*'ort-npu'"):
        apply_form(load("bert", "uneven"), "ort-npu")  # type: ignore[arg-type]
