"""What filling up with zeros costs, layer by layer: the file `padding.json` of a package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nirvana_deploy.serving.vllm.layer_sizes import CheckpointSizes, LayerSize
from nirvana_deploy.serving.vllm.padded_weights import PaddedTensor

REPORT_NAME = "padding.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPadding:
    """Say what one layer has, what it is given, and what that costs.

    Attributes:
        added_parameters: zeros.
        added_bytes: of the zeros, as they are stored.
        added_kv_bytes_per_token: of the cache, were it of the weights' type.
    """

    has: LayerSize
    held: LayerSize
    added_parameters: int
    added_bytes: int
    added_kv_bytes_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingReport:
    """Say what all layers cost; `parameters`, `bytes` and KV bytes are those without padding."""

    layers: tuple[LayerPadding, ...]
    parameters: int
    bytes: int
    kv_bytes_per_token: int

    @property
    def added_parameters(self) -> int:
        """Zeros of all layers."""
        return sum(layer.added_parameters for layer in self.layers)

    @property
    def added_kv_bytes_per_token(self) -> int:
        """Cache that holds nothing, a token, in all layers."""
        return sum(layer.added_kv_bytes_per_token for layer in self.layers)

    def to_json(self) -> dict[str, object]:
        """Return plain data, with the sums."""
        return {
            **asdict(self),
            "added_parameters": self.added_parameters,
            "added_bytes": sum(layer.added_bytes for layer in self.layers),
            "added_kv_bytes_per_token": self.added_kv_bytes_per_token,
        }

    def write(self, folder: Path) -> None:
        """Write the report."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        (folder / REPORT_NAME).write_text(text, encoding="utf-8")

    def headline(self) -> str:
        """Return the costs in a line."""
        if not self.added_parameters:
            return "padding: none"
        padded = sum(bool(layer.added_parameters) for layer in self.layers)
        return (
            f"padding: {self.added_parameters:,} zeros in {padded} of {len(self.layers)} layers "
            f"({self.added_parameters / self.parameters:.1%} more parameters), "
            f"{self.added_kv_bytes_per_token:,} bytes of KV cache a token more "
            f"(without: {self.kv_bytes_per_token:,}); by layer in {REPORT_NAME}"
        )


def count_padding(
    tensors: Sequence[PaddedTensor], sizes: CheckpointSizes, held: Sequence[LayerSize]
) -> PaddingReport:
    """Count what the planned tensors hold besides the checkpoint's own."""
    layers = []
    cache_bytes = _find_element_size(tensors) * 2 * sizes.head_dim  # a key and a value
    for number, (has, gets) in enumerate(zip(sizes.layers, held, strict=True)):
        own = [tensor for tensor in tensors if tensor.layer == number]
        layers.append(
            LayerPadding(
                has=has,
                held=gets,
                added_parameters=sum(tensor.added_parameters for tensor in own),
                added_bytes=sum(tensor.added_bytes for tensor in own),
                added_kv_bytes_per_token=cache_bytes * (gets.num_kv_heads - has.num_kv_heads),
            )
        )
    return PaddingReport(
        layers=tuple(layers),
        parameters=sum(tensor.num_parameters - tensor.added_parameters for tensor in tensors),
        bytes=sum(tensor.spec.size_bytes - tensor.added_bytes for tensor in tensors),
        kv_bytes_per_token=cache_bytes * sum(layer.num_kv_heads for layer in sizes.layers),
    )


def _find_element_size(tensors: Sequence[PaddedTensor]) -> int:
    tensor = next(tensor for tensor in tensors if tensor.layer is not None)
    return tensor.spec.size_bytes // tensor.num_parameters
