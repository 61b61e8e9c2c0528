"""Builds every kind of graph that the exporter makes into TensorRT-RTX engines, for four GPUs.

    python benchmarks/engine_matrix.py [--work DIR]

Tiny models with random weights and heads of 16 channels, dense and with other counts in each layer,
are traced, brought into the form `tensorrt`, and built in fp16 with the profiles of their task:
some for one compute capability after the other, the others into one engine for all four, whose
builder prints one layer table. What is said of an attention is what that table says. No engine is
run. Graphs and rows in DIR, of a run that was interrupted, are used again. Writes
benchmarks/results/engine_matrix.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import describe_hardware, make_bar

from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.export_config import ExportConfig, Graphs
from profiles.measuring.environment import find_version
from pruning.errors import NirvanaError

RESULT = Path(__file__).parent / "results" / "engine_matrix.json"
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
OPSET, CACHE_LENGTH, ROWS = 24, 48, "rows.json"
# TensorRT has no kernel that squeezes scores: Gemma 2's attentions run in parts.
UNFUSED = ("gemma2",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A tiny model, and how it is exported."""

    model: str
    plan: str
    graphs: Graphs = "merged"
    in_place: bool = False
    apart: bool = False  # an engine for each compute capability

    @property
    def name(self) -> str:
        """Name its folder of traced graphs."""
        return f"{self.model}-{self.plan}-{self.graphs}"


SUBJECTS = (
    Subject(model="bert", plan="dense", apart=True),
    Subject(model="bert", plan="uneven", apart=True),
    *(Subject(model="vit", plan=plan) for plan in ("dense", "uneven")),
    *(Subject(model=model, plan="uneven") for model in ("distilbert", "modernbert", "deberta-v2")),
    Subject(model="llama", plan="dense", in_place=True),
    Subject(model="llama", plan="uneven", in_place=True, apart=True),
    Subject(model="llama", plan="uneven", graphs="split", in_place=True),
    Subject(model="llama", plan="dropping", graphs="split", in_place=True),
    Subject(model="t5", plan="uneven", apart=True),
    *(Subject(model="t5", plan=plan) for plan in ("dense", "dropping")),
    *(Subject(model="bart", plan=plan) for plan in ("dense", "uneven")),
    *(Subject(model=m, plan="uneven", in_place=True) for m in ("gpt2", "mistral", "qwen3", "opt")),
    Subject(model="phi3", plan="uneven", in_place=True),
    Subject(model="gpt_neox", plan="dense", in_place=True),
    Subject(model="gemma2", plan="uneven"),
    Subject(model="falcon-alibi", plan="dense"),
)


def main() -> None:
    """Build all, print a line each, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, help="folder for traced graphs (default: temporary)")
    given = parser.parse_args().work
    rows: list[dict[str, Any]] = []
    done = read_rows(given / ROWS) if given else []
    with tempfile.TemporaryDirectory() as scratch:
        work = given or Path(scratch) / "traced"
        for subject in SUBJECTS:
            traced = trace(subject, work / subject.name)
            for path in traced:
                rows += build_all(subject, path, Path(scratch), done)
                (work / ROWS).write_text(json.dumps([*done, *rows]))
                RESULT.write_text(json.dumps(describe(rows), indent=1) + "\n")
    print(json.dumps(describe(rows)["bars"], indent=1))


def trace(subject: Subject, folder: Path) -> list[Path]:
    """Return the traced graphs of a subject, each in a file."""
    import onnx
    import onnx_ir

    from exporters.trace.list_parts import list_parts
    from exporters.trace.trace_part import trace_graph
    from pruning.cutting.repack import repack
    from tests.pruning.tiny_models import PLANS, make_tiny

    if not folder.is_dir():
        model = make_tiny(subject.model, "eager", **widen_heads(subject.model))
        if subject.plan != "dense":
            model = repack(model, PLANS[subject.plan](model)).eval()
        aside = folder.with_name(f"{folder.name}.part")
        aside.mkdir(parents=True, exist_ok=True)
        for part in list_parts(model, ExportConfig(graphs=subject.graphs)):
            graph = trace_graph(part, OPSET)
            onnx.save(onnx_ir.to_proto(graph), aside / f"{part.name}.onnx")
        aside.rename(folder)
    return sorted(folder.glob("*.onnx"))


def widen_heads(name: str) -> dict[str, int]:
    """Return what gives a tiny model heads of 16 channels: TensorRT has no kernel for 8."""
    from tests.pruning.tiny_models import TINY

    config = TINY[name].config
    if "d_kv" in config:
        return {"d_kv": 16}
    if "d_model" in config:
        return {"d_model": 16 * config["decoder_attention_heads"]}
    if "head_dim" in config:
        return {"head_dim": 16}
    return {"hidden_size": 16 * config["num_attention_heads"]}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run before, if there was one."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def build_all(
    subject: Subject, path: Path, scratch: Path, done: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Build a graph for each compute capability, with growing caches and with buffers."""
    import onnx

    takes_cache = any("past_key" in value.name for value in onnx.load(path).graph.input)
    lengths = (None, CACHE_LENGTH) if subject.in_place and takes_cache else (None,)
    rows = []
    for cache_length in lengths:
        formed = write_form(path, scratch / "formed" / path.name, cache_length)
        for targets in [(one,) for one in CAPABILITIES] if subject.apart else [CAPABILITIES]:
            row: dict[str, Any] = {
                "model": subject.model,
                "plan": subject.plan,
                "graph": path.stem,
                "cache": "in place" if cache_length else ("grows" if takes_cache else "none"),
                "sm": ", ".join(targets),
            }
            before = [known for known in done if known.items() >= row.items()]
            row = before[0] if before else {**row, **build(formed, scratch / "engine", targets)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def write_form(path: Path, out: Path, cache_length: int | None) -> Path:
    """Write a traced graph in the form for TensorRT."""
    import onnx
    import onnx_ir

    from exporters.passes.known_forms import apply_form

    model = onnx_ir.from_proto(onnx.load(path))
    apply_form(model, "tensorrt", cache_length=cache_length)
    out.parent.mkdir(exist_ok=True)
    onnx.save(onnx_ir.to_proto(model), out)
    return out


def build(path: Path, out: Path, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """Build one engine, and say what came of it."""
    config = EngineConfig(
        flavour="tensorrt_rtx",
        batch=ShapeRange(min=1, opt=2, max=4),
        length=ShapeRange(min=2, opt=8, max=16),
        past=ShapeRange(min=1, opt=16, max=32),
        compute_capabilities=capabilities,
    )
    started = time.perf_counter()
    try:
        result = build_engine(path, out, config)
    except NirvanaError as error:
        return {"built": False, "error": str(error).replace(str(path), path.name)}
    return {
        "built": True,
        "num_fused_attentions": result.num_fused_attentions,
        "num_attentions": result.num_attention_layers,
        "profiles": list(result.profile_names),
        "seconds": round(time.perf_counter() - started, 2),
    }


def describe(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is written."""
    built = [row for row in rows if row["built"]]
    fusable = [row for row in built if row["model"] not in UNFUSED]
    present = sum(row["num_attentions"] for row in fusable)
    fused = sum(row["num_fused_attentions"] or 0 for row in fusable)
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {
            name: find_version(name)
            for name in ("torch", "transformers", "onnx", "onnx-ir", "tensorrt-rtx-cu13")
        },
        "data": "tiny random models of tests/pruning/tiny_models.py, heads of 16 channels",
        "rows": rows,
        "bars": [
            make_bar("graphs built, of all", len(built) / max(len(rows), 1), 1.0, "at_least"),
            make_bar(
                "attentions fused, of those without a softcap",
                fused / max(present, 1),
                1.0,
                "at_least",
            ),
        ],
    }


if __name__ == "__main__":
    main()
