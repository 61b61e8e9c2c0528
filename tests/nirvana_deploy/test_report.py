"""The page shows the numbers that the run stored, marks what is absent, and reaches for nothing."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.report import write_report
from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.markup import element
from nirvana_deploy.report.numbers import (
    format_bytes,
    format_change,
    format_count,
    format_duration,
    format_points,
    format_short,
)
from pruning.errors import NirvanaError
from tests.nirvana_deploy.drawn_page import Page
from tests.nirvana_deploy.stored_runs import (
    PROOF,
    make_profile,
    make_prune,
    make_results,
    write_run,
)

Change = Callable[[dict[str, dict[str, Any]]], object]


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    def draw(change: Change | None = None) -> Page:
        results = make_results()
        if change is not None:
            change(results)
        path = write_report(write_run(tmp_path / "run", results))
        assert path == tmp_path / "run" / "report.html"
        return Page(path.read_text(encoding="utf-8"))

    return draw


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing plotly's 4.8 MB for each page would take minutes; one test takes the real one."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


def test_headline_says_what_came(page: Callable[..., Page]) -> None:
    drawn = page()
    assert (
        "Half the block MACs, accuracy 80.6 % → 80.1 % (\u22120.5 points), "
        "1.74\u00d7 faster at batch 8 [1.71, 1.78]"
    ) in drawn.text
    assert "AMD EPYC 7763, 2 threads" in drawn.text
    assert drawn.title.replace("\u00a0", " ").startswith("Half the block MACs")


@pytest.mark.parametrize(
    "words",
    [
        "Asked to keep 50.00 % of the block MACs at length 128",
        "Sparsity 50.00 %",
        "Pruning stages 4",
        "Budget met, within one unit",
        "one unit is at most 0.011 %",
        "Parameters 22,722,456 17,402,113 1.31\u00d7 fewer \u221223.4 %",
        "Block MACs 1,434,451,968 717,182,951 2.00\u00d7 fewer",
        "Weights size 90.9 MB 69.6 MB",
        "ONNX size 91.0 MB 69.7 MB",
        "Latency, batch 8, length 128, median 381 ms 219 ms 1.74\u00d7 faster [1.71, 1.78]",
        "Throughput, batch 1, length 128 21.6/s 39.8/s",
        "The blocks do 2.00\u00d7 less arithmetic; the measured speed-up at batch 8",
        "withheld p90 needs 64 samples, 40 were taken",
        "Batch 8, length 128: latency was still moving",
        "Batch 8, length 128: variation over 2.5 %",
        "7 of 12",
        "attention dropped",
        "MLP dropped",
        "21 of 72",
        "4,599 of 9,216",
        "Dense 8 128 yes — 8.0e-06 — 1.0e-04 ✓ within",
        "Flavour tensorrt_rtx 1.7.1.116",
        "Precision asked fp16",
        "Precision found, by layers 31 fp16, 4 fp32",
        "Fused attentions ✗ 5 of 6 attention layers",
        "the pruned ONNX file above",
        "input_ids 1 \u00d7 16 8 \u00d7 128 32 \u00d7 512",
        "packages / onnxruntime 1.32.0",
        "minilm_pruned/config.pbtxt",
        "keep: 0.5",
        "same 2,400 validation rows",
        "not recorded in this run",
    ],
)
def test_page_shows_stored_numbers(page: Callable[..., Page], words: str) -> None:
    assert words in page().text.replace("\u00a0", " ")


def _set(*path: str | int, to: object) -> Change:
    def change(results: dict[str, dict[str, Any]]) -> None:
        at: Any = results
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("prune", "pruned", "accuracy", to=0.7213), "80.6 % → 72.1 % (\u22128.5 points)"),
        (_set("prune", "pruned", "num_parameters", to=12345678), "12,345,678"),
        (_set("prune", "budget", "kept_fraction", to=0.38), "38.0 % of the block MACs"),
        (_set("prune", "budget", "kept_fraction", to=0.51), "Budget not met"),
        (_set("prune", "budget", "kept_fraction", to=0.49), "more than one unit"),
        (_set("prune", "budget", "dense_cost", to=11206656), "one unit is 0.007 %"),
        (_set("prune", "budget", "cost", to="parameters"), "Half the block parameters"),
        (_set("profile", "cases", 1, "dense", "median_ms", to=517.0), "517 ms"),
        (_set("profile", "cases", 1, "speedup", "ratio", to=1.23), "1.23\u00d7 faster"),
        (_set("export", "pruned", "cases", 0, "max_abs_difference", to=0.5), "✗ exceeded"),
        (_set("build", "num_fused_attentions", to=6), "✓ 6 of 6 attention layers"),
        (_set("build", "onnx_sha256", to="f" * 64), "another ONNX file"),
        (_set("prune", "proofs", to=[PROOF]), "loaded and saved 8 0 — ✓ equal to the bit"),
        (
            _set("prune", "proofs", to=[PROOF | {"bitwise_equal": False}]),
            "loaded and saved 8 0 — —",
        ),
        (
            _set("prune", "proofs", to=[{"max_abs_difference": 0.25, "tolerance": 1e-5}]),
            "2.5e-01 1.0e-05 ✗ exceeded",
        ),
        (_set("build", "warnings", to=["No layer writes fp16."]), "No layer writes fp16."),
        (
            _set("profile", "cases", 1, "speedup", to={"ratio": 1.01, "low": 0.98, "high": 1.04}),
            "no speed-up that stands out from noise at batch 8",
        ),
        (
            _set("profile", "cases", 1, "speedup", to={"ratio": 0.8, "low": 0.7, "high": 0.9}),
            "1.25\u00d7 slower at batch 8 [1.11, 1.43]",
        ),
    ],
)
def test_page_follows_the_manifest(page: Callable[..., Page], change: Change, words: str) -> None:
    assert words not in page().text.replace("\u00a0", " ")
    assert words in page(change).text.replace("\u00a0", " ")


def test_speed_above_the_mac_ratio_needs_no_excuse(page: Callable[..., Page]) -> None:
    drawn = page(_set("profile", "cases", 1, "speedup", "ratio", to=2.4))
    assert "less arithmetic" not in drawn.text


def test_kept_heads_are_told_one_by_one(page: Callable[..., Page]) -> None:
    labels = [attrs.get("aria-label") for _, attrs in page().tags]
    assert "Layer 1, heads kept: 1, 2, 4, 7" in labels
    assert "Layer 4, heads kept: none" in labels
    kept = [a for tag, a in page().tags if tag == "span" and a.get("class") == "head kept"]
    assert len([a for a in kept if a.get("title")]) == 21


def test_charts_hold_the_stored_curves(page: Callable[..., Page]) -> None:
    prune, profile = make_prune(), make_profile()
    traces = [trace for chart in page().charts for trace in chart["data"]]
    drawn = [trace["y"] for trace in traces if trace["type"] == "scatter"]
    for key in ("loss", "target_kept_fraction", "kept_fraction"):
        assert [point[key] for point in prune["curve"]] in drawn
    assert [point["accuracy"] for point in prune["validations"]] in drawn
    boxes = [trace["x"] for trace in traces if trace["type"] == "box"]
    for case in profile["cases"]:
        assert case["dense"]["samples_ms"] in boxes
        assert case["pruned"]["samples_ms"] in boxes


def test_charts_are_valid_plotly_figures(page: Callable[..., Page]) -> None:
    import plotly.graph_objects as go

    charts = page().charts
    assert len(charts) == 9
    for chart in charts:
        go.Figure(chart)  # refuses an unknown property or a value of the wrong kind


def test_plotly_is_carried_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from plotly.offline import get_plotlyjs

    source = write_report(write_run(tmp_path, make_results())).read_text(encoding="utf-8")
    assert get_plotlyjs() in source
    assert "/* plotly */" not in source


def test_page_is_one_accessible_file(page: Callable[..., Page]) -> None:
    tags = page().tags
    for tag, attrs in tags:
        assert not {"src", "href", "srcset", "action"} & set(attrs), (tag, attrs)
        assert tag not in ("link", "iframe", "img", "object", "embed")
    policy = next(a["content"] for _, a in tags if a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert ("html", {"lang": "en"}) in tags
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert all(a.get("aria-label") for _, a in tags if a.get("role") == "img")
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_style_sheet_fetches_nothing(tmp_path: Path) -> None:
    source = write_report(write_run(tmp_path, {})).read_text(encoding="utf-8")
    assert "@import" not in source
    assert "url(" not in source


def test_names_are_harmless(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    results = make_results()
    results["baseline"] |= {"model": evil, "labels": [evil]}
    results["profile"]["environment"] = {evil: evil, "cpu": evil}
    results["profile"]["cases"][0]["notes"] = [evil]
    results["build"] = {"status": "skipped", "reason": evil, "install": evil}
    results["package"]["files"] = [evil]
    results["prune"]["objective"] = evil
    run = write_run(tmp_path, results)
    (run / "recipe.yaml").write_text(evil)
    drawn = Page(write_report(run).read_text(encoding="utf-8"))
    assert [tag for tag, attrs in drawn.tags if tag == "img" or "onerror" in attrs] == []
    num_scripts = sum(tag == "script" for tag, _ in drawn.tags)
    clean = Page(write_report(write_run(tmp_path, make_results())).read_text(encoding="utf-8"))
    assert num_scripts == sum(tag == "script" for tag, _ in clean.tags)
    assert drawn.text.count("alert(1)") >= 8


def test_skipped_engine_says_what_to_install(page: Callable[..., Page]) -> None:
    install = "pip install 'nirvana-deploy[rtx]'"
    skipped = {"status": "skipped", "reason": "No TensorRT here.", "install": install}
    drawn = page(lambda results: results.update(build=skipped))
    assert "The build stage was skipped. No TensorRT here." in drawn.text
    assert install in drawn.text
    assert "build skipped" in drawn.text


def test_each_engine_of_several_graphs_is_drawn(page: Callable[..., Page]) -> None:
    def split(results: dict[str, Any]) -> None:
        one = results["build"]
        parts = {"encoder_model": one["onnx_sha256"], "decoder_model": "d" * 64}
        results["export"]["pruned"]["graphs"] = {
            name: {"sha256": {f"{name}.onnx": hashed}} for name, hashed in parts.items()
        }
        engines = [{**one, "graph": name, "onnx_sha256": parts[name]} for name in parts]
        engines.append({**one, "graph": "stray", "onnx_sha256": "f" * 64})
        results["build"] = {"status": "built", "engines": engines}

    drawn = page(split).text
    assert "Graph encoder_model" in drawn and "Graph decoder_model" in drawn
    assert drawn.count("the pruned ONNX file above") == 2
    assert drawn.count("another ONNX file than the one above") == 1


def test_missing_profile_is_marked(page: Callable[..., Page]) -> None:
    drawn = page(lambda results: results.pop("profile"))
    assert "The profile stage has not been run in this folder." in drawn.text
    assert "profile not run" in drawn.text
    assert "speed not measured" in drawn.text


@pytest.mark.parametrize("stage", list(make_results()))
def test_any_stage_may_be_missing(page: Callable[..., Page], stage: str) -> None:
    assert f"The {stage} stage has not been run" in page(lambda results: results.pop(stage)).text


def test_empty_run_is_drawn_without_charts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = write_report(tmp_path / "run")
    drawn = Page(path.read_text(encoding="utf-8"))
    assert "Nothing was pruned in this run yet" in drawn.text
    assert path.stat().st_size < 100_000


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [
            leaf for key in value for leaf in [(*path, key), *_leaves(value[key], (*path, key))]
        ]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _leaves(value[0], (*path, 0))
    return []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "words", [], {}, True], ids=repr)
def test_ill_typed_number_reads_as_absent(bad: object) -> None:
    fields = Fields({"number": bad, "list": [1.5, bad]})
    assert fields.number("number") is None
    assert fields.numbers("list") == (1.5,)


@pytest.mark.parametrize("bad", [None, float("nan")], ids=repr)
def test_no_value_is_needed(bad: object) -> None:
    from nirvana_deploy.report.page import draw_page
    from nirvana_deploy.report.results import Run, StageState
    from nirvana_deploy.report.serving_results import Build, Export, Package, Profile
    from nirvana_deploy.report.subject import Subject
    from nirvana_deploy.report.training_results import Baseline, Prune

    readers = {"baseline": Baseline, "prune": Prune, "export": Export, "build": Build}
    readers |= {"profile": Profile, "package": Package}
    small = make_results()
    small["prune"]["curve"] = small["prune"]["curve"][:2]
    for case in small["profile"]["cases"]:
        for side in ("dense", "pruned"):
            case[side]["samples_ms"] = case[side]["samples_ms"][:2]
    for leaf in _leaves(small):
        results = copy.deepcopy(small)
        _set(*leaf, to=bad)(results)
        states = {name: StageState(name=name, status="done") for name in readers}
        read = {name: readers[name].read(Fields(results[name])) for name in readers}  # type: ignore[attr-defined]
        read["builds"] = (read.pop("build"),)
        run = Run(name="run", recipe=None, stages=states, **read)
        page = draw_page(Subject(name="run", kind="run", run=run))
        visible = Page(page).text
        assert not re.search(r"\b(nan|None|inf)\b", visible), leaf


def test_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"Expected a run folder at .*nothing-here, found none"):
        write_report(tmp_path / "nothing-here")


@pytest.mark.parametrize(
    ("broken", "found"),
    [("{", "it is not JSON: Expecting"), ("[]", "expected an object, got a list")],
)
def test_broken_manifest_is_named(tmp_path: Path, broken: str, found: str) -> None:
    run = write_run(tmp_path, make_results())
    (run / "prune" / "manifest.json").write_text(broken)
    with pytest.raises(NirvanaError, match=rf"manifest\.json cannot be read: .*{found}"):
        write_report(run)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (format_short(999_600), "1.00 M"),
        (format_short(1_434_451_968), "1.43 G"),
        (format_short(9.999), "10.0"),
        (format_bytes(512), "512 B"),
        (format_count(None), "—"),
        (format_points(-0.0001), "±0.0 points"),
        (format_points(0.012), "+1.2 points"),
        (format_change(0, 3), "—"),
        (format_duration(3725), "1 h 2 min"),
        (format_duration(252), "4 min 12 s"),
    ],
)
def test_numbers_are_written_alike(written: str, expected: str) -> None:
    assert written.replace("\u00a0", " ") == expected


def test_only_markup_goes_unescaped() -> None:
    drawn = element("p", "<b>", element("i", "&"), title='"<')
    assert drawn == '<p title="&quot;&lt;">&lt;b&gt;<i>&amp;</i></p>'
