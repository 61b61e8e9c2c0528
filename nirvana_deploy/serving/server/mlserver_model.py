"""An ONNX file as a model of MLServer: every request is checked before it runs."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, ResponseOutput

from nirvana_deploy.serving.onnx_signature import TensorSignature
from nirvana_deploy.serving.server.inference_request import RequestReader


class OnnxModel(MLModel):
    """Runs one request at a time, in a thread, so that health is answered meanwhile.

    `settings.parameters.extra` holds `max_batch_size`, `num_threads`, and `inputs` and `outputs`
    as (name, Triton's type, dims without the batch).
    """

    async def load(self) -> bool:
        """Open the file that `settings.parameters.uri` names, whose hash was checked."""
        extra = self.settings.parameters.extra
        inputs = _read_tensors(extra["inputs"])
        self._outputs = _read_tensors(extra["outputs"])
        self._reader = RequestReader(inputs=inputs, max_batch_size=int(extra["max_batch_size"]))
        self.inputs = [_describe(tensor) for tensor in inputs.values()]
        self.outputs = [_describe(tensor) for tensor in self._outputs.values()]
        self.session = open_shared(self.settings.parameters.uri, int(extra["num_threads"]))
        self._one_at_a_time = asyncio.Lock()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request; raise InferenceError for what does not fit, or cannot be run."""
        feeds = self._reader.read(payload)
        async with self._one_at_a_time:
            try:
                outputs = await asyncio.to_thread(self.answer, feeds)
            except Exception as error:  # ONNX Runtime's errors have no base of their own.
                raise InferenceError(str(error).strip().splitlines()[0]) from error
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def answer(self, feeds: dict[str, Any]) -> list[ResponseOutput]:
        """Run a request that was read."""
        names = list(self._outputs)
        arrays = self.session.run(names, feeds)
        return [
            NumpyCodec.encode_output(name, array) for name, array in zip(names, arrays, strict=True)
        ]


@functools.cache
def open_shared(path: str, num_threads: int) -> Any:
    """Open a graph once in a process: the text model and its classifier share the weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _read_tensors(rows: list[list[Any]]) -> dict[str, TensorSignature]:
    return {
        name: TensorSignature(name=name, data_type=data_type, dims=tuple(dims))
        for name, data_type, dims in rows
    }


def _describe(tensor: TensorSignature) -> MetadataTensor:
    return MetadataTensor(
        name=tensor.name,
        datatype=tensor.wire_type,
        shape=[-1, *tensor.dims],
    )
