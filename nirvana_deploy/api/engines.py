"""Build TensorRT engines, and run one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.compare.open_artefact import require_onnx
from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_manifest import LOG_NAME, read_engine_manifest
from nirvana_deploy.new_folder import refuse_used_folder, write_new_folder
from pruning.errors import NirvanaError
from pruning.machine_limits import explained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.engines.engine_manifest import EngineResult
    from nirvana_deploy.engine_run import EngineRun


@explained("build")
def build(
    onnx: Path | str,
    config: EngineConfig | None = None,
    *,
    out: Path | str,
    num_attention_layers: int | None = None,
    refit: Path | str | None = None,
) -> EngineResult:
    """Build an engine from ONNX into the folder `out`; no GPU is needed under TensorRT-RTX.

    `num_attention_layers` is what the fused attentions are compared with; by default it is read
    from the graph. With `refit`, the folder of a refittable engine of the same plan, nothing is
    built: its weights are replaced by those of the graph, and no config is taken. This needs its
    GPU.

    Raises:
        MissingExtraError: no TensorRT flavor is installed.
        NirvanaError: the graph was refused; `OUT.build.log` beside `out` is the whole log.
    """
    if refit is not None:
        if config is not None or num_attention_layers is not None:
            raise NirvanaError(
                "A refit keeps all settings of the engine, and takes none. Leave them out, or "
                "build the engine anew without refit."
            )
        refuse_used_folder(Path(out))
        read_engine_manifest(Path(refit))
        require_onnx(Path(onnx))
        from exporters.engines.refit_engine import refit_engine

        with write_new_folder(Path(out), "build") as folder:
            return refit_engine(Path(refit), Path(onnx), folder)
    refuse_used_folder(Path(out))
    require_onnx(Path(onnx))
    from exporters.engines.build_engine import build_engine

    with write_new_folder(Path(out), "build") as folder:
        try:
            return build_engine(Path(onnx), folder, config or EngineConfig(), num_attention_layers)
        except NirvanaError:
            _keep_build_log(folder, Path(out))
            raise


def _keep_build_log(folder: Path, out: Path) -> None:
    """Keep the log of a failed build beside the folder that is not created."""
    if (folder / LOG_NAME).is_file():
        (folder / LOG_NAME).replace(out.with_name(f"{out.name}.{LOG_NAME}"))


@explained("run-engine")
def run_engine(
    engine: Path | str,
    inputs: Path | Mapping[str, Any] | None = None,
    *,
    cuda_graph: bool = False,
) -> EngineRun:
    """Run a built engine once on this machine's GPU.

    `inputs` are arrays by name, or the .npz file of them; by default made up, of the shapes that
    the first optimization profile is tuned for.

    Raises:
        NirvanaError: there is no GPU, the engine's manifest does not vouch for it, or it does not
            take the inputs.
    """
    from nirvana_deploy.engine_run import EngineRun, read_inputs

    read_engine_manifest(Path(engine))
    given = read_inputs(Path(inputs)) if isinstance(inputs, (str, Path)) else inputs
    from exporters.engines.engine_runner import EngineRunner, to_array
    from exporters.engines.sample_inputs import make_sample_inputs

    runner = EngineRunner(Path(engine), cuda_graph=cuda_graph)
    bound = runner.bind(make_sample_inputs(runner) if given is None else given)
    outputs = bound()
    return EngineRun(
        flavour=runner.manifest.result.flavour,
        version=runner.manifest.result.version,
        device=runner.device.name,
        profile=bound.profile,
        num_profiles=len(runner.profiles),
        outputs={name: to_array(tensor) for name, tensor in outputs.items()},
        parts_ms=bound.read_parts(),
    )
