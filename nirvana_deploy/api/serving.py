"""Write the folder that a server loads, and serve one on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.open_artefact import require_onnx
from nirvana_deploy.runs.pipeline import say_on_stderr
from nirvana_deploy.runs.run_folder import free_folder
from nirvana_deploy.serving.package_config import PackageConfig, choose_sources
from nirvana_deploy.serving.server.serve_config import ServeConfig
from pruning.checkpoints.model_source import require_weights
from pruning.machine_limits import explained
from pruning.progress import Say
from pruning.write_aside import write_new_folder

if TYPE_CHECKING:
    from nirvana_deploy.serving.package_manifest import PackageResult


@explained("package")
def package(
    onnx: Path | str,
    config: PackageConfig | None = None,
    *,
    out: Path | str,
    dense: Path | str | None = None,
    engine: Path | str | None = None,
    checkpoint: Path | str | None = None,
    check: bool = False,
) -> PackageResult:
    """Write the folder that a server loads for an ONNX model into `out`.

    `dense` becomes version 1 beside it, or the model NAME-dense where their caches differ; `engine`
    is the folder of an engine built from it, served in its place; `checkpoint` has the tokenizer
    and labels for a model that takes text. With `check` the real server serves it, and its answers
    are compared with ONNX Runtime's.

    Raises:
        NirvanaError: the parts do not fit together, the server refuses the package or answers
            wrongly, or `out` is not free. Then there is no `out`.
    """
    config = config or PackageConfig()
    free_folder(Path(out))
    if config.takes_checkpoint:
        require_weights(str(onnx))
    else:
        require_onnx(Path(onnx))
    from nirvana_deploy.serving.package import package_model

    sources = choose_sources(
        config,
        Path(onnx),
        dense=None if dense is None else Path(dense),
        engine=None if engine is None else Path(engine),
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    with write_new_folder(Path(out), "package") as folder:
        return package_model(sources, folder, config, check=check)


def serve(folder: Path | str, config: ServeConfig | None = None, *, say: Say | None = None) -> None:
    """Serve a package by the Open Inference Protocol until SIGTERM or SIGINT.

    `say` gets a line when all models are loaded; by default it goes to the standard error.

    Raises:
        MissingExtraError: a part of the server, or ONNX Runtime, is not installed.
        NirvanaError: the folder is no package or was changed, or a port is in use.
    """
    from nirvana_deploy.serving.server.model_server import serve_package

    serve_package(Path(folder), config or ServeConfig(), say or say_on_stderr)
