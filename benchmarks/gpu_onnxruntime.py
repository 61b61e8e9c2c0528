"""Dense against pruned in ONNX Runtime's CUDA provider: graph forms, fp32 and fp16, CUDA graphs.

Tracing takes a minute of one CPU, so it is a part of its own that runs beside the others and
leaves its files in a folder, where the timing finds them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_calls import Step
from gpu_models import Shape, cut, find_shape, make_dense, make_plan
from gpu_record import PartRecord
from gpu_timing import REHEARSAL, TIMING, compare_calls
from transformers import PreTrainedModel

_SHAPES = ("bert-base", "bert-large")
_PERCENT = 50
_FORMS = ("portable", "ort-cuda")
_SIDES = ("dense", "pruned")
_READY, _ENDED = "ready", "ended"
_POLL_SECONDS = 0.5
# ONNX Runtime captures a CUDA graph after a run or two.
_RUNS_BEFORE_GRAPH = 3


def write_graphs(record: PartRecord, folder: Path) -> None:
    """Write `<shape>/<form>-<precision>/<side>.onnx`, and a file `ready` beside each pair."""
    torch.set_num_threads(1)  # others are being timed
    for name in _SHAPES:
        shape = find_shape(name, record.rehearse)
        record.attempt(lambda shape=shape: _write_shape(record, shape, folder), shape=name)  # type: ignore[misc]
    (folder / _ENDED).touch()


def _write_shape(record: PartRecord, shape: Shape, folder: Path) -> None:
    started = time.monotonic()
    dense = make_dense(shape, "cpu", torch.float32)
    dense.set_attn_implementation("eager")
    models = {"dense": dense, "pruned": cut(dense, make_plan(dense, "both", _PERCENT))}
    traced = folder / shape.name / "traced"
    for side, model in models.items():
        model.set_attn_implementation("eager")
        _trace(model, traced / f"{side}.onnx")
    record.add(shape=shape.name, trace_seconds=round(time.monotonic() - started, 1))
    for precision in ("fp32", "fp16"):
        for form in _FORMS:
            what = {"shape": shape.name, "form": form, "precision": precision}
            record.attempt(
                lambda form=form, precision=precision: _write_form(traced, form, precision),  # type: ignore[misc]
                **what,
            )


def _trace(model: PreTrainedModel, path: Path) -> None:
    from exporters.export_config import ExportConfig

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        from exporters.trace.list_parts import list_parts
        from exporters.trace.trace_part import trace_part
    except ImportError:
        from exporters.trace.trace_onnx import trace_onnx

        trace_onnx(model, path, ExportConfig())
        return
    config = ExportConfig()
    (part,) = list_parts(model, config)
    trace_part(part, path, config.chosen_opset)


def _write_form(traced: Path, form: str, precision: str) -> None:
    """Write both sides in a form; the same for both, or the comparison would be of forms."""
    folder = traced.parent / f"{form}-{precision}"
    folder.mkdir()
    for side in _SIDES:
        model = _apply_form(traced / f"{side}.onnx", form)
        _save(model, folder / f"{side}.onnx", precision)
    (folder / _READY).touch()


def _apply_form(path: Path, form: str) -> Any:
    import onnx
    import onnx_ir

    if form == "portable":
        return onnx.load(str(path))
    from exporters.forms.apply_form import apply_form

    model = onnx_ir.load(path)
    apply_form(model, form)  # type: ignore[arg-type]
    return onnx_ir.to_proto(model)


def _save(model: Any, path: Path, precision: str) -> None:
    import onnx

    if precision == "fp16":
        from exporters.precision.half_precision import convert_to_half

        model = convert_to_half(model)
    onnx.save(model, str(path))


def compare_in_onnxruntime(record: PartRecord, folder: Path) -> None:
    """Time each pair of graphs as it becomes ready, the small model's before the large one's."""
    import onnxruntime

    provider = "CPUExecutionProvider" if record.device == "cpu" else "CUDAExecutionProvider"
    record.state(version=onnxruntime.__version__, provider=provider)
    if provider not in onnxruntime.get_available_providers():
        record.state(reason=f"this onnxruntime has {onnxruntime.get_available_providers()} only")
        raise RuntimeError(f"no {provider}: pip install '.[cuda]'")
    if record.device == "cuda":
        # Also loads the CUDA libraries that ONNX Runtime then finds. Its kernels go into a stream
        # of torch's, where the events are; the default stream cannot be handed over.
        torch.cuda.set_stream(torch.cuda.Stream())
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
    for name in _SHAPES:
        shape = find_shape(name, record.rehearse)
        for precision, form in (
            ("fp16", "ort-cuda"),
            ("fp16", "portable"),
            ("fp32", "portable"),
            ("fp32", "ort-cuda"),
        ):
            what = {"shape": name, "form": form, "precision": precision}
            pair = folder / name / f"{form}-{precision}"
            if _wait_for(pair / _READY, folder / _ENDED, record):
                _compare_pair(record, shape, pair, what)
            else:
                record.data["not_run"].append({**what, "reason": "no graph; see write_graphs"})
                record.write()


def _wait_for(ready: Path, ended: Path, record: PartRecord) -> bool:
    while record.seconds_left() > 0:
        if ready.exists():
            return True
        if ended.exists():
            return ready.exists()
        time.sleep(_POLL_SECONDS)
    return False


def _compare_pair(record: PartRecord, shape: Shape, pair: Path, what: dict[str, Any]) -> None:
    """Time all batches in one pair of sessions; then batch 1 as CUDA graphs, where fp16 is."""
    _time_mode(record, pair, {**what, "mode": "plain"}, shape.cases)
    gc.collect()
    if record.device == "cuda" and what["precision"] == "fp16":
        _time_mode(record, pair, {**what, "mode": "cuda_graph"}, shape.cases[:1])
        gc.collect()


def _time_mode(
    record: PartRecord, pair: Path, what: dict[str, Any], cases: Sequence[tuple[int, int, int]]
) -> None:
    sessions = record.attempt(
        lambda: [_open(record, pair / f"{side}.onnx", what["mode"]) for side in _SIDES], **what
    )
    if sessions is None:
        return
    config = REHEARSAL if record.rehearse else TIMING
    for batch, length, _ in cases:
        tried = {**what, "batch": batch, "length": length}
        timed = record.attempt(
            lambda size=(batch, length): compare_calls(  # type: ignore[misc]
                *(_bind(record, session, size) for session in sessions), config
            ),
            **tried,
        )
        if timed is not None:
            if what["mode"] == "cuda_graph":  # replayed in a stream of its own, where no event is
                timed.pop("device", None)
            record.add(**tried, **timed)


def _open(record: PartRecord, path: Path, mode: str) -> Any:
    """Return a session that runs in torch's stream, or as a CUDA graph in one of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if record.device == "cuda":
        stream = {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
        cuda = {"enable_cuda_graph": "1"} if mode == "cuda_graph" else stream
        providers = [("CUDAExecutionProvider", cuda)]
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

    for _ in range(_RUNS_BEFORE_GRAPH):
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
