"""The measuring verbs: profile, sweep, evaluate and certify."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from nirvana_deploy.api import measuring
from nirvana_deploy.certificate import CERTIFICATE_FILE, Certificate
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.profile_summary import describe_profile
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.progress import show_steps
from nirvana_deploy.verbs.tables import print_evaluation, print_json, print_result
from nirvana_deploy.verbs.verb import ARTEFACTS, Verb
from profiles.measuring.measure_config import ProfileConfig, SweepConfig
from pruning.errors import NirvanaError
from pruning.tasks.data_config import DataConfig
from pruning.write_aside import require_writable, write_json, write_text

_ENDINGS = (".json", ".csv", ".md")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dense", metavar="A", help=f"baseline, `dense` in the results: {ARTEFACTS}")
    parser.add_argument(
        "pruned", metavar="B", help="candidate, `pruned` in the results: one of the same"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures; .csv or .md: a table"
    )
    add_flags(parser, ProfileConfig, title="profile")


def _profile(args: argparse.Namespace) -> int:
    config = read_config(ProfileConfig, collect_flags(args))
    _check_figures_file(args.out, "profile")
    result = measuring.profile(args.dense, args.pruned, config)
    figures = result.to_json()
    print_result(args, "Profile", list(describe_profile(figures)), figures)
    if args.out is not None:
        from profiles.comparing.result_tables import to_csv, to_markdown

        _write_figures(
            args.out,
            figures,
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 1 if figures.get("partial") else 0


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"what is measured: {ARTEFACTS}")
    parser.add_argument(
        "--name", default="pruned", help="what the report calls the model (default: pruned)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON file for the curves, for `nirvana report`; .csv or .md: a table",
    )
    add_flags(parser, SweepConfig, title="sweep")


def _sweep(args: argparse.Namespace) -> int:
    config = read_config(SweepConfig, collect_flags(args))
    _check_figures_file(args.out, "sweep")
    result = measuring.sweep(args.model, config, name=args.name)
    rows = [
        (f"batch {p.batch}", f"{p.rows_per_s:.4g} rows/s, median {p.median_ms:.4g} ms")
        for p in result.batches
    ]
    rows += [
        (f"callers {r.num_callers}", f"{r.achieved_per_s:.4g}/s, median {r.median_ms:.4g} ms")
        for r in result.callers
    ]
    print_result(args, f"Sweep, length {result.length}", rows, result.to_json())
    if args.out is not None:
        from profiles.measuring.sweep_tables import to_csv, to_markdown

        _write_figures(
            args.out,
            result.to_json(),
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 0


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name labelled rows; see `read_rows`."""
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="labelled rows: all of a local csv, tsv, json, jsonl, parquet or txt file; of a "
        "folder or a data set the validation split",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="DIR",
        help="folder with config.json and the tokenizer, where they are not beside the model",
    )
    add_flags(
        parser, DataConfig, prefix="data", skip=("train_split", "max_train_rows", "max_length")
    )


def _add_batches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens at which rows are cut (default: what the model takes, at most 512)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows that are run at once")


def read_rows(args: argparse.Namespace) -> DataConfig:
    """Return which rows the flags of `add_rows` name.

    Raises:
        NirvanaError: they name none, or a number is below 1.
    """
    given = collect_flags(args).get("data", {})
    if args.data is not None:
        if "dataset" in given:
            raise NirvanaError("--data and --data.dataset name the same thing. Give one of them.")
        given["dataset"] = args.data
    if "dataset" not in given:
        raise NirvanaError("Expected rows to score, got none: give --data FILE.")
    return read_config(DataConfig, given, key="data")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"what is scored: {ARTEFACTS}")
    parser.add_argument(
        "--baseline", metavar="MODEL", help="another of the same: show which answers changed"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures and changed rows"
    )
    _add_batches(parser)
    add_rows(parser)


def _read_batches(args: argparse.Namespace) -> dict[str, int | None]:
    for name in ("batch_size", "max_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise NirvanaError(f"--{flag} must be 1 or more, got {value}.")
    return {"max_length": args.max_length, "batch_size": args.batch_size}


def _evaluate(args: argparse.Namespace) -> int:
    data, batches = read_rows(args), _read_batches(args)
    if args.out is not None and args.out.exists():
        raise NirvanaError(f"{args.out} exists already. Choose a new file for the figures.")
    if args.out is not None:
        require_writable(args.out, "evaluate")
    with show_steps() as progress:
        result = measuring.evaluate(
            args.model,
            data,
            baseline=args.baseline,
            texts=args.texts,
            **batches,
            progress=progress,
        )
    if args.json:
        print_json(result.to_json())
    else:
        print_evaluation(result)
    if args.out is not None:
        write_json(args.out, result.to_json())
    return 0


def _add_certify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"what is certified, from the largest to the smallest: {ARTEFACTS}",
    )
    parser.add_argument(
        "--baseline", required=True, metavar="MODEL", help="another of the same: the dense model"
    )
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument(
        "--max-flips", type=_read_share, metavar="X", help="rows that may change: 2%% or 0.02"
    )
    limit.add_argument(
        "--max-loss",
        type=_read_share,
        metavar="X",
        help="what the metric may lose: 1pt (a point), 1%% or 0.01",
    )
    parser.add_argument(
        "--confidence", type=_read_share, default=0.95, metavar="X", help="95%% (default) or 0.95"
    )
    parser.add_argument(
        "--fitted-on",
        nargs="+",
        default=[],
        metavar="DATA",
        help="what the models were trained, calibrated or chosen on: refuse rows that are in it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"new file for the certificate (default: {CERTIFICATE_FILE} in the model's folder)",
    )
    _add_batches(parser)
    add_rows(parser)


def _read_share(text: str) -> float:
    """Read 2%, 2pt or 0.02."""
    number, unit = text.strip(), 1.0
    for ending in ("%", "points", "pt"):
        if number.endswith(ending):
            number, unit = number.removesuffix(ending).strip(), 0.01
            break
    try:
        value = float(number) * unit
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected 2%, 2pt or 0.02, got {text!r}")
    return value


def _certify(args: argparse.Namespace) -> int:
    from nirvana_deploy.certificate import save_certificate

    data, batches = read_rows(args), _read_batches(args)
    homes = [
        args.out or (Path(model) if Path(model).is_dir() else Path(model).parent) / CERTIFICATE_FILE
        for model in args.models
    ]
    for path in homes:
        if path.exists():
            raise NirvanaError(f"{path} exists already. Remove it, or choose a file by --out.")
    if args.out is None and not all(Path(model).exists() for model in args.models):
        raise NirvanaError(
            "Choose a file for the certificate by --out: a model has no folder here."
        )
    for path in homes:
        require_writable(path, "certify")
    with show_steps() as progress:
        result = measuring.certify(
            args.models,
            args.baseline,
            data,
            max_flips=args.max_flips,
            max_loss=args.max_loss,
            confidence=args.confidence,
            fitted_on=args.fitted_on,
            texts=args.texts,
            **batches,
            progress=progress,
        )
    told = list(describe_certificate(result))
    if result.chosen is None:
        print_result(args, "NOT CERTIFIED", told, result.to_json())
        return 1
    save_certificate(result, homes[result.chosen])
    told.append(("certificate", str(homes[result.chosen])))
    print_result(args, "Certified", told, result.to_json())
    return 0


def describe_certificate(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Say what was tested, and what came, in rows for a person."""
    if certificate.model is not None:
        yield "claim", f"{certificate.model.model} {certificate.describe()}"
    else:
        yield "claim not shown", certificate.describe()
    repeated = certificate.num_repeated
    more = (
        f", {repeated} of them repeated: they count as one less than they are" if repeated else ""
    )
    yield "rows", f"{certificate.num_rows:,} of {certificate.dataset}{more}"
    if not certificate.fitted_on:
        yield "not checked", "whether the models were fitted on these rows: give --fitted-on DATA"
    what = "of the rows changed" if certificate.claim == "flips" else "lost in the mean"
    for each in certificate.sequence:
        verdict = "passed" if each.passed else "did not pass"
        yield each.model, f"{each.risk:.2%} {what}, p {each.p_value:.2g}: {verdict}"
    failed = certificate.sequence[-1]
    if not failed.passed and failed.risk < certificate.limit:
        needed = certificate.estimate_rows(failed.risk)
        yield "more rows", f"at that rate about {needed:,} rows would show it for {failed.model}"


def _check_figures_file(path: Path | None, verb: str) -> None:
    """Raise NirvanaError, before anything is measured, for a file that cannot be written."""
    if path is None:
        return
    if path.exists():
        raise NirvanaError(f"{path} exists already. Choose a new file for the figures.")
    if path.suffix not in _ENDINGS:
        raise NirvanaError(
            f"{path} says by its ending what is written: {', '.join(_ENDINGS)}, got "
            f"{path.suffix or 'none'}. Only the JSON has everything."
        )
    require_writable(path, verb)


def _write_figures(
    path: Path,
    figures: dict[str, object],
    *,
    to_csv: Callable[[], str],
    to_markdown: Callable[[], str],
) -> None:
    """Write what the ending of `path` asks for, in a folder that is made if it is not there."""
    if path.suffix == ".csv":
        write_text(path, to_csv())
    elif path.suffix == ".md":
        write_text(path, to_markdown())
    else:
        write_json(path, figures)


PROFILE = Verb(
    name="profile",
    usage="A B [--out FILE] [--SETTING VALUE ...]",
    summary="measure two of checkpoint, ONNX, engine against each other",
    description=(
        "Run both in turns, each in its own runtime: torch, ONNX Runtime or TensorRT. Where a "
        "device is lost on the way, what was measured is kept, marked as partial, and the exit "
        "status is 1."
    ),
    add_arguments=_add_profile,
    run=_profile,
    usual=(
        "length",
        "past",
        "batch_sizes",
        "num_threads",
        "provider",
        "cuda_graph",
        "min_seconds",
        "max_seconds",
        "generate",
        "callers",
        "rates_per_s",
    ),
    loads_models=True,
)

SWEEP = Verb(
    name="sweep",
    usage="MODEL [--name NAME] [--out FILE] [--SETTING VALUE ...]",
    summary="measure one model's throughput by batch size and by callers at a time",
    description="Run one model in its own runtime on each batch size in turns, then with "
    "several callers that each wait for an answer. `nirvana profile A B --callers` does the second "
    "for two models, `--rates-per-s` with requests at random times.",
    add_arguments=_add_sweep,
    run=_sweep,
    usual=("length", "past", "batch_sizes", "callers", "num_threads", "provider", "cuda_graph"),
    loads_models=True,
)

EVALUATE = Verb(
    name="evaluate",
    usage="MODEL --data DATA [--baseline MODEL] [--out FILE] [--data.SETTING VALUE ...]",
    summary="score a model on labelled rows, and show which answers changed",
    description="Run a checkpoint, an ONNX file or an engine on labelled rows and print the task's "
    "metrics with 95 % intervals, the scores per class and the confusion. With --baseline: the "
    "rows that are answered differently.",
    add_arguments=_add_evaluate,
    run=_evaluate,
    usual=(
        "data.task",
        "data.text_column",
        "data.label_column",
        "data.max_validation_rows",
        "data.validation_split",
        "data.metric",
    ),
    loads_models=True,
)

CERTIFY = Verb(
    name="certify",
    usage="MODEL [MODEL ...] --baseline MODEL --data DATA --max-flips X | --max-loss X\n"
    "       [--confidence X] [--fitted-on DATA ...] [--out FILE]",
    summary="show with a confidence that a model answers as another on rows of this kind",
    description="Test models on labelled rows that nothing was fitted on, from the largest to the "
    "smallest, until one differs too much from the baseline. The last that passed gets a "
    "certificate: `load`, `serve` and `package` refuse it where the files are others, and `nirvana "
    "verify --certificate` tests it on other rows. The exit status is 1 where none passed.",
    add_arguments=_add_certify,
    run=_certify,
    usual=EVALUATE.usual,
    loads_models=True,
)
