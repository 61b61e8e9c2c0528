"""Tiny pruned checkpoints and their traced graphs, each made once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from exporters.compare.artefact import Artefact
from exporters.compare.checkpoint_artefact import describe_parts
from exporters.compare.onnx_artefact import open_onnx
from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from pruning.checkpoints.checkpoint import save_pruned
from pruning.cutting.repack import repack
from tests.pruning.tiny_models import make_tiny, uneven_plan


@dataclass(frozen=True)
class Exported:
    """A checkpoint, the model in it, and the folder of its graphs."""

    checkpoint: Path
    model: PreTrainedModel
    onnx: Path

    def in_torch(self, graphs: str = "merged") -> Artefact:
        parts = list_parts(self.model, ExportConfig(graphs=graphs))
        return describe_parts("the torch model", self.model, parts)

    def in_onnx(self) -> Artefact:
        return open_onnx(self.onnx)


def export_tiny(folder: Path, name: str, **changes: int) -> Exported:
    model = make_tiny(name, "eager", **(changes or {"num_hidden_layers": 2}))
    pruned = repack(model, uneven_plan(model)).eval()
    save_pruned(pruned, folder / "checkpoint")
    config = ExportConfig()
    for part in list_parts(pruned, config):
        write_graph(trace_graph(part, config.chosen_opset), folder / "onnx" / f"{part.name}.onnx")
    return Exported(folder / "checkpoint", pruned, folder / "onnx")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("bert")
    return export_tiny(folder, "bert", num_hidden_layers=2, max_position_embeddings=160)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Heads of 16 channels, for which TensorRT has a kernel."""
    short = {"num_layers": 1, "num_decoder_layers": 1}
    return export_tiny(tmp_path_factory.mktemp("t5"), "t5", d_kv=16, **short)
