"""What one run of an engine gave, and the file of inputs that it may be given."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pruning.errors import NirvanaError


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
    outputs: dict[str, Any]
    parts_ms: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain data; of the outputs, which may be large, types and shapes."""
        shapes = {
            name: {"dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in self.outputs.items()
        }
        return {**asdict(replace(self, outputs={})), "outputs": shapes}


def read_inputs(path: Path) -> dict[str, Any]:
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
