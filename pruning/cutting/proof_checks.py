"""The checks of a proof: one repacked model against the dense one under the plan's masks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.prunable_model import PrunableModel
from pruning.cutting.masking import masked
from pruning.cutting.output_difference import Outputs, find_largest, max_difference
from pruning.cutting.smaller_model import cut_state
from pruning.cutting.tensor_cutter import TensorCutter
from pruning.plans.plan import PruningPlan
from pruning.token_ids import find_pad, list_steering, list_usable
from pruning.wirings.obstacles import find_place

# Live tokens of each row of a probe; the shortest still has two, as some poolings need.
LENGTHS = (13, 7, 2)
_DECODER_LENGTH = 5

Side = Literal["left", "right"]


def draw_inputs(model: PreTrainedModel, side: Side, seed: int) -> dict[str, torch.Tensor]:
    """Return a batch that `model` takes, padded on one side; images know no padding.

    A classifier of an encoder-decoder shifts its tokens into the decoder itself, and reads the
    answer at the end token: each row has one, and there are no tokens for the decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    if model.main_input_name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn((2, config.num_channels, height, width), generator=generator)
        return {"pixel_values": pixels.to(model.device)}
    mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    if side == "left":
        mask = mask.flip(1)
    tokens = _draw_tokens(model, tuple(mask.shape), generator)
    text_config = config.get_text_config()
    pad = find_pad(getattr(text_config, "pad_token_id", None), text_config.vocab_size) or 0
    inputs = {"input_ids": tokens.where(mask.bool(), pad), "attention_mask": mask}
    end = _find_end_token(model)
    if end is not None:
        last = mask.cumsum(1).argmax(1)  # of the live tokens; the first of the largest sums
        inputs["input_ids"][torch.arange(len(LENGTHS)), last] = end
    elif config.is_encoder_decoder:
        shape = (len(LENGTHS), _DECODER_LENGTH)
        inputs["decoder_input_ids"] = _draw_tokens(model, shape, generator)
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def explain_unprovable(
    model: PreTrainedModel, seed: int, errors: list[Exception] | None = None
) -> str:
    """Say why nothing can be proven with drawn inputs of the dense model; "" where it can.

    What the model raises is added to `errors`.
    """
    try:
        inputs = draw_inputs(model, "right", seed)
        with torch.no_grad():
            first, again = _run(model, inputs), _run(model, inputs)
    except Exception as error:  # whatever a forward pass raises
        if errors is not None:
            errors.append(error)
        place = find_place(error) or f"{type(model).__name__}.forward"
        return (
            f"{type(model).__name__} itself, with nothing cut, does not run on the inputs that a "
            f"proof draws ({describe_inputs(model)}): it stops in `{place}`"
        )
    # Random masks and random hashes differ in every call, whatever is cut.
    pairs = [(first[name].nan_to_num(), again[name].nan_to_num()) for name in first]
    same = all(max_difference(x, y) <= 1e-5 * find_largest(x) for x, y in pairs)
    return "" if same else f"{type(model).__name__} gives other outputs each time for one input"


def describe_inputs(model: PreTrainedModel) -> str:
    """Say what `draw_inputs` draws for a model."""
    if model.main_input_name == "pixel_values":
        return "a batch of images"
    return "a padded batch of tokens with its mask"


def _find_end_token(model: PreTrainedModel) -> int | None:
    """Return the token at which an encoder-decoder's classifier reads; None for other models."""
    end = model.config.eos_token_id
    reads = model.config.is_encoder_decoder and isinstance(end, int)
    return end if reads and type(model).__name__.endswith("ForSequenceClassification") else None


def _draw_tokens(
    model: PreTrainedModel, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Return token ids of the whole vocabulary, but for those that steer some models."""
    config = model.config.get_text_config()
    usable = list_usable(config.vocab_size, list_steering(config.to_dict()))
    return torch.from_numpy(usable)[torch.randint(len(usable), shape, generator=generator)]


_NEW_TOKENS = 8
_SIDES: tuple[Side, ...] = ("right", "left")
_OUTPUTS = ("logits", "start_logits", "end_logits")  # where there are none, a model's first

Inputs = dict[str, torch.Tensor]
Outcome = tuple[bool, float | None, str]  # passed, largest difference, note


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison of the repacked model with the masked one.

    Attributes:
        max_abs_difference: of outputs, gradients or logits; None where none could be compared.
        note: what was wrong, or why the check could not be made.
    """

    plan: str
    what: str
    passed: bool
    max_abs_difference: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A dense model, and what `plan` makes of it; `errors` takes up what ends a check."""

    name: str
    model: PreTrainedModel
    smaller: PreTrainedModel
    plan: PruningPlan
    source: PrunableModel
    errors: list[Exception]

    def masked(self) -> Any:
        """Mask the dense model while the context lasts."""
        return masked(self.model, self.plan, self.source.wiring)


def check_pair(pair: Pair, seed: int) -> Iterator[Check]:
    """Yield every check of a pair; both models are in evaluation mode."""
    original = pair.model.config._attn_implementation
    takes_tokens = pair.model.main_input_name == "input_ids"
    for attention in ("eager", "sdpa"):
        changed = [_set_attention(each, attention) for each in (pair.model, pair.smaller)]
        if not all(changed):
            continue
        for side in _SIDES if takes_tokens else _SIDES[:1]:
            inputs = draw_inputs(pair.model, side, seed)
            what = f"outputs, {attention}" + (f", padded {side}" if takes_tokens else "")
            yield _make(pair, what, partial(_compare_outputs, pair, inputs))
    for each in (pair.model, pair.smaller):
        _set_attention(each, original)
    inputs = draw_inputs(pair.model, "left", seed)
    what = "gradients of every weight"
    yield _make(pair, what, partial(_compare_gradients, pair, inputs))
    if pair.model.can_generate():
        for cache in ("dynamic", "static"):
            what = f"greedy tokens and their logits, {cache} cache"
            yield _make(pair, what, partial(_compare_tokens, pair, inputs, cache))


def fail(plan: str, what: str, error: Exception) -> Check:
    """Return the check that an error ended."""
    return Check(plan=plan, what=what, passed=False, note=_describe(error))


def _make(pair: Pair, what: str, compare: Callable[[], Outcome]) -> Check:
    try:
        passed, difference, note = compare()
        if not passed and difference is not None and math.isfinite(difference):
            passed, difference, note = _compare_in_double(pair, compare) or (
                passed,
                difference,
                note,
            )
    except Exception as error:  # a wiring that is tried may be wrong in any way
        pair.errors.append(error)
        return fail(pair.name, what, error)
    return Check(plan=pair.name, what=what, passed=passed, max_abs_difference=difference, note=note)


def _compare_in_double(pair: Pair, compare: Callable[[], Outcome]) -> Outcome | None:
    """Compare again in float64, where a wrong cut differs as before, and rounding hardly.

    None where nothing can be concluded: the model was in float64, or does not run in it.
    """
    if pair.model.dtype == torch.float64:
        return None
    try:
        with _in_double(pair.model), _in_double(pair.smaller):
            passed, difference, note = compare()
    except Exception:  # some models name a dtype in their forward pass
        return None
    return passed, difference, f"{note}, compared in float64".lstrip(", ")


@contextlib.contextmanager
def _in_double(model: PreTrainedModel) -> Iterator[None]:
    """Give a model's weights as float64 while the context lasts; they are not rounded after it."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data


@torch.no_grad()
def _compare_outputs(pair: Pair, inputs: Inputs) -> Outcome:
    dense = _run(pair.model, inputs)
    with pair.masked():
        expected = _run(pair.model, inputs)
    if all(torch.equal(dense[name], expected[name]) for name in expected):
        return False, None, "the masks changed nothing"
    return _hold(_run(pair.smaller, inputs), expected)


def _hold(came: Outputs, expected: Outputs) -> Outcome:
    """Compare each output: 1e-5 of its largest value, about 100 times what float32 rounds off."""
    differences = {name: max_difference(came[name], expected[name]) for name in expected}
    tolerances = {name: 1e-5 * find_largest(value) for name, value in expected.items()}
    worst = max(differences, key=lambda name: differences[name] - tolerances[name])
    difference, tolerance = differences[worst], tolerances[worst]
    if not all(bool(torch.isfinite(value).all()) for value in expected.values()):
        return False, difference, "the model itself gives NaN or infinity"
    return difference <= tolerance, difference, f"at most {tolerance:.1e} expected of {worst}"


def _compare_gradients(pair: Pair, inputs: Inputs) -> Outcome:
    """Hold the smaller model's gradients against the masked model's, cut like its weights."""
    with pair.masked():
        whole = _compute_gradients(pair.model, inputs)
    is_plain = getattr(pair.smaller.config, "nirvana", None) is None
    source = pair.source
    cutter = TensorCutter(
        source.prefix, source.wiring, pair.plan, source.current, (False, is_plain)
    )
    expected, came = cut_state(whole, cutter), _compute_gradients(pair.smaller, inputs)
    if set(came) != set(expected):
        return False, None, f"other parameters: {sorted(set(came) ^ set(expected))[0]}"
    sizes = {name: float(gradient.abs().max()) for name, gradient in expected.items()}
    largest = max(sizes.values())
    differences = {name: float((came[name] - expected[name]).abs().max()) for name in came}
    # Rounding goes with what was added up: mostly of a weight's own size, some of the largest.
    excess = {n: d - 1e-4 * sizes[n] - 1e-6 * largest for n, d in differences.items()}
    worst = max(excess, key=excess.__getitem__)
    return excess[worst] <= 0, max(differences.values()), f"furthest apart at {worst}"


@torch.no_grad()
def _compare_tokens(pair: Pair, inputs: Inputs, cache: str) -> Outcome:
    prompt = {name: x for name, x in inputs.items() if not name.startswith("decoder_")}
    settings = {
        "max_new_tokens": _NEW_TOKENS,
        "min_new_tokens": _NEW_TOKENS,
        "do_sample": False,
        "num_beams": 1,
        "cache_implementation": cache,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    with pair.masked():
        try:
            expected = pair.model.generate(**prompt, **settings)  # type: ignore[operator]
        except Exception as error:
            if cache == "dynamic":
                raise
            return True, None, f"not made, the dense model itself fails: {_describe(error)}"
    came = pair.smaller.generate(**prompt, **settings)  # type: ignore[operator]
    if not torch.equal(came.sequences, expected.sequences):
        return False, None, "the tokens differ"
    steps = [
        {f"step {number + 1}": logits for number, logits in enumerate(side.logits)}
        for side in (came, expected)
    ]
    return _hold(*steps)


def _run(model: PreTrainedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the outputs where they mean something: a decoder's is not defined at padding."""
    fitting = {k: x.to(model.dtype) if x.is_floating_point() else x for k, x in inputs.items()}
    outputs = model(**fitting)
    names = [name for name in _OUTPUTS if name in outputs] or [next(iter(outputs))]
    mask = inputs.get("attention_mask")
    found: dict[str, torch.Tensor] = {name: outputs[name] for name in names}
    if mask is None:
        return found
    return {
        name: out[mask.bool()] if out.dim() == 3 and out.shape[1] == mask.shape[1] else out
        for name, out in found.items()
    }


def _compute_gradients(model: PreTrainedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter; zeros where a dropped part needs none.

    The gradient is that of the output along a random direction. Along the output itself it would
    all but vanish behind a norm, and what is left would be rounding.
    Frozen parameters have one too: a model that was built and one that was loaded differ in what
    they freeze (Marian's sinusoids).
    """
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.zero_grad(set_to_none=True)
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            generator = torch.Generator().manual_seed(0)
            along = [
                (out * torch.randn(out.shape, generator=generator).to(out)).mean()
                for out in _run(model, inputs).values()
            ]
            torch.stack(along).sum().backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach()
            for name, p in model.named_parameters()
        }
    finally:
        model.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)


def _set_attention(model: PreTrainedModel, attention: str) -> bool:
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError):
        return False
    return bool(model.config._attn_implementation == attention)


def _describe(error: Exception) -> str:
    first_line = (str(error).strip() or "no message").splitlines()[0][:200]
    return f"{type(error).__name__}: {first_line}"
