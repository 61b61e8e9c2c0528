"""Models whose layers differ in heads and neurons.

This file is copied into every pruned checkpoint, so that transformers can load the folder without
the package that made it: it imports torch and transformers' base classes, nothing else.
What to resize comes from the config: `nirvana = {"wiring": {...}, "layers": [{...}, ...]}`, where a
layer has `num_heads` and `num_neurons` (0: only the output bias is left; null: sub-block dropped).
"""

import torch
from torch import nn


class ConstantOutput(nn.Module):
    """A projection with no inputs left: returns its bias at every position, or zeros."""

    def __init__(self, hidden_size, bias):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden_size)) if bias else None

    def forward(self, hidden_BSD, *args, **kwargs):
        zeros_BSD = torch.zeros_like(hidden_BSD)
        return zeros_BSD if self.bias is None else zeros_BSD + self.bias


class PassThrough(nn.Module):
    """Stands where nothing is computed any more: returns its input and no attention weights."""

    def forward(self, hidden_BSD, *args, **kwargs):
        return hidden_BSD, None


class ConstantAttention(nn.Module):
    """An attention core with its output projection, of which only the bias is left."""

    def __init__(self, output_name, output):
        super().__init__()
        self.add_module(output_name, output)
        self._output_name = output_name

    def forward(self, hidden_BSD, *args, **kwargs):
        return getattr(self, self._output_name)(hidden_BSD), None


def resize(model):
    """Shrink a freshly built model in place to the layer sizes in its config. Return nothing."""
    pruning = model.config.nirvana
    wiring = pruning["wiring"]
    blocks = model.base_model.get_submodule(wiring["blocks"])
    for block, layer in zip(blocks, pruning["layers"], strict=True):
        _resize_attention(block, wiring, layer["num_heads"], pruning["head_dim"])
        _resize_mlp(block, wiring, layer["num_neurons"])


def _resize_attention(block, wiring, num_heads, head_dim):
    core = block.get_submodule(wiring["attention_core"])
    if not num_heads:
        _drop_attention(block, wiring, keep_bias=num_heads is not None)
        return
    width = num_heads * head_dim
    for name in (wiring["query"], wiring["key"], wiring["value"]):
        _replace(block, name, _linear_like(block.get_submodule(name), num_out=width))
    name = wiring["attention_output"]
    _replace(block, name, _linear_like(block.get_submodule(name), num_in=width))
    for attribute in wiring["head_count"]:
        setattr(core, attribute, num_heads)
    for attribute in wiring["head_width"]:
        setattr(core, attribute, width)


def _drop_attention(block, wiring, keep_bias):
    core, name = wiring["attention_core"], wiring["attention_output"]
    output = _constant_like(block.get_submodule(name), keep_bias)
    if name.startswith(core + "."):
        _replace(block, core, ConstantAttention(name.removeprefix(core + "."), output))
    else:
        _replace(block, core, PassThrough())
        _replace(block, name, output)


def _resize_mlp(block, wiring, num_neurons):
    name = wiring["mlp_output"]
    output = block.get_submodule(name)
    for entry in wiring["mlp_inputs"]:
        linear = block.get_submodule(entry)
        _replace(
            block,
            entry,
            _linear_like(linear, num_out=num_neurons) if num_neurons else nn.Identity(),
        )
    if num_neurons:
        _replace(block, name, _linear_like(output, num_in=num_neurons))
    else:
        # The activation now sees hidden states, whose width is the output's: its shape counts.
        _replace(block, name, _constant_like(output, keep_bias=num_neurons is not None))


def _linear_like(linear, num_in=None, num_out=None):
    return nn.Linear(
        linear.in_features if num_in is None else num_in,
        linear.out_features if num_out is None else num_out,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )


def _constant_like(linear, keep_bias):
    constant = ConstantOutput(linear.out_features, keep_bias and linear.bias is not None)
    return constant.to(device=linear.weight.device, dtype=linear.weight.dtype)


def _replace(root, path, module):
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


class PrunedMixin:
    """Builds the stock class, then shrinks it to what its config says."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        resize(self)


def pruned_class(stock_class):
    """Return `stock_class` with per-layer sizes, under the name `Pruned<stock name>`."""
    return type("Pruned" + stock_class.__name__, (PrunedMixin, stock_class), {})
