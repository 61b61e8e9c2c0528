"""Models whose layers differ in heads and neurons.

This file is copied into every pruned checkpoint, so that transformers can load the folder without
the package that made it: it imports torch and transformers, nothing else. What to resize comes from
the config:

    nirvana = {"wiring": {...}, "stacks": [{"num_heads", "head_dim", ..., "layers": [...]}, ...]}

with, for each layer that is left, `num_heads` and `num_kv_heads` (also `cross_`), `num_neurons` (0:
only the output's bias is left; null: the sub-block was dropped) and, where the type shares
something between heads of all layers, the `kept_heads`.

The stock class is built with dense sizes, then each block is shrunk (`resize`) before the weights
are loaded:

    {"num_heads": 2, "num_kv_heads": 1, "num_neurons": 3}     head_dim 4, hidden size 16
        q_proj 16 -> 8     k_proj, v_proj 16 -> 4     o_proj 8 -> 16     up_proj 16 -> 3
    {"num_heads": 0, "num_kv_heads": 0, "num_neurons": null}
        self_attn          ConstantAttention: the bias of o_proj at each position, or zeros
        mlp                ConstantMLP without a bias: zeros
"""

import copy
import hashlib
import json
from functools import cache, partial
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers.utils import cached_file

# B batch, S sequence, H heads, D hidden size.


class ConstantOutput(nn.Module):
    """A projection with no inputs left: returns its bias at every position, or zeros."""

    def __init__(self, hidden_size, bias):
        super().__init__()
        self.hidden_size = hidden_size
        self.bias = nn.Parameter(torch.zeros(hidden_size)) if bias else None

    def forward(self, x, *args, **kwargs):
        zeros = x.new_zeros((*x.shape[:-1], self.hidden_size))
        return zeros if self.bias is None else zeros + self.bias


class ConstantMLP(nn.Module):
    """An MLP of which only the output's bias is left, or nothing."""

    def __init__(self, output_name, output):
        super().__init__()
        self._output_name = _add_constant(self, output_name, output)

    def forward(self, hidden_BSD, *args, **kwargs):
        if not self._output_name:
            return torch.zeros_like(hidden_BSD)
        return getattr(self, self._output_name)(hidden_BSD)


class ConstantAttention(nn.Module):
    """An attention without heads: its output's bias, or zeros.

    Without `output`, which then stands elsewhere, it hands its input on. The first attention of a
    kind also tells a cache how many positions were seen, with one channel of zeros: transformers
    asks that layer for the length.
    """

    def __init__(self, layer_idx, counts_positions, output_name="", output=None):
        super().__init__()
        self._output_name = _add_constant(self, output_name, output)
        self._hands_on = output is None
        self.layer_idx = layer_idx
        self.counts_positions = counts_positions

    def forward(self, hidden_states, *args, **kwargs):
        _count_positions(self, hidden_states, (*args, *kwargs.values()))
        if self._output_name:
            return getattr(self, self._output_name)(hidden_states), None
        return hidden_states if self._hands_on else torch.zeros_like(hidden_states), None


def _add_constant(module, name, output):
    """Keep a constant that has a bias, and return its name; LoRA stumbles over an empty one."""
    if output is None or output.bias is None:
        return ""
    module.add_module(name, output)
    return name


def _find_cache(arguments):
    """Return the cache among a call's arguments; transformers 5.24 gave it another name."""
    return next((a for a in arguments if hasattr(a, "get_seq_length")), None)


def _count_positions(module, hidden_BSD, arguments):
    cache = _find_cache(arguments)
    if cache is not None and module.counts_positions:
        cache = getattr(cache, "self_attention_cache", cache)
        zeros = hidden_BSD.new_zeros((hidden_BSD.shape[0], 1, hidden_BSD.shape[1], 1))
        cache.update(zeros, zeros, module.layer_idx)


def select_heads(x_BH, kept):
    """Return the heads `kept` of `x` [batch, heads, ...], by slicing: no index on any device."""
    runs = []
    for head in kept:
        if runs and head == runs[-1][1]:
            runs[-1][1] = head + 1
        else:
            runs.append([head, head + 1])
    return torch.cat([x_BH[:, start:end] for start, end in runs], dim=1)


class SharedBiasMixin:
    """An attention that takes its own heads of a position bias made for all dense heads.

    The bias goes on from layer to layer whole. `kept_heads` is empty where no head is left.
    """

    def __reduce__(self):
        return _make_shared_bias, (type(self).__mro__[2],), self.__dict__

    def forward(self, hidden_states, *args, **kwargs):
        if kwargs.get("key_value_states") is not None:  # cross-attention: zeros, sized by itself
            kwargs["position_bias"] = bias = None
        else:
            bias = kwargs.get("position_bias")
            if bias is None and self.has_relative_attention_bias:
                bias = self._make_bias(hidden_states, _find_cache((*args, *kwargs.values())))
            if bias is not None and self.kept_heads:
                kwargs["position_bias"] = select_heads(bias, self.kept_heads)
        if not self.kept_heads:
            _count_positions(self, hidden_states, (*args, *kwargs.values()))
            return torch.zeros_like(hidden_states), bias, None
        output, _, weights = super().forward(hidden_states, *args, **kwargs)
        return output, bias, weights

    def _make_bias(self, hidden_BSD, cache):
        seen, length = 0, hidden_BSD.shape[1]
        total = length
        if cache is not None:
            cache = getattr(cache, "self_attention_cache", cache)
            seen = cache.get_seq_length(self.layer_idx)
            seen = seen.clone() if isinstance(seen, torch.Tensor) else seen
            total, _ = cache.get_mask_sizes(length, self.layer_idx)
        return self.compute_bias(length, total, device=hidden_BSD.device, past_seen_tokens=seen)


class CountingConfig:
    """A view of a config with counts of its own; everything else is asked of the config."""

    def __init__(self, config, counts):
        self.__dict__.update({"_config": config, **counts})

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)


def resize(model):
    """Shrink a freshly built model in place to the layer sizes in its config. Return nothing."""
    pruning = model.config.nirvana
    for wiring, stack in zip(pruning["wiring"]["stacks"], pruning["stacks"], strict=True):
        try:
            blocks = model.base_model.get_submodule(wiring["blocks"])
        except AttributeError:  # a class with the encoder alone, or the decoder
            continue
        kinds = getattr(model.config, "layer_types", None) or [""] * len(blocks)
        if len(blocks) != len(stack["layers"]):
            raise ValueError(
                f"config.nirvana describes {len(stack['layers'])} blocks of {wiring['blocks']}, "
                f"the config makes {len(blocks)}: they are of different models"
            )
        for number, (block, layer) in enumerate(zip(blocks, stack["layers"], strict=True)):
            first = kinds.index(kinds[number]) == number
            _resize_attention(block, wiring["attention"], stack, layer, "", first)
            if wiring["cross_attention"]:
                _resize_attention(block, wiring["cross_attention"], stack, layer, "cross_", False)
            _resize_mlp(block, wiring["mlp"], layer["num_neurons"])


def _resize_attention(block, wiring, stack, layer, prefix, first):
    num_heads = layer[f"num_{prefix}heads"]
    core = block.get_submodule(wiring["core"])
    if not num_heads:
        _drop_attention(block, wiring, num_heads is not None, first)
        return
    kv_heads, head_dim = layer[f"num_{prefix}kv_heads"], stack["head_dim"]
    units = {"query": num_heads, "kv": kv_heads}
    for projection in wiring["inputs"]:
        width = head_dim * sum(units[part] for part in projection["parts"])
        _resize_linear(block, projection["path"], num_out=width)
    _resize_linear(block, wiring["output"], num_in=num_heads * head_dim)
    counts = {
        "heads": num_heads,
        "kv_heads": kv_heads,
        "groups": num_heads // kv_heads,
        "width": num_heads * head_dim,
    }
    for attribute, count in wiring["counts"]:
        setattr(core, attribute, counts[count])
    if wiring["config_counts"]:
        core.config = CountingConfig(
            core.config, {name: counts[count] for name, count in wiring["config_counts"]}
        )
    if wiring["shared_bias"]:
        _share_bias(core, range(num_heads) if prefix else layer["kept_heads"], False)
    elif wiring["per_head_inputs"] and num_heads < stack["num_heads"]:
        core.register_forward_pre_hook(
            partial(
                _select_inputs,
                names=wiring["per_head_inputs"],
                num_heads=stack["num_heads"],
                kept=layer["kept_heads"],
            ),
            with_kwargs=True,
        )


def _select_inputs(_, args, kwargs, names, num_heads, kept):
    present = (name for name in names if kwargs.get(name) is not None)
    selected = {
        name: select_heads(kwargs[name], kept)
        for name in present
        if kwargs[name].shape[1] == num_heads
    }
    return args, {**kwargs, **selected}


@cache
def _shared_bias_class(attention_class):
    return type("Pruned" + attention_class.__name__, (SharedBiasMixin, attention_class), {})


def _make_shared_bias(attention_class):
    made = _shared_bias_class(attention_class)
    return made.__new__(made)


def _share_bias(core, kept_heads, counts_positions):
    core.__class__ = _shared_bias_class(type(core))
    core.kept_heads = tuple(kept_heads)
    core.counts_positions = counts_positions


def _drop_attention(block, wiring, keep_bias, first):
    path, name = wiring["core"], wiring["output"]
    core = block.get_submodule(path)
    if wiring["shared_bias"]:
        for linear in (*(p["path"] for p in wiring["inputs"]), name):
            delattr(core, linear.removeprefix(path + "."))
        _share_bias(core, (), first)
        return
    output = _constant_like(block.get_submodule(name), keep_bias)
    layer_idx = getattr(core, "layer_idx", None)
    if name.startswith(path + "."):
        inner = name.removeprefix(path + ".")
        _replace(block, path, ConstantAttention(layer_idx, first, inner, output))
    else:
        _replace(block, path, ConstantAttention(layer_idx, first))
        _replace(block, name, output)


def _resize_mlp(block, wiring, num_neurons):
    name = wiring["output"]
    if num_neurons:
        for projection in wiring["inputs"]:
            width = num_neurons * len(projection["parts"])
            _resize_linear(block, projection["path"], num_out=width)
        _resize_linear(block, name, num_in=num_neurons)
        return
    output = _constant_like(block.get_submodule(name), keep_bias=num_neurons is not None)
    if wiring["core"]:
        inner = name.removeprefix(wiring["core"] + ".")
        _replace(block, wiring["core"], ConstantMLP(inner, output))
        return
    for projection in wiring["inputs"]:
        _replace(block, projection["path"], nn.Identity())
    _replace(block, name, output)


def _resize_linear(block, path, num_in=None, num_out=None):
    try:
        linear = block.get_submodule(path)
    except AttributeError:  # optional, and not there
        return
    transposed = not hasattr(linear, "in_features")  # transformers' Conv1D
    rows, columns = reversed(linear.weight.shape) if transposed else linear.weight.shape
    rows, columns = num_out or rows, num_in or columns
    with torch.device(linear.weight.device):
        if transposed:
            smaller = type(linear)(rows, columns)
        else:
            smaller = type(linear)(columns, rows, bias=linear.bias is not None)
    _replace(block, path, smaller.to(linear.weight.dtype))


def _constant_like(linear, keep_bias):
    transposed = not hasattr(linear, "in_features")
    hidden_size = linear.weight.shape[1 if transposed else 0]
    constant = ConstantOutput(hidden_size, keep_bias and linear.bias is not None)
    return constant.to(device=linear.weight.device, dtype=linear.weight.dtype)


def _replace(root, path, module):
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


class PrunedMixin:
    """Builds the stock class, then shrinks it to what its config says.

    `nirvana_files` are text files that go with the checkpoint (the plan), by name.
    """

    nirvana_files = {}  # noqa: RUF012

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # transformers' pipelines, among others, accept classes by name. The qualified name, which
        # unpickling goes by, stays.
        cls.__name__ = cls.__name__.removeprefix("Pruned")

    def __init__(self, config, *args, **kwargs):
        config = copy.copy(config)
        drop_layer_sizes(config)  # they are for other readers; here they would hide dense counts
        super().__init__(config, *args, **kwargs)
        resize(self)

    @classmethod
    def from_pretrained(cls, name, *args, **kwargs):
        """Load as any model; keep what goes with it for the next save."""
        loaded = super().from_pretrained(name, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        plan = _find_file(name, "plan.json", kwargs)
        if plan is not None:
            model.nirvana_files = {**model.nirvana_files, "plan.json": Path(plan).read_text()}
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as any model, with the files that a pruned checkpoint has besides; manifest last."""
        cls, passes_for = type(self), type(self).__name__
        cls.__name__ = cls.__qualname__  # what the config's `architectures` and `auto_map` get
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            cls.__name__ = passes_for
        for name, text in self.nirvana_files.items():
            (Path(save_directory) / name).write_text(text)
        write_manifest(Path(save_directory))

    def _get_static_cache_init_shape(self):
        return None  # layers differ: each allocates its cache when it sees its first keys

    @classmethod
    def _can_set_attn_implementation(cls):
        # transformers reads the source of the class's module, which is not where attention is.
        of_transformers = (c for c in cls.__mro__ if c.__module__.startswith("transformers."))
        return next(of_transformers)._can_set_attn_implementation()


def _find_file(name, file, kwargs):
    """Return the path of a checkpoint's file, in a folder or from the hub; None without one."""
    of_hub = ("cache_dir", "force_download", "local_files_only", "revision", "token")
    asked = {key: kwargs[key] for key in of_hub if kwargs.get(key) is not None}
    try:
        return cached_file(
            str(name),
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **asked,
        )
    except OSError:
        return None


def drop_layer_sizes(config):
    """Take the layer sizes that are meant for servers out of a config, in place."""
    config.per_layer_config = None
    config.__dict__.pop("allow_global_per_layer_attribute_access", None)


_LISTED = (".safetensors", ".safetensors.index.json", "config.json", ".py", "plan.json")


def write_manifest(folder, also=(), known=None):
    """Write the sha256 of every file of a checkpoint, and of the files named in `also`.

    `known` has those that need not be read again.
    """
    names = (path.name for path in folder.iterdir() if path.is_file())
    listed = sorted(name for name in names if name.endswith(_LISTED) or name in also)
    listed = [name for name in listed if name != "manifest.json"]
    known = known or {}
    files = {name: known.get(name) or _hash_file(folder / name) for name in listed}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    manifest = {"format": "nirvana-pruned-checkpoint", "versions": versions, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _hash_file(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def pruned_class(stock_class):
    """Return `stock_class` with per-layer sizes; its qualified name is `Pruned<stock name>`."""
    return type("Pruned" + stock_class.__name__, (PrunedMixin, stock_class), {})


def __getattr__(name):
    """Make the class `Pruned<stock name>` where it is asked for by name, as unpickling does."""
    stock = getattr(transformers, name[6:], None) if name.startswith("Pruned") else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pruned_class(stock)
