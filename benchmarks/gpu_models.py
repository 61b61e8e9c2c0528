"""Models of random weights in the shapes that people run, made on the device, and cut there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.plans.cost import BytesCost, CostModel, MacCost, dense_cost, plan_cost
from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import make_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a model, and the cases that it is timed in.

    Attributes:
        cases: (batch, tokens of the call, tokens in the cache before it).
    """

    name: str
    model_type: str
    hidden: int
    heads: int
    kv_heads: int
    layers: int
    neurons: int
    vocab: int
    cases: tuple[tuple[int, int, int], ...]

    @property
    def is_decoder(self) -> bool:
        """Tell whether it has a cache."""
        return self.model_type == "llama"

    @property
    def dtype(self) -> torch.dtype:
        """Return the number format that it is run in on a GPU."""
        return torch.bfloat16 if self.is_decoder else torch.float16


_ENCODER = ((1, 128, 0), (8, 128, 0), (32, 128, 0))
_DECODER = ((1, 1, 512), (16, 1, 512), (1, 512, 0))


def _bert(name: str, hidden: int, heads: int, layers: int) -> Shape:
    return Shape(
        name=name,
        model_type="bert",
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        layers=layers,
        neurons=4 * hidden,
        vocab=30522,
        cases=_ENCODER,
    )


def _llama(name: str, hidden: int, layers: int, neurons: int) -> Shape:
    return Shape(
        name=name,
        model_type="llama",
        hidden=hidden,
        heads=32,
        kv_heads=8,
        layers=layers,
        neurons=neurons,
        vocab=128256,
        cases=_DECODER,
    )


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        _bert("bert-base", 768, 12, 12),
        _bert("bert-large", 1024, 16, 24),
        _llama("llama-1b", 2048, 16, 8192),
        _llama("llama-8b", 4096, 32, 14336),
    )
}
# What a rehearsal runs in their place: the same code, in milliseconds on a CPU.
_TINY = {
    "bert": {"hidden": 64, "heads": 4, "kv_heads": 4, "layers": 2, "neurons": 128, "vocab": 1000},
    "llama": {"hidden": 64, "heads": 8, "kv_heads": 4, "layers": 2, "neurons": 128, "vocab": 1000},
}
_TINY_CASES = {"bert": ((1, 16, 0),), "llama": ((2, 1, 16), (1, 16, 0))}

# What is pruned, and the per cent of the units that go; most wanted first.
VARIANTS: tuple[tuple[str, int], ...] = (
    ("both", 50),
    ("both", 25),
    ("both", 75),
    ("heads", 50),
    ("neurons", 50),
    ("none", 0),
    ("heads", 75),
    ("neurons", 75),
    ("heads", 25),
    ("neurons", 25),
)


def find_shape(name: str, rehearse: bool) -> Shape:
    """Return a shape, or its tiny stand-in under the same name."""
    shape = SHAPES[name]
    if not rehearse:
        return shape
    kind = shape.model_type
    return Shape(name=name, model_type=kind, cases=_TINY_CASES[kind], **_TINY[kind])


@contextlib.contextmanager
def make_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Let everything that is made meanwhile be made on `device` in `dtype`: no copies, no fp32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def make_dense(shape: Shape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return the dense model of a shape, in evaluation mode; attention by torch's sdpa."""
    torch.manual_seed(0)
    with make_on(device, dtype):
        model: PreTrainedModel = _CLASSES[shape.model_type](_make_config(shape))
    return model.eval()


_CLASSES: dict[str, Any] = {"bert": BertForSequenceClassification, "llama": LlamaForCausalLM}


def _make_config(shape: Shape) -> Any:
    sizes = {
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.neurons,
        "vocab_size": shape.vocab,
        "attn_implementation": "sdpa",
    }
    if not shape.is_decoder:
        return BertConfig(**sizes, num_labels=24)
    return LlamaConfig(
        **sizes,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.hidden <= 2048,  # as in Llama 3.2 1B and 3.1 8B
    )


def make_plan(model: PreTrainedModel, kind: str, percent: int) -> PruningPlan:
    """Return a plan that takes `percent` of the heads, the neurons or both, uneven by layer.

    Every other layer keeps an eighth of its units more than its share, the rest an eighth less.
    """
    layers = [
        _cut_layer(dims, number, kind, percent)
        for number, dims in enumerate(read_model(model).dims.layers)
    ]
    return plan_for(model, layers)


def _cut_layer(dims: StackDims, number: int, kind: str, percent: int) -> LayerPlan:
    uneven = 0.0 if percent == 0 else (0.125, -0.125)[number % 2]
    share = 1 - percent / 100 + uneven
    heads = share if kind in ("heads", "both") else 1.0
    neurons = share if kind in ("neurons", "both") else 1.0
    return make_layer(
        dims,
        attention=range(max(1, round(dims.num_kv_heads * heads))),
        mlp=range(max(1, round(dims.intermediate_size * neurons))),
    )


def cut(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """Return the pruned model, made on the model's own device in its own number format."""
    with make_on(str(model.device), model.dtype):
        return repack(model, plan).eval()


def list_kept(plan: PruningPlan) -> dict[str, str]:
    """Return what each layer keeps, as text: one line of a file, not one a layer."""
    return {
        "heads": " ".join(str(layer.num_kept_heads) for layer in plan.layers),
        "neurons": " ".join(str(layer.num_kept_neurons) for layer in plan.layers),
    }


def find_kept_fractions(plan: PruningPlan, tokens: int) -> dict[str, float]:
    """Return what a plan keeps of the blocks' work and bytes, at a number of tokens."""

    def kept(cost: CostModel) -> float:
        return plan_cost(plan, cost) / dense_cost(plan.dims, cost)

    return {
        "kept_fraction_of_block_macs": kept(MacCost(tokens)),
        "kept_fraction_of_block_bytes": kept(BytesCost()),
    }


def count_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a model's parameters; tied ones once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
