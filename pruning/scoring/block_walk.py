"""Goes through a model block by block: the hidden states of one block are all that is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning.plans.sub_block import SubBlock
from pruning.wirings.sites import Site

# B batch, S sequence, D hidden size.

Batch = Mapping[str, torch.Tensor]


@dataclass(slots=True)
class _Call:
    """How a block was called: everything but the hidden states, and what it returned besides."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    rest: tuple[object, ...] | None  # None: the block returns a tensor


class BlockWalk:
    """A model's blocks, all stacks in a row, as functions of their hidden states.

    A walk holds, for each batch, the arguments that the model gave to each block (masks, positions,
    the encoder's output): mostly the same tensors for all blocks. `record` takes them anew.
    """

    def __init__(
        self, model: PreTrainedModel, sites: Mapping[SubBlock, Site], batches: Sequence[Batch]
    ) -> None:
        self.model = model
        self.sites = sites
        first_sites = [site for site in sites.values() if site.sub_block.part == "attention"]
        names = [site.dims.name for site in first_sites]
        self.blocks = [site.block for site in first_sites]
        self.stack_starts = [i for i, name in enumerate(names) if name not in names[:i]]
        self.inputs = [prepare_inputs(model, batch) for batch in batches]
        self._calls: list[list[_Call]] = []
        self._stack_outputs: list[dict[int, torch.Tensor]] = []
        # Blocks after which the model does something before the next one (DeBERTa's convolution).
        self._followed: set[int] = set()

    def sites_of(self, layer: int) -> list[Site]:
        """Return the sub-blocks of a block, in the order in which it runs them."""
        return [site for site in self.sites.values() if site.sub_block.layer == layer]

    @torch.no_grad()
    def record(self, layer: int) -> list[torch.Tensor]:
        """Run the model as it is, and return the hidden states [B, S, D] that reach a block.

        The arguments of all blocks are recorded in passing.
        """
        self._calls, self._stack_outputs = [], []
        return [self._run_recording(inputs, layer) for inputs in self.inputs]

    @torch.no_grad()
    def run_block(self, layer: int, batch: int, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return a block's hidden states for those given."""
        call = self._calls[batch][layer]
        output = self.blocks[layer](hidden_BSD, *call.args, **call.kwargs)
        return first_of(output)

    @torch.no_grad()
    def step(self, layer: int, batch: int, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return what reaches the next block, or follows the last one of a stack."""
        if layer not in self._followed:
            return self.run_block(layer, batch, hidden_BSD)
        try:
            with _stop_before(self.blocks[layer + 1]):
                self.run_from(layer, batch, hidden_BSD)
        except _ReachedError as reached:
            return reached.hidden_BSD
        raise AssertionError("the next block was not reached")

    @torch.no_grad()
    def run_from(self, layer: int, batch: int, hidden_BSD: torch.Tensor) -> object:
        """Return the model's output when `hidden_BSD` is what reaches block `layer`.

        The blocks before are not run, those of an earlier stack give what they gave when it was
        recorded. `layer` may be the number of blocks: then only what follows them is run.
        """
        outputs = dict(self._stack_outputs[batch])
        with contextlib.ExitStack() as stack:
            if layer == len(self.blocks):
                outputs[layer - 1] = hidden_BSD
            else:
                stack.enter_context(_replace_input(self.blocks[layer], hidden_BSD))
            for number in range(layer):
                call = self._calls[batch][number]
                stack.enter_context(_skip(self.blocks[number], call, outputs.get(number)))
            return self.model(**self.inputs[batch])

    def _run_recording(self, inputs: dict[str, object], layer: int) -> torch.Tensor:
        calls: list[_Call] = []
        outputs: dict[int, torch.Tensor] = {}
        found: list[torch.Tensor] = []
        last: list[torch.Tensor] = []

        def note(
            number: int,
            _: nn.Module,
            args: tuple[object, ...],
            kwargs: dict[str, object],
            output: object,
        ) -> None:
            entered = read_hidden(args, kwargs)
            if number == layer:
                found.append(entered)
            if number and number not in self.stack_starts and entered is not last[0]:
                self._followed.add(number - 1)
            last[:] = [first_of(output)]
            if number + 1 in self.stack_starts:
                outputs[number] = last[0]
            rest = output[1:] if isinstance(output, tuple) else None
            named = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            calls.append(_Call(args[1:], named, rest))

        handles = [
            block.register_forward_hook(partial(note, number), with_kwargs=True)
            for number, block in enumerate(self.blocks)
        ]
        try:
            self.model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        self._calls.append(calls)
        self._stack_outputs.append(outputs)
        return found[0]


def read_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the hidden states among a block's arguments."""
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def first_of(output: Any) -> torch.Tensor:
    """Return the hidden states of a block's output, which some types put into a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def prepare_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Leave the labels out: no loss is wanted. An encoder-decoder's become its decoder's input."""
    inputs: dict[str, object] = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if "labels" in batch and shift is not None:
        inputs.setdefault("decoder_input_ids", shift(labels=batch["labels"].to(model.device)))
    if getattr(model.config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    return inputs


@contextlib.contextmanager
def _skip(block: nn.Module, call: _Call, hidden_BSD: torch.Tensor | None) -> Iterator[None]:
    """Let a block hand on its input, or `hidden_BSD`, with what it returned besides."""

    def forward(*args: object, **kwargs: object) -> object:
        hidden = read_hidden(args, kwargs) if hidden_BSD is None else hidden_BSD
        return hidden if call.rest is None else (hidden, *call.rest)

    block.forward = forward
    try:
        yield
    finally:
        del block.forward


class _ReachedError(Exception):
    """Ends a forward pass where the hidden states that are wanted are known."""

    def __init__(self, hidden_BSD: torch.Tensor) -> None:
        super().__init__()
        self.hidden_BSD = hidden_BSD


@contextlib.contextmanager
def _stop_before(block: nn.Module) -> Iterator[None]:
    def stop(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        raise _ReachedError(read_hidden(args, kwargs))

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _replace_input(block: nn.Module, hidden_BSD: torch.Tensor) -> Iterator[None]:
    def replace(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        if args:
            return (hidden_BSD, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden_BSD}

    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
