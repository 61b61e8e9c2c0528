"""Compares pruning methods on the same models, data and budgets.

    pip install 'nirvana-deploy[bench]'
    python benchmarks/methods.py [--models encoder ...] [--methods ours ...] [--budgets 0.5 ...]
                                 [--seeds 0 ...] [--steps 0 60] [--minutes 60] [--quick]
                                 [--report] [--accept-older]

Models are those of `method_models.py`; a budget is the share of the blocks' parameters that is
kept. Every method gets the same calibration draw for a seed (128 sequences of 128 tokens), cuts
neurons in steps of 8, and is measured on the same validation rows, at once (`--steps 0`) and after
the same fine-tuning. Cells are kept in runs/methods.jsonl: a run that was stopped goes on. Those
that matter most come first; when the minutes are over, no more are begun, and what is missing is
listed. Writes benchmarks/results/methods.json and docs/images/methods-*.png.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # every file that is needed is on this disk

from figures import describe_hardware
from method_cells import CellFile, Key, hash_sources
from method_models import CLASSES, make_models
from method_ours import prune_ours
from method_peers import (
    prune_fisher,
    prune_flap,
    prune_magnitude_global,
    prune_magnitude_uniform,
    prune_nirvana,
    prune_taylor,
)
from method_report import make_bars, print_tables
from method_subjects import Pruned, Subject
from method_training import TRAINING, fine_tune
from torch_pruning_peer import prune_torch_pruning

from pruning.errors import NirvanaError

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "methods.json"
CELLS = ROOT / "runs" / "methods.jsonl"
BUDGETS = (0.5, 0.35, 0.65, 0.8)  # the first is the one that bars are about
STEPS = 60
PACKAGES = ("torch", "transformers", "torch-pruning", "numpy")


@dataclass(frozen=True, slots=True)
class Method:
    """A method by the function that runs it, and the module that this is in.

    Attributes:
        prune: (subject, budget, seed), and for one that learns, steps.
        learns: it has no result without training.
        looks_at_data: else its result is the same for all seeds, until it is fine-tuned.
    """

    prune: Callable[..., Pruned]
    source: str
    learns: bool = False
    looks_at_data: bool = True


def _prune_gates(*asked: Any) -> Pruned:
    from method_gates import prune_gates

    return prune_gates(*asked)


def _prune_hard_concrete(*asked: Any) -> Pruned:
    from method_gates import prune_hard_concrete

    return prune_hard_concrete(*asked)


_TP = partial(Method, source="torch_pruning_peer")
METHODS: dict[str, Method] = {
    "ours": Method(prune_ours, "method_ours"),
    "magnitude-uniform": Method(prune_magnitude_uniform, "method_peers", looks_at_data=False),
    "magnitude-global": Method(prune_magnitude_global, "method_peers", looks_at_data=False),
    "llm-pruner-taylor": Method(prune_taylor, "method_peers"),
    "kwon-fisher": Method(prune_fisher, "method_peers"),
    "flap": Method(prune_flap, "method_peers"),
    "nirvana": Method(prune_nirvana, "method_peers"),
    **{
        f"torch-pruning-{name}-{scope}": _TP(
            partial(prune_torch_pruning, taylor=name == "taylor", is_global=scope == "global"),
            looks_at_data=name == "taylor",
        )
        for name in ("magnitude", "taylor")
        for scope in ("local", "global")
    },
    "gates": Method(_prune_gates, "method_gates", learns=True),
    "cofi-hard-concrete": Method(_prune_hard_concrete, "method_gates", learns=True),
}


def main() -> None:
    """Measure what is asked and not measured yet, then write all of it."""
    arguments = _parse_arguments()
    cells = CellFile(CELLS)
    folders = make_models(arguments.models)
    subjects = {
        name: Subject(name=name, folder=folders[name], num_sequences=arguments.sequences)
        for name in arguments.models
    }
    deadline = time.monotonic() + 60 * arguments.minutes
    found, missing = [], []
    for name, method, budget, seed, steps in _list_cells(arguments):
        key = _make_key(subjects[name], method, budget, seed, steps)
        cell = cells.find(key)
        if cell is None and arguments.accept_older:
            cell = cells.find_older(key)
        if cell is None and not arguments.report and time.monotonic() < deadline:
            cell = measure(subjects[name], method, budget, seed, steps)
            cells.add(key, cell)
            print(name, method, budget, seed, steps, _shorten(cell), flush=True)
        asked = {"model": name, "method": method, "budget": budget, "seed": seed, "steps": steps}
        (missing if cell is None else found).append({**asked, **(cell or {})})
    result = {
        "benchmark": "methods",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "versions": _read_versions(),
        "calibration": f"{arguments.sequences} sequences of at most 128 tokens, a draw a seed",
        "training": TRAINING,
        "dense": {name: subject.dense for name, subject in subjects.items()},
        "cells": found,
        "not_measured": missing,
        "bars": make_bars(found, BUDGETS[0]),
    }
    print_tables(result)
    if not arguments.quick:
        from method_plots import draw_plots

        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        draw_plots(result, ROOT / "docs" / "images")


def measure(subject: Subject, method: str, budget: float, seed: int, steps: int) -> dict[str, Any]:
    """Prune, train where there are steps, and measure; a failure is a result too."""
    chosen, started = METHODS[method], time.monotonic()
    try:
        if chosen.learns:
            pruned = chosen.prune(subject, budget, seed, steps)
            prune_seconds = time.monotonic() - started
        else:
            pruned = chosen.prune(subject, budget, seed)
            prune_seconds = time.monotonic() - started
            if steps:
                fine_tune(subject, pruned, seed, steps)
        kept = subject.kept_fraction(pruned.layers)
        if kept > budget:
            raise NirvanaError(f"It keeps {kept:.4f} of the blocks' parameters, above {budget}.")
        figures = subject.measure(pruned.model)
    except Exception as error:  # whatever stops a method is told in its cell
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    return {
        "loss": figures["loss"],
        "loss_increase": figures["loss"] - subject.dense["loss"],
        "accuracy": figures["accuracy"],
        "kept_fraction": kept,
        "prune_seconds": round(prune_seconds, 2),
        "seconds": round(time.monotonic() - started, 2),
        "note": pruned.note,
    }


def _list_cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, float, int, int]]:
    """Yield what is asked: one-shot first, then training; at each budget all models and seeds."""
    for steps in sorted(arguments.steps):
        for budget in arguments.budgets:
            if steps and budget not in arguments.trained_budgets:
                continue
            for seed in arguments.seeds:
                for name in arguments.models:
                    for method in arguments.methods:
                        if steps or not METHODS[method].learns:
                            yield name, method, budget, seed, steps


def _make_key(subject: Subject, method: str, budget: float, seed: int, steps: int) -> Key:
    chosen = METHODS[method]
    sources = [chosen.source, "method_subjects", "method_models"]
    return Key(
        model=subject.name,
        method=method,
        budget=budget,
        seed=seed if chosen.looks_at_data or steps else 0,
        steps=steps,
        settings=f"{subject.num_sequences} sequences, {(subject.folder / 'key.txt').read_text()}",
        sources=hash_sources(*sources, *(["method_training"] if steps else [])),
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--trained-budgets", nargs="+", type=float, default=[BUDGETS[0]])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs="+", type=int, default=[0, STEPS])
    parser.add_argument("--sequences", type=int, default=128, help="of a calibration draw")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which none is begun")
    parser.add_argument(
        "--report", action="store_true", help="measure nothing, write what is there"
    )
    parser.add_argument(
        "--accept-older",
        action="store_true",
        help="take cells that earlier sources made too; they carry the hash of these",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, one budget, 16 sequences; writes no result"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.budgets = arguments.seeds[:1], arguments.budgets[:1]
        arguments.sequences = 16
        arguments.steps = [min(steps, 8) for steps in arguments.steps]
    return arguments


def _read_versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _shorten(cell: dict[str, Any]) -> str:
    if "failed" in cell:
        return f"failed: {cell['failed']}"
    increase, kept = cell["loss_increase"], cell["kept_fraction"]
    return f"{increase:+.4f} kept {kept:.4f} {cell['seconds']:.0f} s {cell['note']}"


if __name__ == "__main__":
    main()
