"""From a Hugging Face Transformer and a budget to a smaller model in a server folder.

    from nirvana_deploy import deploy
    result = deploy("recipes/quickstart.yaml")

Names are imported when they are first used, so that `import nirvana_deploy` is quick and starts
no device.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.compare.compare_config import CompareConfig as CompareConfig
    from exporters.engines.engine_config import EngineConfig as EngineConfig
    from exporters.export_config import ExportConfig as ExportConfig
    from nirvana_deploy.api.engines import build as build
    from nirvana_deploy.api.engines import run_engine as run_engine
    from nirvana_deploy.api.exporting import export as export
    from nirvana_deploy.api.exporting import inspect as inspect
    from nirvana_deploy.api.exporting import load as load
    from nirvana_deploy.api.exporting import prove_model as prove_model
    from nirvana_deploy.api.exporting import read_plan as read_plan
    from nirvana_deploy.api.exporting import surgeon as surgeon
    from nirvana_deploy.api.exporting import verify as verify
    from nirvana_deploy.api.machines import doctor as doctor
    from nirvana_deploy.api.machines import estimate as estimate
    from nirvana_deploy.api.machines import targets as targets
    from nirvana_deploy.api.measuring import certify as certify
    from nirvana_deploy.api.measuring import evaluate as evaluate
    from nirvana_deploy.api.measuring import profile as profile
    from nirvana_deploy.api.measuring import sweep as sweep
    from nirvana_deploy.api.measuring import verify_certificate as verify_certificate
    from nirvana_deploy.api.pruning import apply_plan as apply_plan
    from nirvana_deploy.api.pruning import plan_for as plan_for
    from nirvana_deploy.api.pruning import prove as prove
    from nirvana_deploy.api.pruning import prune as prune
    from nirvana_deploy.api.pruning import prune_from_scores as prune_from_scores
    from nirvana_deploy.api.pruning import repack as repack
    from nirvana_deploy.api.pruning import save_pruned as save_pruned
    from nirvana_deploy.api.pruning import score as score
    from nirvana_deploy.api.runs import deploy as deploy
    from nirvana_deploy.api.runs import draw_report as draw_report
    from nirvana_deploy.api.serving import package as package
    from nirvana_deploy.api.serving import serve as serve
    from nirvana_deploy.runs.deploy_result import DeployResult as DeployResult
    from nirvana_deploy.runs.deploy_result import ExportResult as ExportResult
    from nirvana_deploy.runs.deploy_result import OneShotResult as OneShotResult
    from nirvana_deploy.runs.deploy_result import PruneResult as PruneResult
    from nirvana_deploy.runs.recipe import Recipe as Recipe
    from nirvana_deploy.runs.recipe import load_recipe as load_recipe
    from nirvana_deploy.serving.package_config import PackageConfig as PackageConfig
    from nirvana_deploy.serving.server.serve_config import ServeConfig as ServeConfig
    from profiles.latency.latency_config import LatencyConfig as LatencyConfig
    from profiles.latency.latency_config import TableConfig as TableConfig
    from profiles.measuring.measure_config import ProfileConfig as ProfileConfig
    from profiles.measuring.measure_config import SweepConfig as SweepConfig
    from pruning.allocation.allocation_config import GlobalThreshold as GlobalThreshold
    from pruning.allocation.allocation_config import KlKnapsack as KlKnapsack
    from pruning.allocation.allocation_config import Uniform as Uniform
    from pruning.allocation.constraints import Constraints as Constraints
    from pruning.calibration.calibration_config import CalibrationConfig as CalibrationConfig
    from pruning.checkpoints.remote_code import allow_remote_code as allow_remote_code
    from pruning.errors import MissingExtraError as MissingExtraError
    from pruning.errors import NirvanaError as NirvanaError
    from pruning.gates.attach_gates import attach_gates as attach_gates
    from pruning.gates.attach_gates import finish_gates as finish_gates
    from pruning.gates.gate_kinds import GateUnits as GateUnits
    from pruning.gates.gate_kinds import HardConcrete as HardConcrete
    from pruning.gates.gate_kinds import SoftSigmoid as SoftSigmoid
    from pruning.gates.gate_kinds import StraightThrough as StraightThrough
    from pruning.gates.prune_config import BudgetConstraint as BudgetConstraint
    from pruning.gates.prune_config import CanaryConfig as CanaryConfig
    from pruning.gates.prune_config import FixedPenalty as FixedPenalty
    from pruning.gates.prune_config import PruneConfig as PruneConfig
    from pruning.gates.prune_config import ScheduleConfig as ScheduleConfig
    from pruning.gates.pruning_callback import PruningCallback as PruningCallback
    from pruning.oneshot.oneshot_config import LeastSquares as LeastSquares
    from pruning.oneshot.oneshot_config import MeanShift as MeanShift
    from pruning.oneshot.oneshot_config import NoRepair as NoRepair
    from pruning.oneshot.oneshot_config import OneShotConfig as OneShotConfig
    from pruning.oneshot.oneshot_config import ScoringConfig as ScoringConfig
    from pruning.plans.plan import LayerPlan as LayerPlan
    from pruning.plans.plan import PruningPlan as PruningPlan
    from pruning.tasks.data_config import DataConfig as DataConfig
    from pruning.tasks.text_data import load_text as load_text
    from pruning.training.distillation import Distillation as Distillation
    from pruning.training.recovery import recover as recover
    from pruning.training.training_configs import BaselineConfig as BaselineConfig
    from pruning.training.training_configs import DistillationConfig as DistillationConfig
    from pruning.training.training_configs import LoraConfig as LoraConfig
    from pruning.training.training_configs import RecoveryConfig as RecoveryConfig

_HOMES = {
    "nirvana_deploy.api.engines": (
        "build",
        "run_engine",
    ),
    "nirvana_deploy.api.exporting": (
        "export",
        "inspect",
        "load",
        "prove_model",
        "read_plan",
        "surgeon",
        "verify",
    ),
    "nirvana_deploy.api.machines": (
        "doctor",
        "estimate",
        "targets",
    ),
    "nirvana_deploy.api.measuring": (
        "certify",
        "evaluate",
        "profile",
        "sweep",
        "verify_certificate",
    ),
    "nirvana_deploy.api.pruning": (
        "apply_plan",
        "plan_for",
        "prove",
        "prune",
        "prune_from_scores",
        "repack",
        "save_pruned",
        "score",
    ),
    "nirvana_deploy.api.runs": (
        "deploy",
        "draw_report",
    ),
    "nirvana_deploy.api.serving": (
        "package",
        "serve",
    ),
    "nirvana_deploy.runs.deploy_result": (
        "DeployResult",
        "ExportResult",
        "OneShotResult",
        "PruneResult",
    ),
    "nirvana_deploy.runs.recipe": (
        "Recipe",
        "load_recipe",
    ),
    "nirvana_deploy.serving.package_config": ("PackageConfig",),
    "nirvana_deploy.serving.server.serve_config": ("ServeConfig",),
    "exporters.compare.compare_config": ("CompareConfig",),
    "exporters.engines.engine_config": ("EngineConfig",),
    "exporters.export_config": ("ExportConfig",),
    "profiles.measuring.measure_config": (
        "ProfileConfig",
        "SweepConfig",
    ),
    "profiles.latency.latency_config": (
        "LatencyConfig",
        "TableConfig",
    ),
    "pruning.training.training_configs": (
        "BaselineConfig",
        "DistillationConfig",
        "LoraConfig",
        "RecoveryConfig",
    ),
    "pruning.tasks.data_config": ("DataConfig",),
    "pruning.allocation.allocation_config": (
        "GlobalThreshold",
        "KlKnapsack",
        "Uniform",
    ),
    "pruning.allocation.constraints": ("Constraints",),
    "pruning.calibration.calibration_config": ("CalibrationConfig",),
    "pruning.oneshot.oneshot_config": (
        "LeastSquares",
        "MeanShift",
        "NoRepair",
        "OneShotConfig",
        "ScoringConfig",
    ),
    "pruning.checkpoints.remote_code": ("allow_remote_code",),
    "pruning.errors": (
        "MissingExtraError",
        "NirvanaError",
    ),
    "pruning.plans.plan": (
        "LayerPlan",
        "PruningPlan",
    ),
    "pruning.gates.gate_kinds": (
        "GateUnits",
        "HardConcrete",
        "SoftSigmoid",
        "StraightThrough",
    ),
    "pruning.gates.prune_config": (
        "BudgetConstraint",
        "CanaryConfig",
        "FixedPenalty",
        "PruneConfig",
        "ScheduleConfig",
    ),
}
# What a training script of one's own needs brings torch along: it is had by its name, not by `*`.
_TRAINING_HOMES = {
    "pruning.gates.attach_gates": (
        "attach_gates",
        "finish_gates",
    ),
    "pruning.gates.pruning_callback": ("PruningCallback",),
    "pruning.training.distillation": ("Distillation",),
    "pruning.training.recovery": ("recover",),
    "pruning.tasks.text_data": ("load_text",),
}
_HOME_OF = {name: home for home, names in {**_HOMES, **_TRAINING_HOMES}.items() for name in names}

__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("nirvana-deploy")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def _refuse_hidden() -> None:
    """Raise ImportError where Python finds a file or folder in place of one of our packages."""
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    if sys.argv[:1] == ["-m"]:  # `python -m nirvana_deploy` mends the import path, then asks again
        return
    home = Path(__file__).resolve().parents[1]
    for name in ("profiles", "exporters", "pruning"):
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else getattr(loaded, "__spec__", None)
        places = list((spec and spec.submodule_search_locations) or [])
        found = Path(places[0] if places else (spec and spec.origin) or home / name).resolve()
        if found != home / name:
            raise ImportError(
                f"nirvana-deploy needs its package {name!r} in {home / name}, and Python finds "
                f"{found} in its place: rename that one, or start Python so that its folder does "
                "not come first on the import path (from another folder, or with -P)."
            )


_refuse_hidden()


def __dir__() -> list[str]:
    return sorted([*_HOME_OF, "__version__"])
