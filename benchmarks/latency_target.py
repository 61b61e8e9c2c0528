"""Latency that is predicted by a table of sub-blocks, against that of the whole exported model.

python benchmarks/latency_target.py [--seconds S] [--out FILE]

Random weights: latency does not depend on them. Each plan meets a budget in milliseconds, its
layers differ, and the dense graph is cut by it whole. That takes seconds, so that what a table
promised is held against what comes under the same load: how much wide blocks suffer from others
on the machine is not how much narrow ones do. Then the whole models and the table's blocks are
measured in the same rounds, so that the machine's speed, which wanders, is the same for both. One
thread, and the processor's own time: wall time would be that of others. Of the samples the lower
quartile is taken, of tables and of whole models alike; medians are stored too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cut_graphs import DenseGraph, trace_dense
from figures import describe_hardware, make_bar
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from exporters.export_config import ExportConfig
from profiles.latency.latency_config import LatencyBudget, TableConfig, find_fraction
from profiles.latency.latency_table import LatencyTable
from profiles.latency.measure_table import (
    SAMPLES_FILE,
    TABLE_FILE,
    describe_key,
    find_folder,
    find_typical,
    make_table,
    measure_table,
)
from profiles.latency.traced_blocks import list_traced, open_blocks
from profiles.measuring.environment import capture_environment, find_version
from profiles.measuring.measurement import RotatingTimer
from profiles.targets.block_work import CallShape
from profiles.targets.roofline import RooflineEstimate, estimate_plan
from profiles.targets.target import load_target
from pruning.allocation.allocation_config import GlobalThreshold, allocate
from pruning.allocation.constraints import Constraints
from pruning.cutting.repack import plan_for
from pruning.cutting.wiring_inference import read_model
from pruning.plans.plan import PruningPlan
from pruning.plans.sub_block import count_units, list_sub_blocks

SPEEDUPS = (1.2, 1.4, 1.7, 2.0, 2.5)
# Of the comparison: short calls are measured more often.
MIN_ROUNDS, MAX_ROUNDS = 24, 200


@dataclass(frozen=True)
class Subject:
    """A model and the calls that it is measured at."""

    name: str
    task: Any
    config: dict[str, Any]
    calls: tuple[tuple[int, int, int], ...]  # batch, length, past


SUBJECTS = (
    Subject(
        "minilm",
        AutoModelForSequenceClassification,
        {
            "model_type": "bert",
            "hidden_size": 384,
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "intermediate_size": 1536,
            "vocab_size": 30522,
        },
        ((1, 128, 0), (8, 128, 0)),
    ),
    Subject(
        "gqa-decoder",
        AutoModelForCausalLM,
        {
            "model_type": "llama",
            "hidden_size": 512,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 32,
            "num_hidden_layers": 8,
            "intermediate_size": 1536,
            "vocab_size": 8000,
            "tie_word_embeddings": True,
        },
        ((1, 1, 128), (1, 128, 0)),
    ),
)


def make_dense(subject: Subject) -> Any:
    """Return the dense model, as exports load it."""
    torch.manual_seed(0)
    settings = dict(subject.config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return subject.task.from_config(config, attn_implementation="eager").float().eval()


def choose_plans(model: Any, table: LatencyTable) -> dict[float, Any]:
    """Return the plan of each speed-up, by random scores: layers differ."""
    dims = read_model(model).dims
    draw = np.random.default_rng(7)
    scores = {
        part: draw.lognormal(size=count_units(part, dims)) * draw.uniform(0.5, 2)
        for part in list_sub_blocks(dims)
    }
    plans = {}
    for speedup in SPEEDUPS:
        limits = Constraints(neuron_multiple=16)
        fraction = find_fraction(
            table, table.dense_ms, dims, LatencyBudget(speedup=speedup), limits
        )
        layers = allocate(
            GlobalThreshold(), dims, scores, cost=table, budget=fraction, constraints=limits
        )
        plans[speedup] = plan_for(model, layers, speedup=speedup)
    return plans


def estimate(plan: Any, call: tuple[int, int, int]) -> RooflineEstimate:
    """Return what the roofline of this processor says of a plan's blocks."""
    batch, length, past = call
    shape = CallShape(batch=batch, length=length, past=past)
    return estimate_plan(plan, load_target("cpu"), shape, "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFit:
    """How estimates compare with measurements on a target.

    Attributes:
        factor: measured over estimated latency, the geometric mean.
        error_fraction: mean error of estimates times the factor that the other measurements give
            (leave one out).
    """

    factor: float
    error_fraction: float
    num_measurements: int


def calibrate_latencies(estimated_ms: Sequence[float], measured_ms: Sequence[float]) -> LatencyFit:
    """Find the factor between latencies of uncalibrated estimates and measurements, and its error.

    The error of a measurement is that under the factor of the others.
    """
    logs = [math.log(took / guess) for took, guess in zip(measured_ms, estimated_ms, strict=True)]
    others = [(sum(logs) - own) / (len(logs) - 1) for own in logs]
    errors = [abs(math.exp(other - own) - 1) for other, own in zip(others, logs, strict=True)]
    return LatencyFit(
        factor=math.exp(sum(logs) / len(logs)),
        error_fraction=sum(errors) / len(errors),
        num_measurements=len(logs),
    )


def calibrate_roofline(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far estimates are off on this processor, by subject, over all calls and plans."""
    found = {}
    for subject in dict.fromkeys(case["subject"] for case in cases):
        rows = [row for case in cases if case["subject"] == subject for row in case["budgets"]]
        pairs = [(row["roofline_ms"], row["measured_ms"]) for row in rows]
        found[subject] = asdict(calibrate_latencies(*zip(*pairs, strict=True)))
    return found


def measure_together(
    blocks: dict[str, Any],
    dense: DenseGraph,
    plans: dict[str, PruningPlan],
    call: tuple[int, int, int],
    num_rounds: int,
) -> dict[str, Any]:
    """Return the samples of each whole model and of each block of the table, in ms."""
    calls = dict(blocks)
    with tempfile.TemporaryDirectory() as cut:
        for name, plan in plans.items():
            calls[name] = dense.bind(plan, call, Path(cut) / f"{name}.onnx")
    timer = RotatingTimer(calls, clock=time.process_time)
    timer.warm_up(3)
    return timer.measure(num_rounds)


def run_call(
    subject: Subject, model: Any, call: tuple[int, int, int], folder: Path, seconds: float
) -> dict[str, Any]:
    """Measure the table, choose plans, export and measure them; return the comparison."""
    batch, length, past = call
    settings = TableConfig(
        batch=batch, length=length, past=past, num_threads=1, clock="cpu", num_rounds=40
    )
    dense = trace_dense(model, folder / subject.name)
    traced = find_folder(describe_key(model, settings, ExportConfig()), folder / "tables")
    for left in (TABLE_FILE, SAMPLES_FILE):  # of an earlier run with the same --work: another load
        (traced / left).unlink(missing_ok=True)
    table = measure_table(model, settings, cache=folder / "tables")
    plans = choose_plans(model, table)
    whole = {"dense": PruningPlan.dense(read_model(model).dims, "")}
    whole |= {f"{speedup:g}": plan for speedup, plan in plans.items()}
    wanted = seconds * 1000 / (table.dense_ms * (len(whole) + 2))
    num_rounds = int(min(max(wanted, MIN_ROUNDS), MAX_ROUNDS))
    samples = measure_together(open_blocks(traced, 1), dense, whole, call, num_rounds)
    again = make_table(table.stack, list_traced(traced), samples, {})
    typical = {name: find_typical(values) for name, values in samples.items()}
    rows = []
    for speedup, plan in plans.items():
        predicted, measured = again.predict_ms(plan), typical[f"{speedup:g}"]
        rows.append(
            {
                "asked_speedup": speedup,
                "predicted_ms": predicted,
                "measured_ms": measured,
                "measured_median_ms": float(np.median(samples[f"{speedup:g}"])),
                "measured_speedup": typical["dense"] / measured,
                "error_fraction": predicted / measured - 1,
                # The table that the plan was chosen by, from just before.
                "error_fraction_of_earlier_table": table.predict_ms(plan) / measured - 1,
                "num_samples": len(samples[f"{speedup:g}"]),
                "roofline_ms": estimate(plan, call).latency_ms,
            }
        )
        print(subject.name, call, json.dumps(rows[-1]), flush=True)
    return {
        "subject": subject.name,
        "batch": batch,
        "length": length,
        "past": past,
        "dense_ms": again.dense_ms,
        "dense_ms_of_earlier_table": table.dense_ms,
        "in_place": again.in_place,
        "table": {"attention": asdict(again.attention), "mlp": asdict(again.mlp)},
        "budgets": rows,
    }


def main() -> None:
    """Run all subjects and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="processor time of each comparison, about"
    )
    parser.add_argument("--subjects", nargs="*", default=[s.name for s in SUBJECTS])
    parser.add_argument("--calls", type=int, default=2, help="of each subject")
    parser.add_argument("--work", type=Path, help="folder to keep tables and graphs in")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results" / "latency_target.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cases = []
        for subject in (s for s in SUBJECTS if s.name in args.subjects):
            model = make_dense(subject)
            for call in subject.calls[: args.calls]:
                folder = args.work or Path(temporary)
                cases.append(run_call(subject, model, call, folder, args.seconds))
                write_result(cases, args.out)  # what is measured is kept


def write_result(cases: list[dict[str, Any]], out: Path) -> None:
    """Write the cases so far, each error against its bar."""
    bars = [bar for case in cases for row in case["budgets"] for bar in _make_bars(case, row)]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("onnxruntime", "torch", "transformers")},
        "environment": capture_environment(1),
        "data": "random weights and tokens; random scores, so that layers differ",
        "clock": "processor time of one thread (the machine was shared; wall time is not told)",
        "statistic": "lower quartile of the samples, of blocks and of whole models",
        "cases": cases,
        "roofline": {
            "is_estimate": True,
            "target": load_target("cpu").to_json(),
            "calibration": calibrate_roofline(cases),
        },
        "bars": bars,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(bar['met'] for bar in bars)} of {len(bars)} bars met", flush=True)


def _make_bars(case: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a prediction against its bar: in milliseconds, and as a speed-up.

    Milliseconds are of a table measured in the same rounds. The speed-up is what the earlier table
    promised, by which the plan was chosen: the machine's speed cancels in it.
    """
    name = f"{case['subject']} {case['batch']}x{case['length']}+{case['past']}"
    name += f" at {row['asked_speedup']:g}x"
    promised_ms = row["measured_ms"] * (1 + row["error_fraction_of_earlier_table"])
    promised = case["dense_ms_of_earlier_table"] / promised_ms
    error = abs(promised / row["measured_speedup"] - 1)
    return [
        make_bar(
            f"{name}: |predicted / measured ms - 1|", abs(row["error_fraction"]), 0.05, "at_most"
        ),
        make_bar(f"{name}: |promised / measured speed-up - 1|", error, 0.05, "at_most"),
    ]


if __name__ == "__main__":
    main()
