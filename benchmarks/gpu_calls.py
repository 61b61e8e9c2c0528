"""Ways to run a torch model that can be timed: its own forward, compiled, as a CUDA graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Step = Callable[[], torch.Tensor]
_WARM_RUNS = 3
# Of the norm. Kernels chosen anew round otherwise, in bf16 by per cents after 32 layers; a graph
# that reads stale or foreign memory is off by 100 %.
_MAX_ERROR = 0.1


@dataclass(slots=True)
class DeviceCall:
    """Runs a step to the end of its work on the device, and notes how long that took there.

    Attributes:
        device_ms: one entry a call: between two events in the stream, one before and one after the
            step. Where the host is slower than the device, its gaps are within. Empty on a CPU.
    """

    step: Callable[[], Any]
    device_ms: list[float] = field(default_factory=list)
    _events: Any = field(default_factory=lambda: _make_events())

    def __call__(self) -> dict[str, Any]:
        """Run once; see `Runner.bind`."""
        if not self._events:
            self.step()
            return {}
        start, end = self._events
        start.record()
        self.step()
        end.record()
        end.synchronize()
        self.device_ms.append(start.elapsed_time(end))
        return {}


def _make_events() -> tuple[Any, ...]:
    """Return two events, none without a GPU: here, because even to ask for one takes time."""
    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))


class FullCache:
    """A key-value cache that is full but for the tokens of this call, in buffers of fixed size.

    Layers may differ in KV heads. A step writes its keys and values into the last places and
    attends to all, as the last step of a generation does; the next call does the same again.
    """

    def __init__(self, past: int) -> None:
        self._past = past
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put [batch, heads, tokens, width] behind the past; return past and present together."""
        if layer_idx not in self._buffers:
            self._buffers[layer_idx] = (self._allocate(keys), self._allocate(values))
        buffers = self._buffers[layer_idx]
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, self._past :] = new
        return buffers

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        batch, heads, tokens, width = like.shape
        return like.new_zeros(batch, heads, self._past + tokens, width).normal_()

    def get_seq_length(self, *_: Any) -> int:
        """Return the tokens before this call."""
        return self._past


class DecoderStep(nn.Module):
    """A decoder from token ids to the last token's logits, without generate's Python around it.

    The blocks are called one after the other, as the model's own forward does, without a mask:
    rows are full, and a causal prefill or a single token needs none.
    """

    def __init__(self, model: PreTrainedModel, past: int) -> None:
        super().__init__()
        self.model = model
        self._past = past
        self._cache = FullCache(past) if past else None
        parameters = inspect.signature(model.model.layers[0].forward).parameters
        # transformers 5.24 renamed it.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 1, vocabulary]."""
        decoder: Any = self.model.model
        hidden_BSD = decoder.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + self._past
        rotary = decoder.rotary_emb(hidden_BSD, positions)
        for layer in decoder.layers:
            hidden_BSD = layer(
                hidden_BSD,
                attention_mask=None,
                position_ids=positions,
                position_embeddings=rotary,
                use_cache=self._cache is not None,
                **{self._cache_name: self._cache},
            )
        last_BSD = decoder.norm(hidden_BSD[:, -1:])
        logits: torch.Tensor = self.model.lm_head(last_BSD)
        return logits


class EncoderStep(nn.Module):
    """An encoder from token ids to logits; rows are full, so that it takes no mask."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, labels]."""
        logits: torch.Tensor = self.model(input_ids=input_ids).logits
        return logits


def make_module(model: PreTrainedModel, past: int) -> nn.Module:
    """Return the module from token ids to logits of an encoder or a decoder."""
    if hasattr(model, "lm_head"):
        return DecoderStep(model, past).eval()
    return EncoderStep(model).eval()


def make_ids(model: PreTrainedModel, batch: int, length: int) -> torch.Tensor:
    """Return random token ids [batch, length] on the model's device."""
    generator = torch.Generator().manual_seed(batch * 100_003 + length)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)
    return ids.to(model.device)


def run_plainly(module: nn.Module, inputs: torch.Tensor) -> Step:
    """Return a step that calls the module."""

    @torch.inference_mode()
    def step() -> torch.Tensor:
        result: torch.Tensor = module(inputs)
        return result

    step()
    return step


def run_compiled(module: nn.Module, inputs: torch.Tensor) -> Step:
    """Return a step that runs the module compiled by inductor for these shapes alone."""
    # no_grad: compiled code under inference_mode has been a source of errors in more than one torch
    backend = "inductor" if inputs.is_cuda else "eager"  # a rehearsal has no minutes for gcc
    compiled = torch.compile(module, dynamic=False, backend=backend)

    @torch.no_grad()
    def step() -> torch.Tensor:
        result: torch.Tensor = compiled(inputs)
        return result

    step()
    return step


def run_as_graph(module: nn.Module, inputs: torch.Tensor) -> Step:
    """Return a step that replays the module's kernels as one CUDA graph, and their output.

    Raises RuntimeError where the output differs from the module's own.
    """
    with torch.no_grad():
        return capture(lambda: module(inputs))


def capture(step: Step) -> Step:
    """Return a step that replays what `step` does on the device, captured once.

    Raises RuntimeError where a replay gives another result than the step itself.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(_WARM_RUNS):
            expected = step().clone()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = step()
    graph.replay()
    torch.cuda.synchronize()
    error = (output.float() - expected.float()).norm() / expected.float().norm()
    if not error <= _MAX_ERROR:
        raise RuntimeError(f"a replayed CUDA graph is off the model's output by {error:.2%}")

    def replay(_: Step = step) -> torch.Tensor:  # the graph reads the step's tensors: it holds them
        graph.replay()
        return output

    return replay


MODES: dict[str, Callable[[nn.Module, torch.Tensor], Step]] = {
    "cuda_graph": run_as_graph,
    "eager": run_plainly,
    "compile": run_compiled,
}
