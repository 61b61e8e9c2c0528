"""What the report shows of `export`, `build`, `profile` and `package`.

These are views, not the results' own records (`profiles.comparing.profile_result` and others): a
report also shows runs of older versions and interrupted ones, so each value may be None.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nirvana_deploy.report.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeCheck:
    """One batch on which the ONNX file was compared with its source.

    Attributes:
        what: which call of the batch, such as "prompt" or "step 1".
        largest: the largest magnitude that the source gave.
        scale: what the tolerance was multiplied by; None in older results, where it was the largest
            magnitude or 1.
    """

    batch: int | None
    length: int | None
    padded: bool | None
    what: str | None
    max_abs_difference: float | None
    largest: float | None
    scale: float | None = None

    def allowed(self, tolerance: float | None) -> float | None:
        """Return the largest difference that a tolerance lets pass, as the comparison counts."""
        scale = max(1.0, self.largest or 0.0) if self.scale is None else self.scale
        return None if tolerance is None else tolerance * scale

    @classmethod
    def read(cls, row: Fields) -> "ShapeCheck":
        """Read one of the comparison's `cases`."""
        worst = row.number("worst_difference")  # where the tolerance is nearest
        return cls(
            batch=row.count("batch"),
            length=row.count("length"),
            padded=row.flag("padded"),
            what=row.text("what"),
            max_abs_difference=row.number("max_abs_difference") if worst is None else worst,
            largest=row.number("largest"),
            scale=row.number("scale"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model's ONNX export and the evidence for it.

    Attributes:
        onnx_path, sha256: of the first file; an encoder-decoder has several.
        hashes: of all files.
    """

    onnx_path: str | None
    sha256: str | None
    hashes: frozenset[str]
    size_bytes: int | None
    opset: int | None
    num_nodes: int | None
    tolerance: float | None
    max_abs_difference: float | None
    checks: tuple[ShapeCheck, ...]

    @classmethod
    def read(cls, part: Fields) -> "Graph":
        """Read `dense` or `pruned` of the `export` result."""
        # The comparison itself has more of each case than the summary beside it.
        cases = part.part("verification").rows("cases") or part.rows("cases")
        graphs, first = part.part("graphs"), part.text("sha256")
        files = [hashed for name in graphs.names() for hashed in _hashes(graphs.part(name))]
        return cls(
            onnx_path=part.text("onnx_path"),
            sha256=first,
            hashes=frozenset([*files, *([first] if first else [])]),
            size_bytes=part.count("size_bytes"),
            opset=part.count("opset"),
            num_nodes=part.count("num_nodes"),
            tolerance=part.number("tolerance"),
            max_abs_difference=part.number("max_abs_difference"),
            checks=tuple(ShapeCheck.read(row) for row in cases),
        )


def _hashes(graph: Fields) -> tuple[str, ...]:
    return tuple(hashed for _, hashed in graph.part("sha256").flattened())


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Both ONNX files."""

    dense: Graph
    pruned: Graph

    @classmethod
    def read(cls, result: Fields) -> "Export":
        """Read the `export` result."""
        return cls(dense=Graph.read(result.part("dense")), pruned=Graph.read(result.part("pruned")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """An engine and what its build log was found to say.

    Attributes:
        graph: which of several graphs it is of.
        profiles: the optimization profiles' names, and of each input its shapes.
    """

    graph: str | None
    flavour: str | None
    version: str | None
    precision_asked: str | None
    precision_found: tuple[tuple[str, str], ...]
    compute_capabilities: tuple[str, ...]
    num_attention_layers: int | None
    num_fused_attentions: int | None
    engine_path: str | None
    engine_size_bytes: int | None
    build_seconds: float | None
    onnx_sha256: str | None
    profiles: tuple[tuple[str, tuple[tuple[str, Fields], ...]], ...]
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, result: Fields) -> "Build":
        """Read the `build` result of an engine that was built."""
        parts = [result.part("optimisation_profile"), *result.rows("further_profiles")]
        names = result.texts("profile_names") or ("default",) * len(parts)
        return cls(
            graph=result.text("graph"),
            flavour=result.text("flavour"),
            version=result.text("version"),
            precision_asked=result.text("precision_asked"),
            precision_found=result.part("precision_found").flattened(),
            compute_capabilities=result.texts("compute_capabilities"),
            num_attention_layers=result.count("num_attention_layers"),
            num_fused_attentions=result.count("num_fused_attentions"),
            engine_path=result.text("engine_path"),
            engine_size_bytes=result.count("engine_size_bytes"),
            build_seconds=result.number("build_seconds"),
            onnx_sha256=result.text("onnx_sha256"),
            profiles=tuple(
                (name, tuple((taken, shapes.part(taken)) for taken in shapes.names()))
                for name, shapes in zip(names, parts, strict=False)
                if shapes
            ),
            warnings=result.texts("warnings"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingView:
    """The latencies of one model on one batch shape."""

    median_ms: float | None
    p90_ms: float | None
    p90_note: str | None
    num_samples: int | None
    coefficient_of_variation: float | None
    throughput_per_s: float | None
    samples_ms: tuple[float, ...]

    @classmethod
    def read(cls, part: Fields) -> "TimingView":
        """Read `dense` or `pruned` of a profile case."""
        return cls(
            median_ms=part.number("median_ms"),
            p90_ms=part.number("p90_ms"),
            p90_note=part.text("p90_note"),
            num_samples=part.count("num_samples"),
            coefficient_of_variation=part.number("coefficient_of_variation"),
            throughput_per_s=part.number("throughput_per_s"),
            samples_ms=part.numbers("samples_ms"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupView:
    """Dense over pruned latency with its confidence interval."""

    ratio: float | None
    low: float | None
    high: float | None
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseView:
    """Both models on one batch shape."""

    batch: int | None
    length: int | None
    dense: TimingView
    pruned: TimingView
    speedup: SpeedupView
    stationary: bool | None
    notes: tuple[str, ...]

    def name_shape(self) -> str:
        """Say the batch shape in words."""
        batch = "?" if self.batch is None else self.batch
        return f"batch {batch}" + (f", length {self.length}" if self.length is not None else "")

    @classmethod
    def read(cls, row: Fields) -> "CaseView":
        """Read one of the profile's `cases`."""
        speedup = row.part("speedup")
        return cls(
            batch=row.count("batch"),
            length=row.count("length"),
            dense=TimingView.read(row.part("dense")),
            pruned=TimingView.read(row.part("pruned")),
            speedup=SpeedupView(
                ratio=speedup.number("ratio"),
                low=speedup.number("low"),
                high=speedup.number("high"),
                confidence=speedup.number("confidence"),
            ),
            stationary=row.flag("stationary"),
            notes=row.texts("notes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The measurements, and where and how they were made.

    Attributes:
        generations: what generating text took, a part a batch size.
        loads: what a model gave under load, a part a model and load.
        partial: what ended the measurement early, in words.
    """

    environment: Fields
    method: Fields
    cases: tuple[CaseView, ...]
    generations: tuple[Fields, ...]
    loads: tuple[Fields, ...]
    partial: str | None

    @classmethod
    def read(cls, result: Fields) -> "Profile":
        """Read the `profile` result."""
        return cls(
            environment=result.part("environment"),
            method=result.part("method"),
            cases=tuple(CaseView.read(row) for row in result.rows("cases")),
            generations=result.rows("generations"),
            loads=result.rows("loads"),
            partial=result.text("partial"),
        )


def list_shapes(cases: Iterable[CaseView]) -> tuple[str, ...]:
    """Name the batch shapes that are there, small ones first."""
    ordered = sorted(cases, key=lambda case: (case.length or 0, case.batch or 0))
    return tuple(dict.fromkeys(case.name_shape() for case in ordered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The serving folder."""

    folder: str | None
    models: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def read(cls, result: Fields) -> "Package":
        """Read the `package` result."""
        return cls(
            folder=result.text("folder"),
            models=result.texts("models"),
            files=result.texts("files"),
        )
