"""The deployment's stages wired together, with stand-ins for their work."""

import importlib
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nirvana_deploy import (
    PruneConfig,
    Recipe,
    build,
    deploy,
    export,
    load_recipe,
    package,
    profile,
    prune,
)
from nirvana_deploy.cli import main
from nirvana_deploy.runs.deploy_stages import LEFT_OUT, SWITCHED_OFF
from pruning.errors import MissingExtraError, NirvanaError
from pruning.tasks.data_config import DataConfig
from pruning.training.training_configs import BaselineConfig
from tests.nirvana_deploy import fake_work as fakes

every_stage = ["baseline", "prune", "export", "build", "profile", "package", "report"]


def quiet(_: str) -> None:
    pass


@pytest.mark.usefixtures("fake_work")
def test_deploy_runs_every_stage_in_order() -> None:
    result = deploy(Recipe(model="model"), "r", say=quiet)
    assert fakes.calls == every_stage
    assert result.report == Path("r/report.html")
    assert result.onnx.read_text() == "model 0 0.5"
    assert result.checkpoint.is_dir()
    assert result.results["build"]["num_attention_layers"] == 2
    server = result.results["package"]
    assert server["folder"] == "triton/repository"
    assert all((result.folders["package"] / name).is_file() for name in server["files"])
    headline = dict(result.headline())
    assert headline["server folder"] == "r/package/triton/repository"
    assert headline["kept of the blocks' MACs"] == "49.99% (asked: 50.00%)"
    assert headline["accuracy"] == "80.0% -> 79.3% (-0.7 points)"
    assert headline["latency, batch 8 x 128"] == "200.00 ms -> 110.00 ms, 1.82x [1.79, 1.84]"
    assert headline["engine"] == "tensorrt_rtx 1.7, fp16, 1 of 2 attentions fused"


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({}, []),
        ({"prune": PruneConfig(budget=0.25)}, every_stage[1:-1]),
        ({"baseline": BaselineConfig(seed=1)}, every_stage[:-1]),
        ({"data": DataConfig(max_length=32)}, every_stage[:-1]),
        ({"name": "other"}, []),
    ],
    ids=["nothing", "prune", "baseline", "data", "name"],
)
@pytest.mark.usefixtures("fake_work")
def test_a_changed_section_runs_what_depends_on_it(
    settings: dict[str, object], again: list[str]
) -> None:
    deploy(Recipe(model="model"), "r", say=quiet)
    fakes.calls.clear()
    deploy(Recipe(model="model", **settings), "r", say=quiet)  # type: ignore[arg-type]
    assert fakes.calls == [*again, "report"]


@pytest.mark.usefixtures("fake_work")
def test_changed_model_files_run_everything_again() -> None:
    deploy(Recipe(model="model"), "r", say=quiet)
    Path("model/model.safetensors").write_text("other weights")
    fakes.calls.clear()
    deploy(Recipe(model="model"), "r", say=quiet)
    assert fakes.calls[0] == "baseline"


@pytest.mark.usefixtures("fake_work")
def test_a_run_inside_the_model_folder_does_not_change_the_model() -> None:
    deploy(Recipe(model="model"), "model/r", say=quiet)
    fakes.calls.clear()
    deploy(Recipe(model="model"), "model/r", say=quiet)
    assert fakes.calls == ["report"]


@pytest.mark.usefixtures("fake_work")
def test_changed_data_files_run_everything_again() -> None:
    recipe = Recipe(model="model", data=DataConfig(dataset="d.csv"))
    Path("d.csv").write_text("a,b\n")
    deploy(recipe, "r", say=quiet)
    fakes.calls.clear()
    Path("d.csv").write_text("a,c\n")
    deploy(recipe, "r", say=quiet)
    assert fakes.calls[0] == "baseline"


@pytest.mark.usefixtures("fake_work")
def test_another_processor_measures_again_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deploy(Recipe(model="model"), "r", say=quiet)
    fakes.calls.clear()
    monkeypatch.setattr("nirvana_deploy.fingerprints.read_cpu_name", lambda: "another")
    deploy(Recipe(model="model"), "r", say=quiet)
    assert fakes.calls == ["profile", "report"]


@pytest.mark.usefixtures("fake_work")
def test_without_tensorrt_the_run_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    without = SimpleNamespace(build_engine=fakes.build_engine_without_tensorrt)
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "exporters.engines.build_engine", without)
        result = deploy(Recipe(model="model"), "r", say=quiet)
    assert result.results["build"] == {
        "status": "skipped",
        "reason": "TensorRT (neither flavor) is not installed.",
        "install": "pip install 'nirvana-deploy[rtx]'",
    }
    assert fakes.calls[-1] == "report"
    assert dict(result.headline())["engine"].startswith("skipped: TensorRT (neither flavor)")


def test_an_encoder_decoder_gets_an_engine_a_graph_and_the_rest_says_why_not(
    fake_work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as context:
        several = SimpleNamespace(run_export=fakes.export_encoder_decoder)
        context.setitem(sys.modules, "exporters.export_stage", several)
        left_out = SimpleNamespace(check_fit=lambda *_: dict(LEFT_OUT))
        context.setitem(sys.modules, "nirvana_deploy.runs.deploy_fit", left_out)
        result = deploy(Recipe(model="model"), "r", say=said.append)
    assert fake_work == ["baseline", "prune", "export", "build", "build", "report"]
    assert said[0].startswith("profile: will be left out. An encoder-decoder is three graphs")
    assert result.onnx == Path("r/export/pruned/encoder_model.onnx")
    engines = result.results["build"]["engines"]
    assert [(e["graph"], e["engine_path"]) for e in engines] == [
        ("encoder_model", "encoder_model/model.engine"),
        ("decoder_model", "decoder_model/model.engine"),
    ]
    for engine in engines:
        built = result.folders["build"] / engine["engine_path"]
        assert built.read_text() == engine["graph"]
    for stage in ("profile", "package"):
        assert result.results[stage] == {"status": "skipped", "reason": LEFT_OUT[stage]}
    headline = dict(result.headline())
    assert headline["latency"] == f"skipped: {LEFT_OUT['profile']}"
    assert headline["server folder"] == f"skipped: {LEFT_OUT['package']}"
    assert headline["engine of decoder_model"].startswith("tensorrt_rtx 1.7, fp16")


@pytest.mark.parametrize(
    ("skip", "ran"),
    [
        (("build",), ["baseline", "prune", "export", "profile", "package", "report"]),
        (("profile", "package"), ["baseline", "prune", "export", "build", "report"]),
        (("export",), ["baseline", "prune", "report"]),
    ],
)
def test_stages_can_be_switched_off(
    fake_work: list[str], skip: tuple[str, ...], ran: list[str], tmp_path: Path
) -> None:
    result = deploy(Recipe(model="model", skip=skip), "r", say=quiet)
    assert fake_work == ran
    for stage in skip:
        assert result.results[stage] == SWITCHED_OFF
    assert (result.to_json()["onnx"] is None) == (skip == ("export",))
    assert dict(result.headline())["report"]
    if skip == ("export",):
        with pytest.raises(NirvanaError, match=r"r has no ONNX: The recipe switches it off\."):
            _ = result.onnx
    lines = "".join(f"{stage}: false\n" for stage in skip)
    (tmp_path / "off.yaml").write_text(f"model: model\n{lines}")
    assert load_recipe(tmp_path / "off.yaml").skip == Recipe(model="model", skip=skip).skip
    fake_work.clear()
    deploy(Recipe(model="model"), "r", say=quiet)  # switched on again, they run
    assert set(skip) <= set(fake_work)
    assert "baseline" not in fake_work


def test_what_cannot_be_switched_off_is_said() -> None:
    with pytest.raises(NirvanaError, match=r"skip names 'prune'\. The stages export, build, "):
        Recipe(model="model", skip=("prune",))


@pytest.mark.usefixtures("fake_work")
def test_without_tritonclient_the_run_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MissingExtraError("tritonclient", "triton")

    with monkeypatch.context() as context:
        stand_in = SimpleNamespace(package_triton=refuse)
        context.setitem(sys.modules, "nirvana_deploy.serving.triton.triton_package", stand_in)
        result = deploy(Recipe(model="model"), "r", say=quiet)
    assert result.results["package"]["install"] == "pip install 'nirvana-deploy[triton]'"
    assert dict(result.headline())["server folder"].startswith("skipped: tritonclient is not")


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("./nowhere", "debian-sections", r"There is no model folder at \./nowhere"),
        ("pypi:no-such-package-x", "debian-sections", "needs that package. Install it"),
        ("model", "nowhere.csv", r"There is no data file at nowhere\.csv"),
    ],
)
@pytest.mark.usefixtures("fake_work")
def test_missing_sources_are_named_before_any_work(model: str, dataset: str, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        deploy(Recipe(model=model, data=DataConfig(dataset=dataset)), "r", say=quiet)
    assert fakes.calls == []


@pytest.mark.usefixtures("fake_work")
def test_prune_makes_a_run_that_deploy_goes_on_from() -> None:
    result = prune("model", PruneConfig(budget=0.25), out="r", say=quiet)
    assert (result.checkpoint / "w").read_text() == "model 0 0.25"
    assert result.figures["pruned"]["accuracy"] == 0.793
    deploy(Recipe(model="model", prune=PruneConfig(budget=0.25)), "r", say=quiet)
    assert fakes.calls == every_stage


@pytest.mark.usefixtures("fake_work")
def test_prune_takes_a_fine_tuned_model_as_it_is() -> None:
    Path("model/w").write_text("tuned")
    result = prune("model", out="r", fine_tuned=True, say=quiet)
    assert fakes.calls == ["prune"]
    assert (result.checkpoint / "w").read_text() == "tuned 0.5"


@pytest.mark.usefixtures("fake_work")
def test_deploy_takes_a_fine_tuned_model_as_it_is() -> None:
    Path("model/w").write_text("tuned")
    recipe = Recipe(model="model", fine_tuned=True)
    result = deploy(recipe, "r", say=quiet)
    assert fakes.calls == every_stage[1:]
    assert (result.folders["export"] / "dense/model.onnx").read_text() == "tuned"
    assert result.onnx.read_text() == "tuned 0.5"
    fakes.calls.clear()
    deploy(recipe, "r", say=quiet)
    assert fakes.calls == ["report"]
    Path("model/w").write_text("tuned anew")
    result = deploy(recipe, "r", say=quiet)
    assert (result.folders["export"] / "dense/model.onnx").read_text() == "tuned anew"


@pytest.mark.usefixtures("fake_work")
def test_the_command_deploys_a_fine_tuned_model() -> None:
    Path("model/w").write_text("tuned")
    assert main(["deploy", "--model", "model", "--out", "r", "--fine_tuned"]) == 0
    assert fakes.calls == every_stage[1:]
    assert "fine_tuned: true" in Path("r/recipe.yaml").read_text()


def test_no_epochs_say_how_a_fine_tuned_model_is_deployed() -> None:
    with pytest.raises(NirvanaError, match=r"num_epochs must be above 0, got 0.* fine_tuned: true"):
        BaselineConfig(num_epochs=0)


@pytest.mark.usefixtures("fake_work")
def test_single_verbs_write_whole_new_folders() -> None:
    Path("d.onnx").write_text("dense")
    Path("p.onnx").write_text("pruned")
    build("p.onnx", out="engine", num_attention_layers=3)
    assert Path("engine/model.engine").read_text() == "pruned"
    package("p.onnx", out="server")
    assert Path("server/repository/model.onnx").read_text() == "pruned"
    assert profile("d.onnx", "p.onnx").to_json()["cases"]
    with pytest.raises(NirvanaError, match="holds something already"):
        package("p.onnx", out="server")


def test_export_compares_a_single_checkpoint(
    fake_work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_checkpoint(
        checkpoint: Path, out_dir: Path, config: object, progress: object
    ) -> dict[str, object]:
        (out_dir / "model.onnx").write_text(str(checkpoint))
        return {"max_abs_difference": 1e-6, "graphs": {"model": {"file": "model.onnx"}}}

    stand_in = SimpleNamespace(export_checkpoint=export_checkpoint)
    monkeypatch.setitem(sys.modules, "exporters.export_stage", stand_in)
    result = export("model", out="x")
    assert result.onnx.read_text() == "model"
    assert result.to_json()["onnx"] == "x/model.onnx"
    assert result.to_json()["max_abs_difference"] == 1e-6


@pytest.mark.parametrize("module", fakes.HOMES)
def test_stand_ins_have_the_signatures_of_the_real_ones(module: str) -> None:
    stand_in = fakes.HOMES[module]
    real = getattr(importlib.import_module(module), stand_in.__name__)
    parameters = inspect.signature(real).parameters
    names = list(inspect.signature(stand_in).parameters)
    assert list(parameters)[: len(names)] == names
    others = list(parameters.values())[len(names) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in others)
