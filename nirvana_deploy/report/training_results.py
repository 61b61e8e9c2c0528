"""The results of `baseline` and `prune` as frozen records; fractions are 0..1."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.numbers import METRICS


def _read_scores(row: Fields, names: Iterable[str]) -> dict[str, float]:
    found = ((name, row.number(name)) for name in names)
    return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One training or validation step; a training step has no scores, nor has a language model."""

    step: int
    loss: float | None
    scores: Mapping[str, float]
    target_kept_fraction: float | None
    kept_fraction: float | None
    pruning_stage: int | None

    def score(self, name: str) -> float | None:
        """Return a metric, or the loss."""
        return self.loss if name == "loss" else self.scores.get(name)

    @classmethod
    def read_all(cls, rows: tuple[Fields, ...]) -> tuple["CurvePoint", ...]:
        """Read the rows that name a step."""
        return tuple(
            cls(
                step=step,
                loss=row.number("loss"),
                scores=_read_scores(row, METRICS),
                target_kept_fraction=row.number("target_kept_fraction"),
                kept_fraction=row.number("kept_fraction"),
                pruning_stage=row.count("pruning_stage"),
            )
            for row in rows
            if (step := row.count("step")) is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The fine-tuned dense model that the pruned one is compared with."""

    model: str | None
    num_train_rows: int | None
    num_validation_rows: int | None
    num_labels: int | None
    labels: tuple[str, ...]
    train_seconds: float | None
    num_steps: int | None
    curve: tuple[CurvePoint, ...]

    @classmethod
    def read(cls, result: Fields) -> "Baseline":
        """Read the `baseline` result."""
        return cls(
            model=result.text("model"),
            num_train_rows=result.count("num_train_rows"),
            num_validation_rows=result.count("num_validation_rows"),
            num_labels=result.count("num_labels"),
            labels=result.texts("labels"),
            train_seconds=result.number("train_seconds"),
            num_steps=result.count("num_steps"),
            curve=CurvePoint.read_all(result.rows("curve")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """The size and the quality of one model, dense or pruned."""

    scores: Mapping[str, float]
    loss: float | None
    num_parameters: int | None
    block_parameters: int | None
    block_macs: int | None
    size_bytes: int | None

    def score(self, name: str) -> float | None:
        """Return a metric, or the loss."""
        return self.loss if name == "loss" else self.scores.get(name)

    @classmethod
    def read(cls, part: Fields, names: Iterable[str]) -> "ModelFigures":
        """Read `dense` or `pruned` of the `prune` result, with the metrics of these names."""
        return cls(
            scores=_read_scores(part, names),
            loss=part.number("loss"),
            num_parameters=part.count("num_parameters"),
            block_parameters=part.count("block_parameters"),
            block_macs=part.count("block_macs"),
            size_bytes=part.count("size_bytes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was asked and what came; `unit_cost` is that of the smallest removable unit."""

    cost: str | None
    asked_kept_fraction: float | None
    kept_fraction: float | None
    sequence_length: int | None
    unit_cost: float | None
    dense_cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What is kept of one layer.

    Attributes:
        stack: "encoder" or "decoder"; None where the run does not say.
        kept_cross_heads: None where the block has no cross-attention.
        dropped: the whole block is taken out.
    """

    layer: int
    stack: str | None
    num_heads: int
    kept_heads: frozenset[int]
    kept_cross_heads: frozenset[int] | None
    num_neurons: int
    num_kept_neurons: int
    attention_dropped: bool
    cross_attention_dropped: bool
    mlp_dropped: bool
    dropped: bool

    @classmethod
    def read(cls, index: int, row: Fields) -> "Layer":
        """Read one of `layers`; `index` stands in where the row names no layer."""
        named = row.count("layer")
        return cls(
            layer=index if named is None else named,
            stack=row.text("stack"),
            num_heads=row.count("num_heads") or 0,
            kept_heads=_read_heads(row, "kept_heads"),
            kept_cross_heads=_read_heads(row, "kept_cross_heads")
            if "kept_cross_heads" in row.names()
            else None,
            num_neurons=row.count("num_neurons") or 0,
            num_kept_neurons=row.count("num_kept_neurons") or 0,
            attention_dropped=bool(row.flag("attention_dropped")),
            cross_attention_dropped=bool(row.flag("cross_attention_dropped")),
            mlp_dropped=bool(row.flag("mlp_dropped")),
            dropped=bool(row.flag("dropped")),
        )


def _read_heads(row: Fields, key: str) -> frozenset[int]:
    return frozenset(round(head) for head in row.numbers(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProof:
    """Two forms of the pruned model compared by their logits, such as loaded with saved."""

    left: str
    right: str
    max_abs_difference: float | None
    tolerance: float | None
    bitwise_equal: bool | None
    num_rows: int | None

    @classmethod
    def read(cls, row: Fields) -> "StoredProof":
        """Read one of `proofs`."""
        return cls(
            left=row.text("left") or "one form",
            right=row.text("right") or "another",
            max_abs_difference=row.number("max_abs_difference"),
            tolerance=row.number("tolerance"),
            bitwise_equal=row.flag("bitwise_equal"),
            num_rows=row.count("num_rows"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How far a one-shot model's predictions are from the dense ones on some text."""

    kl_divergence: float | None
    num_sequences: int | None

    @classmethod
    def read(cls, part: Fields) -> "Fidelity":
        """Read `calibration` or `held_out`."""
        return cls(
            kl_divergence=part.number("kl_divergence"), num_sequences=part.count("num_sequences")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What a budget in milliseconds was told to give; `how` says where the prices are from."""

    dense_ms: float
    pruned_ms: float
    how: str
    call: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, part: Fields) -> "Predicted | None":
        """Read `latency` of a one-shot result; None where the budget was not in milliseconds."""
        dense_ms, pruned_ms = part.number("dense_ms"), part.number("predicted_ms")
        if dense_ms is None or pruned_ms is None:
            return None
        target, how = part.text("target"), part.text("how") or "predicted"
        return cls(
            dense_ms=dense_ms,
            pruned_ms=pruned_ms,
            how=how if target is None else f"{how}, {target}",
            call=part.part("call").flattened(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """The pruning itself: budget, both models, what is kept, how it went.

    `metric` is what the task is judged by first.
    """

    method: str | None
    metric: str
    budget: Budget
    dense: ModelFigures
    pruned: ModelFigures
    num_pruning_stages: int | None
    undecided_fraction: float | None
    objective: str | None
    train_seconds: float | None
    layers: tuple[Layer, ...]
    curve: tuple[CurvePoint, ...]
    validations: tuple[CurvePoint, ...]
    proofs: tuple[StoredProof, ...]
    saliency: str | None
    allocation: str | None
    repair: str | None
    recovered: bool | None
    calibration: Fidelity
    held_out: Fidelity
    uncorrected_layers: tuple[int, ...]
    predicted: Predicted | None

    @property
    def is_one_shot(self) -> bool:
        """Tell whether it was pruned by scores; then there were no gates and no pruning stages."""
        return self.method == "one-shot"

    @classmethod
    def read(cls, result: Fields) -> "Prune":
        """Read the `prune` result."""
        budget = result.part("budget")
        # The loss is drawn apart.
        names = [
            name for name in dict.fromkeys((*METRICS, *result.texts("scores"))) if name != "loss"
        ]
        return cls(
            method=result.text("method"),
            metric=result.text("metric") or "accuracy",
            budget=Budget(
                cost=budget.text("cost"),
                asked_kept_fraction=budget.number("asked_kept_fraction"),
                kept_fraction=budget.number("kept_fraction"),
                sequence_length=budget.count("sequence_length"),
                unit_cost=budget.number("unit_cost"),
                dense_cost=budget.number("dense_cost"),
            ),
            dense=ModelFigures.read(result.part("dense"), names),
            pruned=ModelFigures.read(result.part("pruned"), names),
            num_pruning_stages=result.count("num_pruning_stages"),
            undecided_fraction=result.number("undecided_fraction"),
            objective=result.text("objective"),
            train_seconds=result.number("train_seconds"),
            layers=tuple(Layer.read(i, row) for i, row in enumerate(result.rows("layers"))),
            curve=CurvePoint.read_all(result.rows("curve")),
            validations=CurvePoint.read_all(result.rows("validations")),
            proofs=tuple(StoredProof.read(row) for row in result.rows("proofs")),
            saliency=result.text("saliency"),
            allocation=result.text("allocation"),
            repair=result.text("repair"),
            recovered=result.flag("recovered"),
            calibration=Fidelity.read(result.part("calibration")),
            held_out=Fidelity.read(result.part("held_out")),
            uncorrected_layers=tuple(round(n) for n in result.numbers("uncorrected_layers")),
            predicted=Predicted.read(result.part("latency")),
        )
