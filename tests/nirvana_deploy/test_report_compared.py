"""The page of several runs: what it is drawn from, what sets them apart, what is missing."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana_deploy import draw_report
from nirvana_deploy.cli import main
from nirvana_deploy.report.chart import DENSE, PRUNED, TARGET, style_of
from nirvana_deploy.report.quality_chart import Point, find_front
from nirvana_deploy.report.read_subjects import read_subjects
from nirvana_deploy.report.roofline_chart import Roof, list_points
from profiles.measuring.load import LoadResult
from profiles.measuring.sweep import BatchPoint, SweepResult
from profiles.targets.block_work import CallShape, attention_work, block_work, mlp_work
from profiles.targets.roofline import estimate_plan
from profiles.targets.target import load_target
from pruning.errors import NirvanaError
from tests.nirvana_deploy.drawn_page import Page
from tests.nirvana_deploy.stored_runs import (
    make_budget_profile,
    make_figures,
    make_plan,
    make_profile,
    make_results,
    write_budgets,
    write_run,
)

BUDGETS = (0.8, 0.65, 0.5, 0.35)
CALLERS = "callers at a time"


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


def draw(out: Path, *paths: Path, **settings: Any) -> Page:
    page = draw_report(paths, out=out / "page.html", **settings)
    return Page(page.read_text(encoding="utf-8"))


def words_of(page: Page) -> str:
    return page.text.replace("\u00a0", " ")


def traces_of(page: Page, kind: str = "scatter") -> list[dict[str, Any]]:
    return [t for chart in page.charts for t in chart["data"] if t["type"] == kind]


def test_a_folder_of_budgets_is_compared(tmp_path: Path) -> None:
    page = draw(tmp_path, write_budgets(tmp_path / "budgets", BUDGETS))
    words = words_of(page)
    assert "4 runs compared" in words
    assert "A 0.35 budget of a scoring run · AMD EPYC 7763, 2 threads" in words
    assert "Asked to keep 35.00 % 50.00 % 65.00 % 80.00 %" in words
    assert "budget 0.35 0.5 0.65 0.8" in words
    assert "saliency obs" not in words, "a setting that is the same is not told"
    assert "All were measured on the same hardware" in words


def test_the_figures_are_those_stored(tmp_path: Path) -> None:
    page = draw(tmp_path, write_budgets(tmp_path / "budgets", (0.5, 0.8)))
    profiles = [make_budget_profile(budget) for budget in (0.5, 0.8)]
    boxes = [trace["x"] for trace in traces_of(page, "box")]
    rates = [trace["y"] for trace in traces_of(page)]
    for profile in profiles:
        for model in ("dense", "pruned"):
            timings = [case[model] for case in profile["cases"]]
            assert all(timing["samples_ms"] in boxes for timing in timings)
            assert [timing["throughput_per_s"] for timing in timings] in rates
    points = {(trace["x"][0], trace["y"][0]) for trace in traces_of(page) if len(trace["x"]) == 1}
    for budget, profile in zip((0.5, 0.8), profiles, strict=True):
        quality = make_figures(budget)["held_out"]["kl_divergence"]
        for case in (profile["cases"][0], profile["cases"][-1]):
            assert (case["pruned"]["median_ms"], quality) in points
            assert (case["dense"]["median_ms"], 0.0) in points
    heads = [
        [len(layer.kept_heads or ()) / 12 for layer in make_plan(b).layers] for b in (0.5, 0.8)
    ]
    assert all(shares in rates for shares in heads)


def test_every_chart_is_a_plotly_figure_with_its_table(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    out = draw(tmp_path, write_budgets(tmp_path / "b", BUDGETS), targets=["t4", "l4"])
    for chart in out.charts:
        go.Figure(chart)
    tables = [a for tag, a in out.tags if tag == "details" and a.get("class") == "figures"]
    assert len(tables) == len(out.charts) > 8
    assert all(a.get("aria-label") for _, a in out.tags if a.get("role") == "img")


def test_settings_and_places_that_differ_are_told(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", make_results())
    results = make_results()
    results["profile"]["environment"] |= {"cpu": "Other CPU", "load_average": [3.0]}
    second = write_run(tmp_path / "second", results)
    (second / "recipe.yaml").write_text("model: demo\nprune:\n  keep: 0.35\n")
    words = words_of(draw(tmp_path, first, second))
    assert "prune.keep 0.5 0.35" in words
    assert "model demo" not in words
    assert "cpu AMD EPYC 7763 Other CPU" in words
    assert "measured on different machines. Their milliseconds do not compare" in words
    assert "load average" not in words
    assert words.count("Accuracy against latency") >= 4, "two machines share no front"


def test_other_models_and_other_data_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, make_results()) for name in ("a", "b")]
    for run, dataset in zip(runs, ("imdb", "imdb"), strict=True):
        (run / "recipe.yaml").write_text(f"data:\n  dataset: {dataset}\n")
    words = words_of(draw(tmp_path, *runs))
    assert words.count("Quality: on imdb.") == 2, "a chart for each of two batches"
    assert "not pruned from one dense model" not in words
    (runs[1] / "recipe.yaml").write_text("data:\n  dataset: other\n")
    results = make_results()
    results["prune"]["dense"]["num_parameters"] = 1000
    manifest = {"stage": "prune", "result": results["prune"]}
    (runs[1] / "prune" / "manifest.json").write_text(json.dumps(manifest))
    words = words_of(draw(tmp_path, *runs))
    assert words.count("Quality: on imdb.") == words.count("Quality: on other.") == 2
    assert "These were not pruned from one dense model." in words


def test_a_run_alone_has_its_whole_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_results())
    make_plan(0.5).save(run / "prune" / "plan.json")
    words = words_of(draw(tmp_path, run, targets=["t4"]))
    assert "Half the block MACs, accuracy" in words
    assert "ESTIMATE: roofline, NVIDIA T4" in words
    assert "One budget makes no front." in words


def test_cross_attention_and_both_stacks_are_drawn(tmp_path: Path) -> None:
    plan = tmp_path / "seq2seq.json"
    make_plan(0.5, cross=True).save(plan)
    page = draw(tmp_path, plan)
    labels = [attrs.get("aria-label") for _, attrs in page.tags]
    assert "Layer decoder 0, cross-attention heads kept: 0, 1, 2" in labels
    assert "Layer encoder 0, heads kept: 0, 1, 2, 3" in labels
    assert not any("encoder 0, cross" in (label or "") for label in labels)
    words = words_of(page)
    assert "encoder 5" in words
    assert "block dropped" in words
    assert "attention dropped" in words
    cross = next(t for t in traces_of(page) if t["x"][0] == "decoder 0" and len(t["x"]) == 4)
    assert cross["y"] == [3 / 12, 4 / 12, 0, 0]


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    batches = [
        BatchPoint(batch=b, median_ms=10.0 * b, rows_per_s=100.0 + b, num_samples=32)
        for b in (1, 4)
    ]
    callers = [
        LoadResult(
            offered_per_s=None,
            achieved_per_s=50.0 * n,
            num_callers=n,
            latency_ms=np.array([1.0, 2.0, 3.0]),
            busy_fraction=None,
            overloaded=False,
        )
        for n in (1, 2)
    ]
    sweep = tmp_path / "sweep.json"
    result = SweepResult(
        model="pruned",
        length=64,
        environment={},
        method={},
        batches=tuple(batches),
        callers=tuple(callers),
    )
    sweep.write_text(json.dumps(result.to_json()))
    page = draw(tmp_path, sweep)
    lines = {(tuple(t["x"]), tuple(t["y"])) for t in traces_of(page)}
    assert lines == {((1, 4), (101.0, 104.0)), ((1, 2), (50.0, 100.0))}
    assert "Answers per second by callers at a time, length 64" in words_of(page)
    assert "No latency was measured in any of these." in words_of(page)


def test_a_sweep_of_both_models_is_two_curves(tmp_path: Path) -> None:
    points = [{"batch": b, "rows_per_s": 10.0 * b} for b in (1, 2)]
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps({"dense": {"batches": points}, "pruned": {"batches": points}}))
    found = read_subjects([sweep])[0].sweeps
    assert [one.model for one in found] == ["dense", "pruned"]


def test_a_few_slow_calls_do_not_squeeze_the_rest(tmp_path: Path) -> None:
    profile = make_profile()
    timing = profile["cases"][0]["dense"]
    timing["samples_ms"] = [*timing["samples_ms"][:-1], 4321.0]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    page = draw(tmp_path, path)
    assert "1 of 192 calls took longer than the picture is wide, up to 4,321 ms." in words_of(page)
    first, second = [chart for chart in page.charts if chart["data"][0]["type"] == "box"]
    assert 100 < first["layout"]["xaxis"]["range"][1] < 200
    assert "range" not in second["layout"]["xaxis"]
    assert 4321.0 in first["data"][1]["x"]


def test_generated_text_and_a_partial_measurement_are_told(tmp_path: Path) -> None:
    def timing(first_ms: float, between_ms: float) -> dict[str, Any]:
        first = {"median_ms": first_ms, "low_ms": first_ms - 1, "high_ms": first_ms + 1}
        return {"first_token": first, "inter_token": {"median_ms": between_ms}, "tokens_per_s": 99}

    case = {"batch": 2, "prompt_length": 16, "num_tokens": 32, "dense": timing(50.0, 10.0)}
    case |= {"pruned": timing(25.0, 5.0), "inter_token_speedup": {"ratio": 2.0}}
    profile = {**make_profile(), "generations": [case], "partial": "batch 8: the GPU was lost"}
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    words = words_of(draw(tmp_path, path))
    assert "2 \u00d7 16 dense 32 50.0 ms [49, 51]" in words
    assert "2 \u00d7 16 pruned 32 25.0 ms [24, 26] — 5.00 ms 2.00\u00d7 99.0" in words
    assert "PARTIAL: the measurement ended early. batch 8: the GPU was lost" in words


def test_what_a_profile_gave_under_load_is_drawn(tmp_path: Path) -> None:
    point = {"batch": 1, "length": 128, "num_callers": 1, "offered_per_s": None}
    point |= {"median_ms": 5.0, "p90_ms": None, "p90_note": "needs 64", "overloaded": False}
    loads = [
        {**point, "model": model, "num_callers": callers, "achieved_per_s": per_s * callers}
        for model, per_s in (("dense", 40.0), ("pruned", 70.0))
        for callers in (1, 2)
    ]
    random = {"offered_per_s": 300.0, "achieved_per_s": 71.0, "p90_ms": 900.0, "overloaded": True}
    loads.append({**point, "model": "pruned", **random})
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**make_profile(), "loads": loads}))
    page = draw(tmp_path, path)
    (chart,) = [c for c in page.charts if c["layout"]["xaxis"]["title"]["text"] == CALLERS]
    assert [(t["name"], t["x"], t["y"]) for t in chart["data"]] == [
        ("dense", [1, 2], [40.0, 80.0]),
        ("pruned", [1, 2], [70.0, 140.0]),
    ]
    words = words_of(page)
    assert "1 \u00d7 128 dense 2 callers 80.0 5.00 ms withheld needs 64" in words
    assert "pruned 300/s at random 71.0 OVERLOADED 5.00 ms 900 ms" in words


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_none_beats(higher: bool) -> None:
    draw_numbers = np.random.default_rng(0)
    base = Point(
        group=("accuracy", "", ""),
        rows=1,
        name="p",
        style=PRUNED,
        latency_ms=1.0,
        quality=1.0,
        kept_fraction=None,
        is_dense=False,
    )
    points = [
        replace(base, name=str(n), latency_ms=float(x), quality=float(y))
        for n, (x, y) in enumerate(draw_numbers.integers(0, 9, (40, 2)))
    ]
    sign = 1 if higher else -1

    def beats(left: Point, right: Point) -> bool:
        pairs = (left.latency_ms - right.latency_ms, sign * (right.quality - left.quality))
        return max(pairs) <= 0 and min(pairs) < 0

    best = {(p.latency_ms, p.quality) for p in points if not any(beats(q, p) for q in points)}
    front = find_front(points, higher_is_better=higher)
    assert [(p.latency_ms, p.quality) for p in front] == sorted(best)


def test_roof_points_are_the_work_over_the_estimated_time() -> None:
    plan, call = make_plan(0.5), CallShape(batch=8, length=128)
    roof = Roof(target=load_target("t4"), precision="fp16", call=call)
    whole, attention, mlp = list_points("pruned", plan, roof, PRUNED)
    works = []
    for layer, dims in zip(plan.layers, plan.dims.layers, strict=True):
        heads = layer.num_kept_heads
        works += [block_work(dims, call, 2.0), attention_work(dims, heads, heads, call, 2.0)]
        works.append(mlp_work(dims, layer.num_kept_neurons, call, 2.0))
    operations, moved = (
        sum(work.operations for work in works),
        sum(work.num_bytes for work in works),
    )
    estimate = estimate_plan(plan, roof.target, call, "fp16")
    assert whole.intensity == pytest.approx(operations / moved)
    assert whole.per_s == pytest.approx(operations / estimate.latency_ms * 1e3)
    assert mlp.latency_ms == pytest.approx(
        sum(part.latency_ms for part in estimate.parts if part.name.endswith("mlp"))
    )
    mlp_operations = sum(work.operations for work in works[2::3])
    assert mlp.per_s == pytest.approx(mlp_operations / mlp.latency_ms * 1e3)
    assert attention.intensity < mlp.intensity
    for point in (whole, attention, mlp):
        assert point.per_s <= roof.limit(point.intensity) * (1 + 1e-9)


def test_estimates_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    make_plan(0.5).save(plan)
    assert main(["targets", "t4", "--plan", str(plan), "--json"]) == 0
    estimates = tmp_path / "estimates.json"
    estimates.write_text(capsys.readouterr().out)
    words = words_of(draw(tmp_path, estimates))
    assert "ESTIMATES of estimates: from peak rates, nothing was run" in words
    assert "t4 pruned batch 1, length 128 fp16 at least" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cases": []}, "No latency was measured in any of these."),
        ({"cases": [make_profile()["cases"][0]]}, "it takes two batch sizes or more."),
        ({}, "No target was named, so there is no roof."),
        ({}, "No point has both a quality and a latency."),
        ({}, "None of these says what is kept."),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**make_profile(), **change}))
    if change.get("cases") == []:
        path = tmp_path / "plan.json"
        make_plan(0.5).save(path)
    assert words in words_of(draw(tmp_path, path))


def test_a_target_needs_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(make_profile()))
    assert "None of these has a plan" in words_of(draw(tmp_path, path, targets=["t4"]))


def test_predicted_latencies_are_no_measurements(tmp_path: Path) -> None:
    budgets = write_budgets(tmp_path / "budgets", (0.5,))
    path = budgets / "0.5" / "figures.json"
    figures = json.loads(path.read_text())
    figures["latency"] = {"dense_ms": 20.0, "predicted_ms": 11.0, "how": "from a table"}
    figures["latency"] |= {"target": "cpu", "call": {"batch": 4, "length": 64, "past": 0}}
    path.write_text(json.dumps(figures))
    page = draw(tmp_path, budgets)
    assert "against latency, batch 4, length 64, PREDICTED" in words_of(page)
    assert [11.0] in [trace["x"] for trace in traces_of(page)]


def test_the_export_is_held_against_a_scaled_tolerance(tmp_path: Path) -> None:
    results = make_results()
    case = {"batch": 2, "length": 16, "padded": False, "what": "prompt"}
    for largest, difference in ((30.0, 2.5e-3), (0.5, 2.5e-4)):
        found = {**case, "largest": largest, "max_abs_difference": difference}
        results["export"]["pruned"]["verification"] = {"cases": [found]}
        words = words_of(draw(tmp_path, write_run(tmp_path / "run", results)))
        if largest > 1:
            assert "prompt 2.5e-03 30.00 3.0e-03 ✓ within" in words
        else:
            assert "prompt 2.5e-04 0.50 1.0e-04 ✗ exceeded" in words


def test_scores_are_told_of(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    scores.mkdir()
    manifest = {"format": "nirvana-scoring-1", "model": "tiny", "finished": False}
    (scores / "manifest.json").write_text(json.dumps({**manifest, "settings": {"saliency": "x"}}))
    words = words_of(draw(tmp_path, scores))
    assert "scores · model tiny · finished no: run its `nirvana score` again" in words


def test_names_of_one_kind_are_told_apart(tmp_path: Path) -> None:
    folders = [write_budgets(tmp_path / name, (0.5,)) for name in ("x", "y")]
    assert [s.name for s in read_subjects(folders)] == ["0.5 (1)", "0.5 (2)"]


def test_names_are_harmless(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(2)>"
    profile = make_profile()
    profile["environment"]["cpu"] = evil
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(json.dumps({**profile, "cases": profile["cases"]}))
    (tmp_path / "sweep.json").write_text(
        json.dumps({"model": evil, "batches": [{"batch": b, "rows_per_s": b} for b in (1, 2)]})
    )
    page = draw(tmp_path, *paths, tmp_path / "sweep.json")
    assert not [tag for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert "onerror=alert(2)" in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is nothing at"),
        ("{", "is not JSON"),
        ("[1]", r"holds JSON of another kind \(list\)"),
        ('{"speed": 1}', r"holds JSON of another kind \(speed\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NirvanaError, match=f"{message}.*Expected the folder of a run"):
        draw(tmp_path, path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(NirvanaError, match="photos holds nothing"):
        draw(tmp_path, folder)
    (folder / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(NirvanaError, match=r"holds a manifest.json of something else"):
        draw(tmp_path, folder)
    (folder / "figures.json").write_text("[]")
    with pytest.raises(
        NirvanaError, match=r"figures\.json cannot be read: .* an object, got a list"
    ):
        draw(tmp_path, folder)


def test_only_a_report_gives_way_to_a_report(tmp_path: Path) -> None:
    budgets = write_budgets(tmp_path / "budgets", (0.5,))
    draw(tmp_path, budgets)
    draw(tmp_path, budgets)
    (tmp_path / "page.html").write_text("my own page")
    with pytest.raises(NirvanaError, match=r"page.html exists already and is not a report"):
        draw(tmp_path, budgets)
    assert (tmp_path / "page.html").read_text() == "my own page"
    with pytest.raises(NirvanaError, match="A report is an HTML file"):
        draw_report([budgets], out=tmp_path / "page.pdf")
    with pytest.raises(NirvanaError, match="got none"):
        draw_report([], out=tmp_path / "new.html")


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    make_plan(0.5).save(plan)
    with pytest.raises(NirvanaError, match="at most 26 runs, got 27"):
        draw(tmp_path, *[plan] * 27)


def test_the_verb_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budgets, out = write_budgets(tmp_path / "budgets", (0.5, 0.8)), tmp_path / "new" / "r.html"
    given = ["report", str(budgets), "--out", str(out), "--target", "t4", "l4", "--batch", "8"]
    assert main(given) == 0
    assert capsys.readouterr().out.strip() == str(out)
    words = words_of(Page(out.read_text(encoding="utf-8")))
    assert "ESTIMATE: roofline, NVIDIA L4, fp16, batch 8, length 128" in words
    assert main([*given, "--precision", "fp8", "--target", "t4"]) == 1
    assert "has no rate for 'fp8'" in capsys.readouterr().err


@pytest.mark.parametrize("background", ["#ffffff", "#12171b"])
def test_series_stand_out_and_differ_without_colour(background: str) -> None:
    styles = [DENSE, PRUNED, TARGET, *(style_of(n) for n in range(26))]
    assert all(_contrast(style.colour, background) >= 3 for style in styles)
    assert len({(s["dash"], s["symbol"]) for s in map(asdict, styles[3:])}) == 26


def _contrast(left: str, right: str) -> float:
    """Return the contrast of WCAG 2.2."""
    bright, dark = sorted((_luminance(left), _luminance(right)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else math.pow((p + 0.055) / 1.055, 2.4) for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
