"""Dense against pruned in ONNX Runtime's CUDA provider: graph forms, fp32 and fp16.

The graphs come from `gpu_graphs`. Each session's logits are held against torch's first. ONNX
Runtime's own CUDA graphs are left out: on an H100 they failed (error 717), and the sessions after
them had no GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_calls import Step
from gpu_graphs import ENDED, EXPECTED, READY, SHAPES, SIDES, wait_for
from gpu_models import Shape, find_shape
from gpu_record import PartRecord
from gpu_timing import REHEARSAL, TIMING, compare_calls

_WARM_RUNS = 3


def compare_in_onnxruntime(record: PartRecord, folder: Path) -> None:
    """Time each pair of graphs as it becomes ready, the small model's before the large one's."""
    import onnxruntime

    provider = "CPUExecutionProvider" if record.device == "cpu" else "CUDAExecutionProvider"
    record.state(
        version=onnxruntime.__version__, provider=provider, fp32_products="TF32, its default"
    )
    if provider not in onnxruntime.get_available_providers():
        record.state(reason=f"this onnxruntime has {onnxruntime.get_available_providers()} only")
        raise RuntimeError(f"no {provider}: pip install '.[cuda]'")
    if record.device == "cuda":
        # Also loads the CUDA libraries that ONNX Runtime then finds. Its kernels go into a stream
        # of torch's, where the events are; the default stream cannot be handed over.
        torch.cuda.set_stream(torch.cuda.Stream())
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
    for name in SHAPES:
        shape = find_shape(name, record.rehearse)
        for precision, form in (
            ("fp16", "ort-cuda"),
            ("fp16", "portable"),
            ("fp32", "portable"),
            ("fp32", "ort-cuda"),
        ):
            what = {"shape": name, "form": form, "precision": precision}
            pair = folder / name / f"{form}-{precision}"
            if wait_for(pair / READY, folder / name / ENDED, record):
                _compare_pair(record, shape, pair, what)
                gc.collect()
            else:
                record.data["not_run"].append({**what, "reason": "no graph; see write_graphs"})
                record.write()


def _compare_pair(record: PartRecord, shape: Shape, pair: Path, what: dict[str, Any]) -> None:
    """Time all batches in one pair of sessions."""
    sessions = record.attempt(
        lambda: [_open(record, pair / f"{side}.onnx") for side in SIDES], **what
    )
    if sessions is None:
        return
    errors = record.attempt(lambda: _find_errors(sessions, pair), **what, what="check")
    what = {**what, "relative_error_of_logits": errors}
    config = REHEARSAL if record.rehearse else TIMING
    for batch, length, _ in shape.cases:
        tried = {**what, "batch": batch, "length": length}
        timed = record.attempt(
            lambda size=(batch, length): compare_calls(
                *(_bind(record, session, size) for session in sessions), config
            ),
            **tried,
        )
        if timed is not None:
            record.add(**tried, **timed)


def _find_errors(sessions: Sequence[Any], pair: Path) -> list[float]:
    """Return how far each session's logits are off torch's, relative to their norm."""
    expected = torch.load(pair.parent / EXPECTED)
    errors = []
    for side, session in zip(SIDES, sessions, strict=True):
        given = {i.name: expected[side][i.name].numpy() for i in session.get_inputs()}
        found = torch.from_numpy(session.run(None, given)[0]).float()
        logits = expected[side]["logits"]
        errors.append(float((found - logits).norm() / logits.norm()))
    return errors


def _open(record: PartRecord, path: Path) -> Any:
    """Return a session that runs in torch's stream."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if record.device == "cuda":
        stream = {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        providers = [("CUDAExecutionProvider", stream)]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if session.get_providers()[0] not in str(providers):
        raise RuntimeError(f"asked for {providers}, got {session.get_providers()}")
    return session


def _bind(record: PartRecord, session: Any, size: tuple[int, int]) -> Step:
    """Return a step with inputs and outputs bound on the device."""
    binding = session.io_binding()
    held = list(_make_inputs(session, size, record.device))
    for name, tensor in held:
        binding.bind_input(
            name, record.device, 0, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr()
        )
    (output,) = session.get_outputs()
    logits = torch.zeros(size[0], output.shape[-1], device=record.device)
    binding.bind_output(
        output.name, record.device, 0, _numpy_type(logits), tuple(logits.shape), logits.data_ptr()
    )

    def step() -> torch.Tensor:
        assert held  # the binding has only the addresses of these
        session.run_with_iobinding(binding)
        return logits

    for _ in range(_WARM_RUNS):
        step()
    if not logits.isfinite().all() or not logits.any():
        raise RuntimeError("the graph's logits are all zero, or not finite")
    return step


def _make_inputs(
    session: Any, size: tuple[int, int], device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    makers: dict[str, Callable[[], torch.Tensor]] = {
        "input_ids": lambda: torch.randint(0, 1000, size),
        "attention_mask": lambda: torch.ones(size, dtype=torch.int64),
        "token_type_ids": lambda: torch.zeros(size, dtype=torch.int64),
    }
    for given in session.get_inputs():
        yield given.name, makers[given.name]().to(device)


def _numpy_type(tensor: torch.Tensor) -> Any:
    return torch.zeros(1, dtype=tensor.dtype).numpy().dtype.type
