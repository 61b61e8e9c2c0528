"""What a deployment returns, and the figures that one wants to see first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nirvana_deploy.profile_summary import describe_profile
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_figures import describe_metric, summarise, summarise_latency
from pruning.strict_json import JsonMapping


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployResult:
    """Hold the run folder, the report, and each stage's folder and result (plain data).

    Attributes:
        skipped: stages that were finished before and still hold.
    """

    out: Path
    report: Path
    folders: Mapping[str, Path]
    results: Mapping[str, JsonMapping]
    skipped: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """The pruned checkpoint, a Hugging Face folder."""
        return self.folders["prune"] / "checkpoint"

    @property
    def onnx(self) -> Path:
        """The pruned model as ONNX; of an encoder-decoder's graphs the first.

        Raises:
            NirvanaError: the recipe switches the export off.
        """
        if self.results["export"].get("status") == "skipped":
            raise NirvanaError(f"{self.out} has no ONNX: {self.results['export']['reason']}")
        return self.folders["export"] / str(self.results["export"]["pruned"]["onnx_path"])

    def headline(self) -> list[tuple[str, str]]:
        """Return the first figures as (what, value) for a person to read."""
        return [
            *_describe_prune(self.results["prune"]),
            *_describe_speed(self.results["profile"]),
            *_describe_engines(self.results["build"]),
            ("server folder", self._describe_package()),
            ("report", str(self.report)),
        ]

    def to_json(self) -> dict[str, object]:
        """Return plain data: where everything is, and the result of each stage."""
        return {
            "out": str(self.out),
            "report": str(self.report),
            "checkpoint": str(self.checkpoint),
            "onnx": None if "status" in self.results["export"] else str(self.onnx),
            "skipped": list(self.skipped),
            "results": dict(self.results),
        }

    def _describe_package(self) -> str:
        package = self.results["package"]
        if package.get("status") == "skipped":
            return _describe_skipped(package)
        return str(self.folders["package"] / package["folder"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """Hold the pruned checkpoint, its plan, and the stage's figures (plain data)."""

    checkpoint: Path
    plan: Path
    figures: Mapping[str, object]

    def headline(self) -> list[tuple[str, str]]:
        """Return the first figures as (what, value) for a person to read."""
        return [*_describe_prune(self.figures), ("checkpoint", str(self.checkpoint))]

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        places = {"checkpoint": str(self.checkpoint), "plan": str(self.plan)}
        return {**places, "figures": dict(self.figures)}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotResult:
    """Hold what a scoring run gave at one budget: checkpoint, plan, and figures (plain data)."""

    budget: float
    checkpoint: Path
    plan: Path
    figures: Mapping[str, object]

    def headline(self) -> list[tuple[str, str]]:
        """Return the first figures as (what, value) for a person to read."""
        return [*summarise(self.figures), ("checkpoint", str(self.checkpoint))]

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        places = {"checkpoint": str(self.checkpoint), "plan": str(self.plan)}
        return {"budget": self.budget, **places, "figures": dict(self.figures)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Hold the first ONNX file, and what is said of all of them in `export.json` (plain data)."""

    onnx: Path
    figures: JsonMapping

    def headline(self) -> list[tuple[str, str]]:
        """Return what a person wants to know of it, as (what, value)."""
        figures = self.figures
        graphs = figures["graphs"].values()
        total, fused = (
            sum(graph[key] for graph in graphs)
            for key in ("num_attentions", "num_fused_attentions")
        )
        difference, tolerance = figures["max_abs_difference"], figures["tolerance"]
        found = [
            ("folder", str(self.onnx.parent)),
            ("graphs", ", ".join(graph["file"] for graph in graphs)),
            ("task", figures["task"]),
            (
                "form",
                f"{figures['form']}, {figures['precision']}, opset {figures['opset']}, "
                f"{figures['num_nodes']} nodes, {figures['size_bytes'] / 1e6:.1f} MB",
            ),
            ("difference", f"{difference:.1e} at most (gate {tolerance:.0e})"),
        ]
        if figures["form"] != "portable":
            rest = (
                "" if fused == total else "; each place that is left has its reason in export.json"
            )
            found.append(("attentions fused", f"{fused} of {total}{rest}"))
        return found

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {"onnx": str(self.onnx), **self.figures}


def _describe_prune(prune: JsonMapping) -> Iterator[tuple[str, str]]:
    budget, dense, pruned = prune["budget"], prune["dense"], prune["pruned"]
    unit = {"macs": "MACs"}.get(budget["cost"], budget["cost"])
    yield (
        f"kept of the blocks' {unit}",
        f"{budget['kept_fraction']:.2%} (asked: {budget['asked_kept_fraction']:.2%})",
    )
    if "latency" in prune:
        yield summarise_latency(prune["latency"])
    name = prune.get("metric", "accuracy")
    yield describe_metric(name, dense[name], pruned[name])
    if name == "perplexity":  # a language model's loss is what its validations show
        yield describe_metric("loss", dense["loss"], pruned["loss"])
    yield (
        "checkpoint size",
        f"{dense['size_bytes'] / 1e6:.1f} MB -> {pruned['size_bytes'] / 1e6:.1f} MB",
    )


def _describe_speed(profile: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if profile.get("status") == "skipped":
        yield "latency", _describe_skipped(profile)
        return
    yield from describe_profile(profile)


def _describe_skipped(result: Mapping[str, object]) -> str:
    """Say what a stage that was not done says of itself."""
    return f"{result['status']}: {result['reason']} {result.get('install', '')}".strip()


def _describe_engines(build: JsonMapping) -> Iterator[tuple[str, str]]:
    if "engines" not in build:
        yield "engine", _describe_engine(build)
    for engine in build.get("engines", ()):
        yield f"engine of {engine['graph']}", _describe_engine(engine)


def _describe_engine(build: JsonMapping) -> str:
    if build["status"] != "built":
        return _describe_skipped(build)
    num_fused = build["num_fused_attentions"]
    fused = "an unknown number" if num_fused is None else str(num_fused)
    parts = [
        f"{build['flavour']} {build['version']}",
        build["precision_asked"],
        f"{fused} of {build['num_attention_layers']} attentions fused",
        *build.get("warnings", ()),
    ]
    return ", ".join(parts)
