"""Run folders as `nirvana deploy` leaves them: manifests with made-up figures, and nothing else."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.plan_figures import describe_layers
from tests.pruning.allocation.small_dims import make_stack

PROOF = {
    "left": "loaded",
    "right": "saved",
    "num_rows": 8,
    "max_abs_difference": 0,
    "bitwise_equal": True,
}
LABELS = [f"section-{index}" for index in range(24)]
KEPT_HEADS = [[0, 3, 5, 8, 9, 11], [1, 2, 4, 7], [0, 1, 2, 6, 7, 9, 10], [3], [], [2, 5, 8]]
KEPT_NEURONS = [1204, 911, 640, 777, 0, 1067]


def make_layers() -> list[dict[str, Any]]:
    return [
        {
            "layer": layer,
            "num_heads": 12,
            "kept_heads": KEPT_HEADS[layer],
            "num_neurons": 1536,
            "num_kept_neurons": KEPT_NEURONS[layer],
            "attention_dropped": not KEPT_HEADS[layer],
            "mlp_dropped": not KEPT_NEURONS[layer],
        }
        for layer in range(6)
    ]


def make_prune() -> dict[str, Any]:
    def kept(step: int) -> float:
        return max(0.5, 1 - step / 600)

    return {
        "budget": {
            "cost": "macs",
            "asked_kept_fraction": 0.5,
            "kept_fraction": 0.49997,
            "sequence_length": 128,
            "unit_cost": 768,
        },
        "dense": {
            "accuracy": 0.80625,
            "macro_f1": 0.80417,
            "loss": 0.6631,
            "num_parameters": 22722456,
            "block_parameters": 10646784,
            "block_macs": 1434451968,
            "size_bytes": 90915072,
        },
        "pruned": {
            "accuracy": 0.80083,
            "macro_f1": 0.79911,
            "loss": 0.7012,
            "num_parameters": 17402113,
            "block_parameters": 5326441,
            "block_macs": 717182951,
            "size_bytes": 69633700,
        },
        "num_pruning_stages": 4,
        "undecided_fraction": 0.021,
        "objective": "budget_constraint",
        "layers": make_layers(),
        "curve": [
            {
                "step": step,
                "loss": 2.4 / (1 + step / 60) + 0.4,
                "target_kept_fraction": [0.875, 0.75, 0.625, 0.5][min(step // 100, 3)],
                "kept_fraction": kept(step),
                "undecided_fraction": 0.3,
            }
            for step in range(0, 400, 10)
        ],
        "validations": [
            {
                "step": 100 * stage,
                "pruning_stage": stage,
                "target_kept_fraction": 1 - stage / 8,
                "kept_fraction": kept(100 * stage),
                "accuracy": 0.806 - 0.0013 * stage,
                "loss": 0.66 + 0.01 * stage,
            }
            for stage in (1, 2, 3, 4)
        ],
        "train_seconds": 251.7,
    }


def make_graph(name: str, size_bytes: int) -> dict[str, Any]:
    shapes = [(1, 16, False), (2, 37, True), (8, 128, True), (3, 200, False)]
    return {
        "onnx_path": f"{name}/model.onnx",
        "sha256": ("d" if name == "dense" else "e") * 64,
        "size_bytes": size_bytes,
        "opset": 18,
        "num_nodes": 412,
        "tolerance": 1e-4,
        "max_abs_difference": 3.1e-6,
        "cases": [
            {"batch": batch, "length": length, "padded": padded, "max_abs_difference": 1e-6 * batch}
            for batch, length, padded in shapes
        ],
    }


def make_build() -> dict[str, Any]:
    ids = {"min": [1, 16], "opt": [8, 128], "max": [32, 512]}
    return {
        "status": "built",
        "flavour": "tensorrt_rtx",
        "version": "1.7.1.116",
        "precision_asked": "fp16",
        "precision_found": {"fp16": 31, "fp32": 4},
        "compute_capabilities": ["sm86", "sm89"],
        "num_attention_layers": 6,
        "num_fused_attentions": 5,
        "engine_path": "engine.plan",
        "engine_size_bytes": 35712345,
        "build_seconds": 14.2,
        "onnx_sha256": "e" * 64,
        "optimisation_profile": {"input_ids": ids, "attention_mask": ids},
    }


def make_timing(median_ms: float, batch: int, num_samples: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    enough = num_samples >= 64
    return {
        "median_ms": median_ms,
        "mean_ms": median_ms * 1.01,
        "p90_ms": median_ms * 1.06 if enough else None,
        "p90_note": None if enough else f"p90 needs 64 samples, {num_samples} were taken",
        "num_samples": num_samples,
        "coefficient_of_variation": 0.034,
        "throughput_per_s": 1000 * batch / median_ms,
        "samples_ms": [median_ms * draw.lognormvariate(0, 0.03) for _ in range(num_samples)],
    }


def make_profile() -> dict[str, Any]:
    return {
        "environment": {
            "cpu": "AMD EPYC 7763",
            "num_threads": 2,
            "memory_gb": 7.8,
            "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
            "gpu": None,
        },
        "method": {"warm_up_runs": 5, "interleaved": True, "provider": "CPUExecutionProvider"},
        "cases": [
            {
                "batch": 1,
                "length": 128,
                "dense": make_timing(46.2, 1, 96, 1),
                "pruned": make_timing(25.1, 1, 96, 2),
                "speedup": {"ratio": 1.841, "low": 1.79, "high": 1.88, "confidence": 0.95},
                "stationary": True,
                "notes": [],
            },
            {
                "batch": 8,
                "length": 128,
                "dense": make_timing(381.4, 8, 40, 3),
                "pruned": make_timing(219.2, 8, 40, 4),
                "speedup": {"ratio": 1.74, "low": 1.71, "high": 1.78, "confidence": 0.95},
                "stationary": False,
                "notes": ["variation over 2.5 %"],
            },
        ],
    }


def make_results() -> dict[str, dict[str, Any]]:
    """Return the result of each stage."""
    return {
        "baseline": {
            "model": "all-MiniLM-L6-v2",
            "num_train_rows": 9600,
            "num_validation_rows": 2400,
            "num_labels": 24,
            "labels": LABELS,
            "accuracy": 0.80625,
            "macro_f1": 0.80417,
            "loss": 0.6631,
            "train_seconds": 163.0,
            "num_steps": 300,
            "curve": [{"step": step, "loss": 3.2 / (1 + step / 80)} for step in range(0, 300, 10)],
        },
        "prune": make_prune(),
        "export": {
            "dense": make_graph("dense", 91001234),
            "pruned": make_graph("pruned", 69712345),
        },
        "build": make_build(),
        "profile": make_profile(),
        "package": {
            "folder": "models",
            "models": ["minilm_pruned"],
            "files": ["minilm_pruned/config.pbtxt", "minilm_pruned/1/model.onnx"],
        },
    }


def write_run(folder: Path, results: dict[str, dict[str, Any]]) -> Path:
    """Write a manifest a stage, and a recipe."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("model: demo\nprune:\n  keep: 0.5\n")
    for stage, result in results.items():
        manifest = {"stage": stage, "key": "0", "started": "2026-01-05 10:11", "seconds": 12.3}
        (folder / stage).mkdir(exist_ok=True)
        path = folder / stage / "manifest.json"
        path.write_text(json.dumps({**manifest, "result": result}))
    return folder


def make_plan(kept_fraction: float, *, cross: bool = False) -> PruningPlan:
    """Make a plan of a 6-layer encoder (with `cross`: and a 4-layer decoder) that keeps a part."""
    stacks = [make_stack("encoder", 6, 12, 12, 1536, hidden=384)]
    if cross:
        stacks.append(make_stack("decoder", 4, 12, 12, 1536, hidden=384))
    layers = []
    for stack in stacks:
        for number in range(stack.num_layers):
            share = kept_fraction * (1 + 0.3 * (number - 2.5) / 2.5)
            heads = tuple(range(max(1, min(12, round(12 * share)))))
            layers.append(
                LayerPlan(
                    kept_heads=heads,
                    kept_neurons=tuple(range(min(1536, round(1536 * share)))),
                    kept_cross_heads=heads[:-1] if stack.cross_attention else None,
                )
            )
    if cross:
        layers[-1] = LayerPlan.drop_block()
        layers[-2] = replace(layers[-2], kept_cross_heads=None)
    made_by = {"method": "one-shot", "saliency": "obs", "budget": kept_fraction}
    dims = DenseDims(model_type="bert", stacks=tuple(stacks))
    return PruningPlan(dims=dims, layers=tuple(layers), config_hash="c" * 64, made_by=made_by)


def write_budgets(folder: Path, budgets: Sequence[float]) -> Path:
    """Write what `nirvana prune --scores` leaves for several budgets, each with a profile."""
    for budget in budgets:
        place = folder / f"{budget:g}"
        place.mkdir(parents=True)
        make_plan(budget).save(place / "plan.json")
        (place / "figures.json").write_text(json.dumps(make_figures(budget)))
        (place / "profile.json").write_text(json.dumps(make_budget_profile(budget)))
    return folder


def make_figures(budget: float) -> dict[str, Any]:
    """Return the figures of one budget: no score of a task, only the divergence from dense."""
    prune = make_prune()
    sizes = ("num_parameters", "block_parameters", "block_macs", "size_bytes")
    return {
        "method": "one-shot",
        "saliency": "obs",
        "allocation": "KlKnapsack",
        "repair": "LeastSquares",
        "recovered": False,
        "budget": {**prune["budget"], "asked_kept_fraction": budget, "kept_fraction": budget},
        "dense": {name: prune["dense"][name] for name in sizes},
        "pruned": {name: round(prune["dense"][name] * budget) for name in sizes},
        "held_out": {"kl_divergence": 0.4 * (1 - budget) ** 2, "num_sequences": 32},
        "layers": describe_layers(make_plan(budget)),
    }


def make_budget_profile(budget: float) -> dict[str, Any]:
    """Return the profile of one budget, at five batch sizes."""
    profile = make_profile()
    time = 0.1 + 0.9 * budget
    profile["cases"] = [
        {
            "batch": batch,
            "length": 128,
            "dense": make_timing(46.0 * batch**0.9, batch, 64, batch),
            "pruned": make_timing(46.0 * batch**0.9 * time, batch, 64, batch + 1),
            "speedup": {"ratio": 1 / time, "low": 0.97 / time, "high": 1.03 / time}
            | {"confidence": 0.95},
            "stationary": True,
            "notes": [],
        }
        for batch in (1, 2, 4, 8, 16)
    ]
    return profile
