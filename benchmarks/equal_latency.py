"""What is lost at equal measured latency: a budget in milliseconds against one in parameters.

    python benchmarks/equal_latency.py [--cases ...] [--seeds 0 ...] [--work DIR]

The models are those of `method_models.py`. Both plans are made one-shot in the same way (OBS
scores, KL curves, the exact knapsack, least-squares repair), from the same calibration draw; only
what the budget counts differs. For each speed-up the latency table gives the one plan. The
parameter budget is then searched at which the other plan takes as long, first by the table, then
by measuring both in turns in ONNX Runtime and correcting what the table foretold. Graphs are the
dense one, cut by each plan; one thread, the processor's own time, lower quartiles of the samples.
Losses are of the validation rows. Finished rows are kept in --work: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cut_graphs import DenseGraph, trace_dense
from figures import describe_hardware, make_bar
from method_models import CLASSES, make_models
from method_subjects import COST, NEURON_MULTIPLE, Subject

from profiles.latency.latency_config import LatencyBudget, TableConfig, find_fraction
from profiles.latency.latency_table import LatencyTable
from profiles.latency.measure_table import find_typical, measure_table
from profiles.measuring.environment import capture_environment, find_version
from profiles.measuring.measurement import RotatingTimer
from pruning.allocation.allocation_config import KlKnapsack, allocate
from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import DamageCurve
from pruning.cutting.repack import plan_for
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import LeastSquares
from pruning.plans.cost import CostModel
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import SubBlock, list_sub_blocks
from pruning.repair.repair import prune_in_place
from pruning.scoring.kl_curves import measure_curves
from pruning.scoring.known_saliencies import score_units
from pruning.scoring.obs import Obs
from pruning.scoring.saliency import Scores

RESULT = Path(__file__).parent / "results" / "equal_latency.json"
SPEEDUPS = (1.4, 1.7, 2.0, 2.5)
LIMITS = Constraints(neuron_multiple=NEURON_MULTIPLE)
DAMPING = 1e-2
STEP = 0.002  # of parameter budgets that are tried
TOLERANCE = 0.01  # within which two latencies count as equal
MAX_PAIRS = 4  # that are measured


@dataclass(frozen=True)
class Case:
    """A model, and the call that its latency is of."""

    model: str
    batch: int
    length: int
    past: int

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.model} {self.batch}x{self.length}+{self.past}"


CASES = (
    Case("decoder", 1, 128, 0),
    Case("decoder", 1, 1, 256),
    Case("encoder", 1, 128, 0),
)


@dataclass
class Planner:
    """Makes plans of one subject and calibration draw, under any cost and budget."""

    subject: Subject
    seed: int
    kept: Path  # where scores and curves are, or come to be
    scores: Scores = field(init=False)
    curves: Mapping[SubBlock, DamageCurve] = field(init=False)
    _known: dict[float, tuple[LayerPlan, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kept.is_file():
            self._score()
        stored = json.loads(self.kept.read_text())
        names = {s.name: s for s in list_sub_blocks(self.subject.dims)}
        self.scores = {names[n]: torch.tensor(values) for n, values in stored["scores"].items()}
        self.curves = {
            names[n]: DamageCurve(tuple(counts), tuple(damage))
            for n, (counts, damage) in stored["curves"].items()
        }

    def _score(self) -> None:
        task = self.subject.make_task(self.subject.draw(self.seed))
        scores = score_units(Obs(damping=DAMPING), task)
        levels, measured = KlKnapsack().num_levels, KlKnapsack().num_measured
        curves = measure_curves(
            task, scores, num_levels=levels, damping=DAMPING, num_measured=measured
        )
        plain = {
            "scores": {s.name: values.tolist() for s, values in scores.items()},
            "curves": {s.name: (c.kept_counts, c.damage) for s, c in curves.items()},
        }
        self.kept.write_text(json.dumps(plain) + "\n")

    def keep(self, cost: CostModel, budget: float) -> tuple[LayerPlan, ...]:
        """Return what each layer keeps."""
        return allocate(
            KlKnapsack(),
            self.subject.dims,
            {s: score.tolist() for s, score in self.scores.items()},
            cost=cost,
            budget=budget,
            constraints=LIMITS,
            curves=self.curves,
        )

    def keep_parameters(self, number: int) -> tuple[LayerPlan, ...]:
        """Return what a budget of `number` steps of parameters keeps."""
        if number not in self._known:
            self._known[number] = self.keep(COST, round(number * STEP, 6))
        return self._known[number]

    def plan(self, layers: tuple[LayerPlan, ...]) -> PruningPlan:
        """Return the plan of what layers keep."""
        return plan_for(self.subject.model, layers)

    def measure_loss(self, layers: tuple[LayerPlan, ...]) -> float:
        """Prune a copy, repair it, and return its loss on the validation rows."""
        task = self.subject.copy_task(self.subject.draw(self.seed))
        prune_in_place(task, layers, LeastSquares(damping=DAMPING))
        return self.subject.measure(self.subject.cut(task.model, layers).model)["loss"]

    def find_parameters(self, table: LatencyTable, wanted_ms: float) -> int:
        """Return the parameter budget whose plan is foretold to take nearest to `wanted_ms`."""
        low, high = 1, round(1 / STEP)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                foretold = table.predict_ms(self.plan(self.keep_parameters(middle)))
            except NirvanaError:  # below what the constraints leave
                foretold = 0.0
            low, high = (middle, high) if foretold < wanted_ms else (low, middle)
        return high


def measure_plans(
    dense: DenseGraph, plans: Mapping[str, PruningPlan], case: Case, seconds: float
) -> dict[str, float]:
    """Return the typical ms of the dense graph cut by each plan, all measured in turns."""
    with tempfile.TemporaryDirectory() as cut:
        call = (case.batch, case.length, case.past)
        calls = {n: dense.bind(p, call, Path(cut) / f"{n}.onnx") for n, p in plans.items()}
    timer = RotatingTimer(calls, clock=time.process_time)
    timer.warm_up(3)
    started = time.process_time()
    timer.measure(3)
    a_round = (time.process_time() - started) / 3
    samples = timer.measure(max(24, min(400, round(seconds / a_round))))
    return {name: find_typical(values) for name, values in samples.items()}


def open_case(case: Case, subject: Subject, work: Path) -> tuple[DenseGraph, LatencyTable]:
    """Trace the dense model and measure its table, or find both in `work`."""
    model = CLASSES[case.model].from_pretrained(subject.folder, attn_implementation="eager")
    settings = TableConfig(
        batch=case.batch,
        length=case.length,
        past=case.past,
        num_threads=1,
        clock="cpu",
        num_rounds=40,
    )
    dense = trace_dense(model.float().eval(), work / case.model)
    return dense, measure_table(model, settings, cache=work / "tables")


def compare(
    case: Case,
    planner: Planner,
    dense: DenseGraph,
    table: LatencyTable,
    speedup: float,
    seconds: float,
) -> dict[str, Any]:
    """Find the parameter budget of equal latency, and return the losses of both plans."""
    dims, asked = planner.subject.dims, LatencyBudget(speedup=speedup)
    by_latency = planner.keep(table, find_fraction(table, table.dense_ms, dims, asked, LIMITS))
    plans = {"dense": PruningPlan.dense(dims, ""), "latency": planner.plan(by_latency)}
    wanted_ms = table.predict_ms(plans["latency"])
    tried: dict[int, dict[str, float]] = {}
    number = planner.find_parameters(table, wanted_ms)
    while number not in tried and len(tried) < MAX_PAIRS:
        plans["parameters"] = planner.plan(planner.keep_parameters(number))
        took = tried[number] = measure_plans(dense, plans, case, seconds)
        excess = (took["parameters"] - took["latency"]) / took["dense"]
        if abs(took["parameters"] / took["latency"] - 1) <= TOLERANCE:
            break
        # What the table foretold wrongly of this pair, it does of its neighbours.
        wanted_ms = table.predict_ms(plans["parameters"]) - excess * table.dense_ms
        number = planner.find_parameters(table, wanted_ms)
    number = min(tried, key=lambda n: abs(tried[n]["parameters"] / tried[n]["latency"] - 1))
    took = tried[number]
    layers = {"latency": by_latency, "parameters": planner.keep_parameters(number)}
    losses = {name: planner.measure_loss(kept) for name, kept in layers.items()}
    return {
        "case": case.name,
        "seed": planner.seed,
        "asked_speedup": speedup,
        "measured_ms": took,
        "measured_speedup": took["dense"] / took["latency"],
        "parameters_over_latency_ms": took["parameters"] / took["latency"],
        "loss_rise": {n: loss - planner.subject.dense["loss"] for n, loss in losses.items()},
        "kept_parameters": {n: planner.subject.kept_fraction(k) for n, k in layers.items()},
        "kept_units": {n: _count(kept) for n, kept in layers.items()},
        "num_measured_pairs": len(tried),
    }


def _count(layers: tuple[LayerPlan, ...]) -> list[tuple[int, int]]:
    return [(len(layer.kept_heads or ()), layer.num_kept_neurons) for layer in layers]


def main() -> None:
    """Compare at every speed-up, and write what there is after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="*", choices=names, default=names)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--speedups", nargs="*", type=float, default=list(SPEEDUPS))
    parser.add_argument("--seconds", type=float, default=6.0, help="of processor time a pair")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "equal_latency")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kept = args.work / "rows.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    done = {(row["case"], row["seed"], row["asked_speedup"]) for row in rows}
    folders = make_models({case.model for case in CASES if case.name in args.cases})
    subjects = {n: Subject(name=n, folder=f, num_sequences=128) for n, f in folders.items()}
    planners: dict[tuple[str, int], Planner] = {}
    for seed in args.seeds:
        for case in (case for case in CASES if case.name in args.cases):
            asked = [s for s in args.speedups if (case.name, seed, s) not in done]
            if not asked:
                continue
            key = (case.model, seed)
            scored = args.work / f"{case.model}-{seed}.json"
            planners[key] = planners.get(key) or Planner(subjects[case.model], seed, scored)
            dense, table = open_case(case, subjects[case.model], args.work)
            for speedup in asked:
                row = compare(case, planners[key], dense, table, speedup, args.seconds)
                rows.append(row)
                print(json.dumps({k: v for k, v in row.items() if k != "kept_units"}), flush=True)
                kept.write_text(json.dumps(rows) + "\n")
    write_result(rows, args.out)


def write_result(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the rows, each against its bars: equal latency, and no more loss."""
    bars = []
    for row in rows:
        name = f"{row['case']} at {row['asked_speedup']:g}x, draw {row['seed']}"
        gap, rises = abs(row["parameters_over_latency_ms"] - 1), row["loss_rise"]
        bars += [
            make_bar(f"{name}: |ratio of the latencies - 1|", gap, TOLERANCE, "at_most"),
            make_bar(
                f"{name}: rise of the loss, by milliseconds", rises["latency"],
                rises["parameters"], "at_most",
            ),
        ]  # fmt: skip
    result = {
        "benchmark": "equal_latency",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": {n: find_version(n) for n in ("onnxruntime", "torch", "transformers")},
        "environment": capture_environment(1),
        "data": "debian package descriptions: 128 sequences of calibration a draw; validation rows",
        "clock": "processor time of one thread, in turns; lower quartiles",
        "rows": rows,
        "bars": bars,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(bar['met'] for bar in bars)} of {len(bars)} bars met", flush=True)


if __name__ == "__main__":
    main()
