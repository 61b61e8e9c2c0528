"""Build TensorRT engines, and run one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.open_artefact import require_onnx
from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_manifest import LOG_NAME, read_engine_manifest
from nirvana_deploy.runs.run_folder import free_folder
from pruning.errors import NirvanaError
from pruning.machine_limits import explained
from pruning.strict_json import JsonObject
from pruning.write_aside import write_new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporters.engines.engine_manifest import EngineResult


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """Hold the outputs of an engine by name, and where the time of the run went.

    Attributes:
        profile: number of the optimization profile that took the inputs.
        parts_ms: by trtexec's parts: h2d, gpu_compute, d2h, and enqueue (the host's).
    """

    flavour: str
    version: str
    device: str
    profile: int
    num_profiles: int
    outputs: JsonObject
    parts_ms: dict[str, float]

    def to_json(self) -> JsonObject:
        """Return plain data; of the outputs, which may be large, types and shapes."""
        shapes = {
            name: {"dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in self.outputs.items()
        }
        return {**asdict(replace(self, outputs={})), "outputs": shapes}


def _read_inputs(path: Path) -> dict[str, object]:
    """Read an .npz file of arrays by name; nothing in it is run.

    Raises NirvanaError where it is missing, or no such file.
    """
    import numpy as np

    if not path.is_file():
        raise NirvanaError(f"{path} is missing: expected an .npz file of arrays by input name.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # of zip, of zlib and of numpy
        # numpy's own words are left out: they advise to load such a file unsafely.
        raise NirvanaError(
            f"{path} is no .npz file of plain arrays. Write it by numpy.savez, an array an input."
        ) from error


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
        free_folder(Path(out))
        read_engine_manifest(Path(refit))
        require_onnx(Path(onnx))
        from exporters.engines.refit_engine import refit_engine

        with write_new_folder(Path(out), "build") as folder:
            return refit_engine(Path(refit), Path(onnx), folder)
    free_folder(Path(out))
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
    inputs: Path | Mapping[str, object] | None = None,
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

    read_engine_manifest(Path(engine))
    given = _read_inputs(Path(inputs)) if isinstance(inputs, (str, Path)) else inputs
    from exporters.engines.engine_runner import EngineRunner, make_sample_inputs, to_array

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
