"""Tokens a second of model folders in ONNX Runtime GenAI, in turns; prints JSON.

python benchmarks/genai_rates.py FOLDER ...      # with onnxruntime_genai on PYTHONPATH
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from interleaved import describe

PROMPT_LENGTH, NUM_NEW, NUM_ROUNDS = 64, 64, 12
ONE_THREAD = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}


def main() -> None:
    """Measure all folders."""
    folders = [Path(name) for name in sys.argv[1:]]
    models = {folder.name: _load(folder) for folder in folders}
    draw = np.random.default_rng(0)
    prompt = draw.integers(3, 32000, (1, PROMPT_LENGTH)).astype(np.int32)
    tokens = {name: generate(model, prompt)[2] for name, model in models.items()}
    rates: dict[str, list[float]] = {name: [] for name in models}
    prefills: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(NUM_ROUNDS):
        for name in draw.permutation(list(models)):
            prefill_ms, rate, _ = generate(models[name], prompt)
            rates[name].append(rate)
            prefills[name].append(prefill_ms)
    result = {
        "genai": genai.__version__,
        "prompt_length": PROMPT_LENGTH,
        "num_new_tokens": NUM_NEW,
        "tokens_per_second": {name: describe(values) for name, values in rates.items()},
        "prefill_ms": {name: describe(values) for name, values in prefills.items()},
        "same_text_in_fp32": tokens["ours-dense-fp32"] == tokens["builder-dense-fp32"],
    }
    print(json.dumps(result))


def generate(model: Any, prompt: np.ndarray) -> tuple[float, float, list[int]]:
    """Return ms of the prompt, tokens a second after it, and the tokens."""
    length = prompt.shape[1] + NUM_NEW
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=length, min_length=length, do_sample=False, batch_size=1)
    generator = genai.Generator(model, settings)
    started = time.process_time()
    generator.append_tokens(prompt)
    filled = time.process_time()
    num_steps = 0
    while not generator.is_done():
        generator.generate_next_token()
        num_steps += 1
    ended = time.process_time()
    text = [int(token) for token in generator.get_sequence(0)[prompt.shape[1] :]]
    return (filled - started) * 1e3, num_steps / (ended - filled), text


def _load(folder: Path) -> Any:
    config = genai.Config(str(folder))
    config.overlay(json.dumps(ONE_THREAD))
    return genai.Model(config)


if __name__ == "__main__":
    main()
