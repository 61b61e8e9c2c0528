"""Runs in one go what no CPU can show: tests marked `gpu`, and dense against pruned on the GPU.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json
    python benchmarks/gpu.py --out rehearsal.json --rehearse           # on a CPU, tiny, to try it

Each part stands alone: one that fails is stored with its reason, and the next one runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from profiles.comparison import compare_latency
from profiles.environment import capture_environment
from profiles.profile_config import ProfileConfig
from profiles.runner import Tensors, TensorSpec
from pruning.cutting.repack import plan_for, repack
from pruning.plans.cost import MacCost, dense_cost, plan_cost
from pruning.plans.plan import LayerPlan, PruningPlan

ROOT = Path(__file__).parent.parent
LENGTH = 128
# hidden size, heads, layers, neurons
SHAPES = {
    "minilm-l6": (384, 12, 6, 1536),
    "bert-base": (768, 12, 12, 3072),
    "bert-large": (1024, 16, 24, 4096),
}
TINY = {"tiny": (64, 4, 2, 128)}


class TorchRunner:
    """A torch model on its device, timed to the end of its work there."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        self.name = name
        self._model = model.eval()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Token ids and mask, both free in batch and length."""
        names = ("input_ids", "attention_mask")
        dtype = np.dtype(np.int64)
        return tuple(TensorSpec(name=n, dtype=dtype, shape=("batch", "sequence")) for n in names)

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Put the inputs on the device; the call synchronises."""
        device = self._model.device
        placed = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}

        @torch.inference_mode()
        def call() -> Tensors:
            self._model(**placed)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return {}

        call()
        return call

    def describe(self) -> dict[str, Any]:
        """Say how the model is run."""
        attention = self._model.config._attn_implementation
        return {"runner": "torch", "attention": attention, "dtype": str(self._model.dtype)}


class OnnxCudaRunner(TorchRunner):
    """An ONNX file in ONNX Runtime's CUDA provider, inputs and outputs bound on the device."""

    def __init__(self, name: str, path: Path) -> None:
        import onnxruntime

        self.name = name
        self._session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
        if self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("ONNX Runtime has no CUDA provider here: pip install '.[cuda]'")

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        """Bind device memory; the call returns when the device is done."""
        binding = self._session.io_binding()
        for value in self._session.get_inputs():
            array = inputs.get(value.name, np.zeros_like(inputs["input_ids"]))
            binding.bind_cpu_input(value.name, array)
        binding.bind_output("logits", "cuda")

        def call() -> Tensors:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return {}

        call()
        return call

    def describe(self) -> dict[str, Any]:
        """Say how the model is run."""
        return {"runner": "onnxruntime", "provider": "CUDAExecutionProvider"}


def main() -> None:
    """Run every part and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on whatever is here")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.rehearse:
        sys.exit("No GPU here. --rehearse tries the script on a CPU.")
    config = ProfileConfig(batch_sizes=(1, 8, 32), length=LENGTH)
    if arguments.rehearse:
        config = replace(config, batch_sizes=(1,), warmup_seconds=0.1, min_seconds=0.1)
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "rehearsal": arguments.rehearse,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "environment": capture_environment(1),
        "tests": run_part(run_gpu_tests),
    }
    for name, shape in (TINY if arguments.rehearse else SHAPES).items():
        models = make_pair(shape, device)
        result[name] = {
            "kept_fraction_of_block_macs": models[2],
            "torch": run_part(lambda pair=models: compare_torch(pair[0], pair[1], config)),
            "onnxruntime": run_part(lambda pair=models: compare_onnx(pair[0], pair[1], config)),
        }
    result["bars"] = []  # no figure on a GPU is asked for yet
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def run_part(part: Callable[[], Any]) -> Any:
    """Return what `part` returns, or why it failed."""
    try:
        return part()
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}


def run_gpu_tests() -> dict[str, Any]:
    """Run the tests marked `gpu`; pytest's exit code 5 says that there are none."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "summary": done.stdout.strip().splitlines()[-1]}


def make_pair(
    shape: tuple[int, int, int, int], device: str
) -> tuple[PreTrainedModel, PreTrainedModel, float]:
    """Return a model of random weights and its pruned half, with counts that differ by layer."""
    hidden, heads, layers, neurons = shape
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=neurons,
        num_labels=24,
    )
    dense = BertForSequenceClassification(config).to(device).eval()
    plan = plan_for(dense, [make_layer(i, heads, neurons) for i in range(layers)])
    return dense, repack(dense, plan), kept_fraction(plan)


def make_layer(number: int, heads: int, neurons: int) -> LayerPlan:
    """Keep 3/4 of every other layer and 1/4 of the rest: half in all."""
    share = 3 if number % 2 == 0 else 1
    return LayerPlan(
        kept_heads=tuple(range(heads * share // 4)),
        kept_neurons=tuple(range(neurons * share // 4)),
    )


def kept_fraction(plan: PruningPlan) -> float:
    """Return the kept fraction of the blocks' MACs."""
    return plan_cost(plan, MacCost(LENGTH)) / dense_cost(plan.dims, MacCost(LENGTH))


def compare_torch(
    dense: PreTrainedModel, pruned: PreTrainedModel, config: ProfileConfig
) -> dict[str, Any]:
    """Compare the two in torch: fp16 on a GPU."""
    half = dense.device.type == "cuda"
    runners = [
        TorchRunner(name, model.half() if half else model)
        for name, model in (("dense", dense), ("pruned", pruned))
    ]
    return shorten(compare_latency(runners[0], runners[1], config).to_json())


def compare_onnx(
    dense: PreTrainedModel, pruned: PreTrainedModel, config: ProfileConfig
) -> dict[str, Any]:
    """Compare the two in ONNX Runtime's CUDA provider, fp32 graphs."""
    from exporters.export_config import ExportConfig
    from exporters.trace.list_parts import list_parts
    from exporters.trace.trace_part import trace_part

    with tempfile.TemporaryDirectory() as folder:
        runners = []
        for name, model in (("dense", dense), ("pruned", pruned)):
            path = Path(folder) / name / "model.onnx"
            model.set_attn_implementation("eager")
            config_of_graph = ExportConfig()
            (part,) = list_parts(model.float().cpu(), config_of_graph)
            trace_part(part, path, config_of_graph.chosen_opset)
            runners.append(OnnxCudaRunner(name, path))
        return shorten(compare_latency(runners[0], runners[1], config).to_json())


def shorten(profile: dict[str, Any]) -> dict[str, Any]:
    """Leave the single samples out of the stored file."""
    for case in profile["cases"]:
        for side in ("dense", "pruned"):
            case[side].pop("samples_ms", None)
    return {"method": profile["method"], "cases": profile["cases"]}


if __name__ == "__main__":
    main()
