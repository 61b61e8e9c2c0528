"""Packages a decoder's graph as a folder of ONNX Runtime GenAI, and checks one by running it.

GenAI takes the heads of each layer from the graph's own cache inputs, and a layer without any for
one without attention; what its config says of heads is not looked at.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Required, TypedDict, TypeVar

import numpy as np

from exporters.compare.artefact import Array
from exporters.compare.compare_config import CompareConfig, Gates, choose_gates
from exporters.compare.difference import Difference, measure_difference
from exporters.engines.engine_profiles import find_max_length
from exporters.graphs.load_graph import read_precision
from exporters.graphs.onnx_files import check_hashes
from exporters.graphs.read_structure import read_structure
from exporters.io_names import PAST_PREFIX, PRESENT_PREFIX
from nirvana_deploy.certificate import carry_certificate
from nirvana_deploy.serving.graph_decoder import DecoderInputs, GraphDecoder, read_decoder
from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.package_manifest import PackageResult, check_package, write_manifest
from nirvana_deploy.serving.text_model_file import TOKENIZER_FILE, open_tokenizer
from nirvana_deploy.serving.text_parts import check_text_files
from pruning.checkpoints.config_file import CONFIG_FILE
from pruning.errors import MissingExtraError, NirvanaError
from pruning.strict_json import read_json
from pruning.write_aside import refuse_used_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
CONFIG_NAME = "genai_config.json"
MODEL_NAME = "model.onnx"
# Any decoder whose inputs have our names; the others of GenAI's types are for its own quirks.
_TYPE = "decoder"
_DEFAULT_CONTEXT = 2048
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
_CHECKED_TOKENS = 16


def package_genai(sources: OnnxSources, out_dir: Path, config: PackageConfig) -> PackageResult:
    """Write a folder that `onnxruntime_genai.Model` loads, from an export's folder.

    Config and tokenizer are taken from beside the ONNX file.

    Raises:
        NirvanaError: the graph is no decoder with a cache, its folder lacks config or tokenizer,
            or the package was to hold what GenAI has no place for.
    """
    if extra := [name for name in ("dense", "engine") if getattr(sources, name) is not None]:
        raise NirvanaError(
            f"A GenAI folder holds one ONNX model, and --{extra[0]} is another. Leave it out, or "
            "package each on its own."
        )
    check_hashes(sources.onnx, fresh=True)
    source_dir = sources.checkpoint or sources.onnx.parent
    check_text_files(source_dir)
    document = _make_config(read_decoder(sources.onnx), sources.onnx, source_dir)
    refuse_used_folder(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sources.onnx, out_dir / MODEL_NAME)
    for name in read_signature(sources.onnx).data_files:
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources.onnx.parent / name, out_dir / name)
    for name in _COMPANIONS:
        if (source_dir / name).is_file():
            shutil.copyfile(source_dir / name, out_dir / name)
    text = json.dumps(document, indent=2) + "\n"
    (out_dir / CONFIG_NAME).write_text(text, encoding="utf-8")
    carry_certificate(sources.onnx, out_dir)
    write_manifest(out_dir, config, ("onnxruntime-genai", "onnx"))
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return PackageResult(
        folder=".",
        models=(config.model_name,),
        files=tuple(path.relative_to(out_dir).as_posix() for path in files),
    )


def check_genai(package: Path) -> dict[str, object]:
    """Generate with GenAI, and compare its logits with ONNX Runtime's token by token.

    They are compared as `nirvana verify` compares outputs: by their own scale, and a choice among
    tokens that are as good as each other is no difference.

    Raises:
        MissingExtraError: GenAI is not installed.
        NirvanaError: it does not load the folder, or its logits or its tokenizer's ids differ.
    """
    try:
        import onnxruntime_genai as genai
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime GenAI", "genai") from error
    check_package(package)
    decoder = GraphDecoder(package / MODEL_NAME)
    try:
        model = genai.Model(str(package))
        tokenizer = genai.Tokenizer(model)
    except Exception as error:  # GenAI's errors are plain RuntimeErrors of many kinds
        raise NirvanaError(f"ONNX Runtime GenAI does not load {package}: {error}") from error
    _check_tokenizer(package, tokenizer)
    gates = choose_gates([read_precision(read_structure(package / MODEL_NAME))], CompareConfig())
    prompts, largest = _choose_prompts(package), 0.0
    for prompt in prompts:
        logits: list[Array] = []
        tokens = generate(model, prompt, _CHECKED_TOKENS, logits)
        if len(tokens) <= len(prompt):
            raise NirvanaError(
                f"GenAI gives no token after {prompt}: {_CHECKED_TOKENS} were expected. Do not "
                "serve this package."
            )
        found = _compare(decoder, tokens, np.array(logits), gates)
        if not found.scaled <= gates.tolerance or not (found.agreement or 0) >= gates.min_agreement:
            raise NirvanaError(
                f"GenAI goes on from {prompt} with {tokens[len(prompt) :]}, and its {found.output} "
                f"differ from ONNX Runtime's by {found.max_abs:.2e}, at most "
                f"{gates.tolerance * found.worst.scale:.0e} expected, with the same choice in "
                f"{found.agreement or 0:.0%}. Do not serve this package."
            )
        largest = max(largest, found.max_abs)
    return {
        "server": f"onnxruntime-genai {genai.__version__}",
        "num_answers": len(prompts),
        "tokens_each": _CHECKED_TOKENS,
        "max_abs_difference": largest,
        "layers_with_cache": len({each.layer for each in decoder.inputs.cache}),
    }


def _compare(
    decoder: GraphDecoder, tokens: list[int], logits_SV: Array, gates: Gates
) -> Difference:
    """Compare the logits of each new token, and the choice, with those of the graph itself.

    The graph is called as GenAI calls it: with the prompt, then with a token at a time.
    """
    new, past = tokens[: -len(logits_SV)], decoder.start(1)
    chosen = tokens[-len(logits_SV) :]
    steps = []
    for number, token in enumerate(chosen):
        mask = np.ones((1, len(tokens) - len(chosen) + number), np.int64)
        step, past = decoder.step(np.array([new], np.int64), mask, past)
        steps.append(step[0, -1])
        new = [token]
    settings = {
        "tie": gates.tie,
        "smallest_scale": gates.smallest_scale,
        "outlier_share": gates.outlier_share,
    }
    ours = {"logits": np.array(steps)}
    # The tokens that it chose, as logits of which those are the largest.
    choice = measure_difference(
        ours, {"logits": np.eye(logits_SV.shape[-1])[chosen]}, None, **settings
    )
    found = measure_difference(ours, {"logits": logits_SV}, None, **settings).worst
    agreement = min(found.agreement or 0.0, choice.agreement or 0.0)
    return Difference(outputs=(replace(found, agreement=agreement),))


def generate(
    model: object, prompt: list[int], num_new: int, logits: list[Array] | None = None
) -> list[int]:
    """Return a prompt and the likeliest tokens after it, at most `num_new`, by a GenAI model.

    GenAI ends at an end token. The logits [vocabulary] of each new token are added to `logits`.
    """
    import onnxruntime_genai as genai

    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + num_new, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        if logits is not None:
            found = np.array(generator.get_logits())
            logits.append(found.reshape(-1, found.shape[-1])[-1])
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def _find_context(onnx_path: Path, source_dir: Path) -> int:
    """Return the most tokens of a prompt and what is generated: of graph, model and tokenizer."""
    from pruning.tasks.position_limit import find_usable_length

    limits = [find_usable_length(source_dir), find_max_length(onnx_path)]
    return min((limit for limit in limits if limit is not None), default=_DEFAULT_CONTEXT)


class _Ids(TypedDict, total=False):
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None


class _DecoderSizes(TypedDict, total=False):
    vocab_size: Required[int]
    num_attention_heads: int | None
    n_head: int | None
    hidden_size: int | None
    n_embd: int | None


def _make_config(decoder: DecoderInputs, onnx_path: Path, source_dir: Path) -> dict[str, object]:
    config = _read_json(source_dir / CONFIG_FILE, _DecoderSizes)
    if not (source_dir / "tokenizer.json").is_file():
        raise NirvanaError(
            f"{source_dir / 'tokenizer.json'} is missing: GenAI reads text by it. Save the "
            "checkpoint with its (fast) tokenizer and export it again, or give --checkpoint."
        )
    path = source_dir / "generation_config.json"
    ids = _read_json(source_dir / CONFIG_FILE, _Ids)
    if path.is_file():
        ids.update(_read_json(path, _Ids))
    bos, pad, eos = (ids.get(name) for name in ("bos_token_id", "pad_token_id", "eos_token_id"))
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    length = _find_context(onnx_path, source_dir)
    first = decoder.cache[0]
    heads = config.get("num_attention_heads") or config.get("n_head") or first.num_heads
    has_positions = "position_ids" in decoder.tokens
    return {
        "model": {
            "type": _TYPE,
            "bos_token_id": 0 if bos is None else bos,
            "eos_token_id": ends,
            "pad_token_id": pad if pad is not None else ends[0] if ends else 0,
            "vocab_size": config["vocab_size"],
            "context_length": length,
            "decoder": {
                "filename": MODEL_NAME,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": config.get("hidden_size")
                or config.get("n_embd")
                or heads * first.head_dim,
                "head_size": first.head_dim,
                "num_attention_heads": heads,
                "num_key_value_heads": first.num_heads,
                # Layers are looked for by number: those between without a cache count.
                "num_hidden_layers": max(each.layer for each in decoder.cache) + 1,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    **({"position_ids": "position_ids"} if has_positions else {}),
                    "past_key_names": f"{PAST_PREFIX}%d.key",
                    "past_value_names": f"{PAST_PREFIX}%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{PRESENT_PREFIX}%d.key",
                    "present_value_names": f"{PRESENT_PREFIX}%d.value",
                },
            },
        },
        # A cache that grows: one shared buffer needs GroupQueryAttention in the graph.
        "search": {
            "do_sample": False,
            "num_beams": 1,
            "max_length": length,
            "past_present_share_buffer": False,
        },
    }


class _GenaiModel(TypedDict):
    pad_token_id: int
    eos_token_id: list[int]
    vocab_size: int


class _GenaiConfig(TypedDict):
    model: _GenaiModel


def _choose_prompts(package: Path) -> tuple[list[int], ...]:
    """Return prompts without end and pad tokens: GenAI masks a pad token wherever it stands."""
    model = _read_json(package / CONFIG_NAME, _GenaiConfig)["model"]
    special = {model["pad_token_id"], *model["eos_token_id"]}
    usual = [token for token in range(1, model["vocab_size"]) if token not in special][:8]
    return usual[:1], [*usual[:1], *usual[2:0:-1]], usual


def _check_tokenizer(package: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise NirvanaError where GenAI's own reading of tokenizer.json splits text differently."""
    ours = open_tokenizer(package / TOKENIZER_FILE)
    for text in ("the first text", "Numbers 12 and 345, (signs)!", "Grüße, ça va"):
        came, expected = [int(token) for token in tokenizer.encode(text)], ours.encode(text).ids
        if came != expected:
            raise NirvanaError(
                f"GenAI's tokenizer makes {came} of {text!r}; the model's own makes {expected}. "
                "Give GenAI token ids, or serve the model by Triton."
            )


def _read_json(path: Path, expected: type[T]) -> T:
    remedy = "Give an ONNX file in the folder of its export."
    return read_json(path, expected, remedy=remedy, finite=False)
