"""The command line: exit codes, messages instead of tracebacks, help, and what it prints."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nirvana_deploy.cli import _make_parser, main
from nirvana_deploy.verbs.verb import VERB_NAMES, load_verb
from tests.nirvana_deploy import fake_work as fakes

ROOT = Path(__file__).parents[2]


def test_no_verb_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("    ")]
    assert set(VERB_NAMES) <= set(listed)


@pytest.mark.parametrize("verb", VERB_NAMES)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"usage: nirvana {verb} " in capsys.readouterr().out


def test_every_flag_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    main(["deploy", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--prune.budget X Fraction of the blocks' cost to keep, in (0, 1]. (default: " in text
    assert (
        "--build.batch.max N Batch size (rows per request): Largest size that the engine " in text
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nirvana 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deplo"], "there is no verb 'deplo'; did you mean deploy?"),
        (["prune", "m"], "the following arguments are required: --out"),
        (["export"], "the following arguments are required: checkpoint, --out"),
        (["deploy", "--prune.bugdet", "1"], "unknown argument --prune.bugdet; did you mean "),
        (["deploy", "--prune.bugdet=1"], "did you mean --prune.budget?"),
        (["deploy", "a.yaml", "b.yaml"], "unknown argument b.yaml"),
        (["deploy", "--prune.budget", "x"], "expected a number, came text: 'x'"),
        (["deploy", "--prune.bud", "1"], "unknown argument --prune.bud"),
    ],
)
def test_wrong_usage_exits_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deploy", "nowhere.yaml"], "error: There is no recipe at nowhere.yaml."),
        (["deploy"], "error: model: required, but not given"),
        (["deploy", "--model", "m", "--prune.budget", "1.5"], "error: prune.budget: budget must"),
        (["prune", "m", "--out", "o", "--budget", "0"], "error: budget: budget must be"),
        (["prune", "m", "--out", "o", "--data.max-length", "0"], "error: data.max_length: "),
        (["deploy", "--model", "./no", "--out", "o"], "error: There is no model folder at ./no"),
        (["package", "x.onnx", "--out", "used"], "error: The output folder used holds something"),
        (["deploy", "--model", "model", "--out", "used"], "error: The output folder used holds"),
    ],
)
@pytest.mark.usefixtures("fake_work")
def test_errors_are_messages_and_exit_1(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("used").mkdir()
    Path("used/thesis.txt").write_text("years of work")
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert "Traceback" not in err
    assert [path.name for path in Path("used").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["deploy", "nowhere.yaml"]
    assert main(["--debug", *command] if where == "before" else [*command, "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: There is no recipe at" in err


@pytest.mark.usefixtures("fake_work")
def test_unforeseen_failures_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("odd")

    monkeypatch.setitem(
        sys.modules, "pruning.training.baseline_stage", SimpleNamespace(run_baseline=fail)
    )
    assert main(["deploy", "--model", "model", "--out", "r"]) == 1
    err = capsys.readouterr().err
    assert "error: unexpected TypeError: odd\nRun again with --debug" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("fake_work")
def test_deploy_prints_the_headline_and_skips_the_second_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("my.yaml").write_text("model: model\nprune: {budget: 0.25}\n")
    assert main(["deploy", "my.yaml", "--out", "r", "--prune.budget", "0.75"]) == 0
    captured = capsys.readouterr()
    assert "baseline: starts" in captured.err
    assert "49.99% (asked: 75.00%)" in captured.out
    assert "r/report.html" in captured.out
    assert main(["deploy", "my.yaml", "--out", "r", "--prune.budget", "0.75"]) == 0
    assert "prune: finished before, skipped" in capsys.readouterr().err
    assert main(["deploy", "my.yaml", "--out", "r"]) == 0
    assert "prune: runs again (prune.budget: 0.75 -> 0.25)" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_work")
def test_prune_flags_reach_their_configs(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "model", "--out", "r", "--budget", "0.25", "--baseline.seed", "7"]
    assert main(command) == 0
    assert Path("r/prune/checkpoint/w").read_text() == "model 7 0.25"
    assert "r/prune/checkpoint" in capsys.readouterr().out


@pytest.mark.usefixtures("fake_work")
def test_profile_prints_and_writes_figures(capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.onnx").write_text("dense")
    assert main(["profile", "d.onnx", "d.onnx", "--out", "a/figures.json"]) == 0
    assert "1.82x [1.79, 1.84]" in capsys.readouterr().out
    assert json.loads(Path("a/figures.json").read_text())["cases"][0]["batch"] == 8


@pytest.mark.usefixtures("fake_work")
def test_build_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = SimpleNamespace(build_engine=fakes.build_engine_without_tensorrt)
    monkeypatch.setitem(sys.modules, "exporters.engines.build_engine", without)
    Path("x.onnx").write_text("onnx")
    command = ["build", "x.onnx", "--out", "e", "--num-attention-layers", "1"]
    assert main(command) == 1
    assert "pip install 'nirvana-deploy[rtx]'" in capsys.readouterr().err
    assert not Path("e").exists()


def test_interrupt_exits_130() -> None:
    code = (
        "import signal, time, nirvana_deploy.api.machines as d\n"
        # A shell's background jobs have it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait():\n    print('ready', flush=True); time.sleep(30)\n"
        "d.doctor = wait\n"
        "from nirvana_deploy.cli import main\n"
        "raise SystemExit(main(['doctor']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.startswith("Interrupted. What was finished is kept")
    assert "Traceback" not in err


def test_python_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "nirvana_deploy", "deploy", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no recipe at nowhere.yaml.")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = (
        "import nirvana_deploy.api.machines as d\n"
        "d.doctor = list\n"
        "from nirvana_deploy.cli import main\n"
        "raise SystemExit(main(['doctor', '--json']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_import_paths_name_modules_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_code_here.py").write_text("Thing = 3")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    flags = ["--out", "o", "--saliency", "own_code_here:Thing"]
    assert main(["score", "m", *flags]) == 1
    assert "'own_code_here:Thing' (int) has no method `score`" in capsys.readouterr().err
    assert sys.path == before


def test_underscores_in_flags_are_still_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--data.max-length", "--data.max_length"):
        assert main(["prune", "m", "--out", "o", flag, "0"]) == 1
        assert "data.max_length" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERB_NAMES)
def test_flags_have_dashes(verb: str) -> None:
    parser = _make_parser(load_verb(verb))
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert not [flag for flag in flags if "_" in flag]


@pytest.mark.parametrize("verb", VERB_NAMES)
def test_help_has_the_usual_settings_and_help_all_the_rest(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([verb, "--help-all"])
    whole = capsys.readouterr().out
    main([verb, "--help"])
    usual = capsys.readouterr().out
    shown = re.findall(r"^  (?:-\w, )?(--[\w.-]+)", usual, re.MULTILINE)
    assert len(shown) <= 30 and len(usual.splitlines()) <= 130
    assert set(shown) <= set(re.findall(r"--[\w.-]+", whole))
    names = load_verb(verb).usual
    if names is None:
        assert "more settings" not in usual
        return
    flags = [f"--{name.replace('_', '-')}" for name in names]
    for flag in flags:  # each is a setting that there is
        assert any(f"{each}.".startswith(f"{flag}.") for each in shown), flag
    assert f"more settings: `nirvana {verb} --help-all`" in " ".join(usual.split())


def test_a_bare_switch_leaves_the_next_argument_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--require-fused-attention", "no.onnx", "--out", "e"]) == 1
    assert "Expected an ONNX file at no.onnx" in capsys.readouterr().err
    assert main(["build", "no.onnx", "--require_fused_attention", "false", "--out", "e"]) == 1
    assert "Expected an ONNX file at no.onnx" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_work")
def test_deploy_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--model", "model", "--out", "r", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["checkpoint"] == "r/prune/checkpoint"
    assert told["results"]["profile"]["cases"][0]["batch"] == 8
    assert main(["prune", "model", "--out", "p", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["budget"]["asked_kept_fraction"] == 0.5


@pytest.mark.parametrize("verb", [name for name in VERB_NAMES if name != "serve"])
def test_every_verb_that_reports_takes_json(verb: str) -> None:
    parser = _make_parser(load_verb(verb))
    assert "--json" in [flag for action in parser._actions for flag in action.option_strings]


@pytest.mark.usefixtures("fake_work")
def test_quiet_leaves_results_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--model", "model", "--out", "r", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "r/report.html" in captured.out
    assert main(["deploy", "nowhere.yaml", "-q"]) == 1
    assert capsys.readouterr().err.startswith("error: There is no recipe at nowhere.yaml.")


@pytest.mark.usefixtures("fake_work")
def test_a_log_file_has_progress_and_errors_with_their_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["deploy", "--model", "model", "--out", "r", "--log-file", "log"]) == 0
    assert "baseline: starts" in capsys.readouterr().err
    assert main(["deploy", "nowhere.yaml", "-q", "--log-file", "log"]) == 1
    lines = Path("log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)
    assert any(line.endswith("baseline: starts") for line in lines)
    assert "error: There is no recipe at nowhere.yaml." in lines[-1]
    assert main(["deploy", "nowhere.yaml", "--log-file", "no/log"]) == 1
    assert "error: Cannot write the log no/log" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_work")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk to write to")
def test_a_log_on_a_full_disk_does_not_end_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["deploy", "--model", "model", "--out", "r", "--log-file", "/dev/full"]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert told.count("warning: Cannot write the log /dev/full: No space left on device.") == 1
    assert "Nothing more is written to it; the work goes on" in told and "baseline: starts" in told


def test_completion_is_printed_and_completes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--completion", "bash"]) == 0
    assert "complete " in capsys.readouterr().out
    line = "nirvana export --calibration.num"
    subprocess.run(
        [sys.executable, "-m", "nirvana_deploy"],
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_COMP_WORDBREAKS": " ",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found"),
        },
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    found = (tmp_path / "found").read_text().split("\n")
    assert set(found) == {"--calibration.num-draws", "--calibration.num-sequences"}


@pytest.mark.usefixtures("fake_work")
def test_stages_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_export(dense, pruned, config, out_dir, progress):
        for number in range(1, 101):
            progress("dense: trace", number, 100)
        return fakes.run_export(dense, pruned, config, out_dir)

    stand_in = SimpleNamespace(run_export=run_export)
    monkeypatch.setitem(sys.modules, "exporters.export_stage", stand_in)
    assert main(["deploy", "--model", "model", "--out", "r"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "trace" in line]
    assert lines == [f"export: dense: trace: {tenth}0 of 100" for tenth in range(1, 11)]
