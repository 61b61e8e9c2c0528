"""The roofline: what a target's figures allow, and where dense and pruned blocks stand under it.

All of it is an estimate, and says so: nothing was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from nirvana_deploy.report.chart import (
    DENSE,
    PRUNED,
    TARGET,
    Chart,
    Key,
    Style,
    draw_missing,
    style_of,
    titled,
)
from nirvana_deploy.report.markup import Html, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    format_milliseconds,
    format_percent,
    format_short,
    format_tick,
)
from nirvana_deploy.report.subject import Estimate, Subject
from profiles.targets.block_work import CallShape
from profiles.targets.roofline import PartEstimate, RooflineEstimate, estimate_plan
from profiles.targets.target import Target
from pruning.plans.plan import PruningPlan

_PARTS = {"attention": ("attention", "cross"), "MLP": ("mlp",)}
# The roof is drawn this much beyond the points, on both sides.
_MARGIN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """A target, and the call that is estimated on it."""

    target: Target
    precision: str
    call: CallShape

    @property
    def peak(self) -> float:
        """Operations a second at most."""
        return self.target.rate(self.precision).value * 1e12

    @property
    def bandwidth(self) -> float:
        """Bytes a second at most."""
        return self.target.memory_bandwidth_gb_per_s.value * 1e9

    def limit(self, intensity: float) -> float:
        """Return the most operations per second at an intensity (operations per byte)."""
        return min(self.peak, self.bandwidth * intensity)

    def describe(self) -> str:
        """Name the target, the precision and the call."""
        past = f", {self.call.past} tokens before" if self.call.past else ""
        shape = f"batch {self.call.batch}, length {self.call.length}{past}"
        return f"{self.target.title}, {self.precision}, {shape}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoofPoint:
    """Some parts of a model under a roof.

    Attributes:
        intensity: operations per byte.
        per_s: operations per second, if the estimated time is what it takes.
    """

    name: str
    style: Style
    intensity: float
    per_s: float
    latency_ms: float
    bound: str


def draw_roofline(subjects: Sequence[Subject], roofs: Sequence[Roof]) -> Html:
    """Draw a chart for each roof, and tables of estimates that were given; or say what is missing.

    One run alone is drawn with its attentions and its MLPs apart.
    """
    tables = [_draw_estimates(s) for s in subjects if s.estimates]
    planned = [subject for subject in subjects if subject.plan is not None]
    if roofs and not planned:
        return join([*tables, _missing_plan()])
    charts = [_draw_roof(planned, roof) for roof in roofs]
    if not charts and not tables:
        return draw_missing(
            "No target was named, so there is no roof.",
            "Name one or more of `nirvana targets`:",
            "nirvana report RUN --out FILE.html --target a100-40 --precision fp16",
        )
    return join([*charts, *tables])


def list_points(name: str, plan: PruningPlan, roof: Roof, style: Style) -> Iterator[RoofPoint]:
    """Give the point of all blocks, then of attentions and of MLPs, where there are any."""
    estimate = estimate_plan(plan, roof.target, roof.call, roof.precision)
    yield from _point(name, estimate.parts, estimate, roof, style)
    for words, kinds in _PARTS.items():
        parts = tuple(part for part in estimate.parts if part.name.split(".")[1] in kinds)
        yield from _point(f"{name}, {words}", parts, estimate, roof, style)


def _point(
    name: str,
    parts: tuple[PartEstimate, ...],
    estimate: RooflineEstimate,
    roof: Roof,
    style: Style,
) -> Iterator[RoofPoint]:
    # A part's times at the peaks are its operations and its bytes in other units.
    operations = sum(part.compute_ms for part in parts) / 1e3 * roof.peak
    num_bytes = sum(part.memory_ms for part in parts) / 1e3 * roof.bandwidth
    some = RooflineEstimate(
        target=estimate.target, precision=estimate.precision, call=estimate.call, parts=parts
    )
    if operations and num_bytes:
        yield RoofPoint(
            name=name,
            style=style,
            intensity=operations / num_bytes,
            per_s=operations / some.latency_ms * 1e3,
            latency_ms=some.latency_ms,
            bound=f"{some.bound}, {format_percent(some.shares[some.bound], 0)} of the time",
        )


def _draw_roof(subjects: Sequence[Subject], roof: Roof) -> Html:
    points = list(_list_all(subjects, roof))
    title = f"ESTIMATE: roofline, {roof.describe()}"
    told = "; ".join(f"{p.name} {format_milliseconds(p.latency_ms)}, {p.bound}" for p in points)
    low = min([p.intensity for p in points] + [roof.peak / roof.bandwidth]) / _MARGIN
    high = max([p.intensity for p in points] + [roof.peak / roof.bandwidth]) * _MARGIN
    slowest = min([p.per_s for p in points] + [roof.limit(low)])
    chart = Chart(
        title=title,
        label=f"{title}: {told}",
        keys=(
            Key(name="roof: what the target allows", style=TARGET, kind="line"),
            *(Key(name=p.name, style=p.style, kind="dot") for p in points),
        ),
        traces=[_roof_trace(roof, low, high), *(_trace(point) for point in points)],
        header=("Model", "Operations a byte", "Operations a second", "Time", "Waits for"),
        rows=[
            (
                p.name,
                f"{p.intensity:.3g}",
                format_short(p.per_s),
                f"at least {format_milliseconds(p.latency_ms)}",
                p.bound,
            )
            for p in points
        ],
        x=_log_axis("operations per byte", low, high),
        y=_log_axis("operations per second", slowest / 2, roof.limit(high) * 2),
        height=320,
    ).draw()
    note = (
        "Estimated from peak rates: nothing was run. Times are what the blocks take at least, "
        "without embeddings and heads. A point under the roof waits for launches, or its parts "
        "wait for different things. Both the rate and the bandwidth have their source in "
    )
    source = element("code", f"nirvana targets {roof.target.name}")
    return join([chart, paragraph(note, source, ".", class_="note")])


def _list_all(subjects: Sequence[Subject], roof: Roof) -> Iterator[RoofPoint]:
    drawn: set[str] = set()
    hashes = {subject.plan.config_hash for subject in subjects if subject.plan}
    for number, subject in enumerate(subjects):
        plan = subject.plan
        assert plan is not None
        alone = not subject.key
        dense = PruningPlan.dense(plan.dims, plan.config_hash)
        name = "dense" if len(hashes) == 1 else f"{subject.key} dense"
        if plan.config_hash not in drawn:  # runs of one model share its dense point
            yield from _some(list_points(name, dense, roof, DENSE), alone)
            drawn.add(plan.config_hash)
        style = PRUNED if alone else style_of(number)
        yield from _some(list_points(f"{subject.key} pruned".strip(), plan, roof, style), alone)


def _some(points: Iterator[RoofPoint], alone: bool) -> Iterator[RoofPoint]:
    """Give all points of a run that is alone, and tell them apart; else that of the whole."""
    symbols = ("circle", "triangle-up", "diamond")
    for number, point in enumerate(points):
        if not alone:
            yield point
            return
        hollow = "-open" if point.style is DENSE else ""
        style = Style(colour=point.style.colour, symbol=f"{symbols[number]}{hollow}")
        yield RoofPoint(
            name=point.name,
            style=style,
            intensity=point.intensity,
            per_s=point.per_s,
            latency_ms=point.latency_ms,
            bound=point.bound,
        )


def _roof_trace(roof: Roof, low: float, high: float) -> dict[str, object]:
    corners = [low, roof.peak / roof.bandwidth, high]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "roof",
        "x": corners,
        "y": [roof.limit(corner) for corner in corners],
        "line": {"color": TARGET.colour, "width": 2, "dash": TARGET.dash},
        "hovertemplate": "%{x:.3g} a byte: at most %{y:.3s} per second<extra></extra>",
    }


def _trace(point: RoofPoint) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": point.name,
        "x": [point.intensity],
        "y": [point.per_s],
        "marker": {
            "color": point.style.colour,
            "size": 11,
            "symbol": point.style.symbol,
            "line": {"color": point.style.colour, "width": 2},
        },
        "hovertemplate": f"{point.name}: %{{x:.3g}} operations per byte, %{{y:.3s}} per second"
        "<extra></extra>",
    }


def _log_axis(name: str, low: float, high: float) -> dict[str, object]:
    """Return an axis from `low` to `high`, with a tick a decade, or three where it is short."""
    steps = (1,) if high / low >= 100 else (1, 2, 5)
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    values = [tick for tick in ticks if low <= tick <= high]
    return {
        **titled(name),
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": values,
        "ticktext": [format_tick(value) for value in values],
        "automargin": True,
    }


def _draw_estimates(subject: Subject) -> Html:
    caption = f"ESTIMATES of {subject.name}: from peak rates, nothing was run"
    header = ("Target", "Model", "Call", "Precision", "Time", "Waits for")
    return table(caption, header, [_estimate_row(estimate) for estimate in subject.estimates])


def _estimate_row(estimate: Estimate) -> tuple[str, ...]:
    least = "" if estimate.calibrated else "at least "
    shares = ", ".join(f"{name} {format_percent(share, 0)}" for name, share in estimate.shares)
    return (
        estimate.target or "not known",
        estimate.model,
        estimate.shape,
        estimate.precision or "not known",
        f"{least}{format_milliseconds(estimate.latency_ms)}",
        shares or estimate.bound or "not known",
    )


def _missing_plan() -> Html:
    return draw_missing(
        "None of these has a plan that this version reads, so no work can be counted.",
        "Give a run, a budget's folder, or the plan.json of a pruned checkpoint.",
    )
