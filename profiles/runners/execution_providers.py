"""ONNX Runtime's execution providers that run our graphs: names, packages, options, caches.

The options are those that each provider's own reference lists (ONNX Runtime 1.27 for CUDA and
TensorRT, version 0.5 of the TensorRT-RTX plugin), but for addresses of a caller's memory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pruning.errors import NirvanaError
from pruning.write_aside import make_folder

_CUDA_OPTIONS = """
    device_id gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search do_copy_in_default_stream
    cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph tunable_op_enable
    tunable_op_tuning_enable tunable_op_max_tuning_duration_ms enable_skip_layer_norm_strict_mode
    prefer_nhwc use_ep_level_unified_stream use_tf32 fuse_conv_bias sdpa_kernel
"""
_TENSORRT_OPTIONS = """
    device_id trt_max_partition_iterations trt_min_subgraph_size trt_max_workspace_size
    trt_fp16_enable trt_bf16_enable trt_int8_enable trt_int8_calibration_table_name
    trt_int8_use_native_calibration_table trt_dla_enable trt_dla_core trt_dump_subgraphs
    trt_engine_cache_enable trt_engine_cache_path trt_engine_cache_prefix
    trt_weight_stripped_engine_enable trt_onnx_model_folder_path trt_force_sequential_engine_build
    trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback trt_timing_cache_enable
    trt_timing_cache_path trt_force_timing_cache trt_detailed_build_log trt_build_heuristics_enable
    trt_sparsity_enable trt_builder_optimization_level trt_auxiliary_streams trt_tactic_sources
    trt_extra_plugin_lib_paths trt_profile_min_shapes trt_profile_opt_shapes trt_profile_max_shapes
    trt_cuda_graph_enable trt_engine_hw_compatible trt_preview_features trt_op_types_to_exclude
"""
_RTX_OPTIONS = """
    device_id nv_max_workspace_size nv_max_shared_mem_size nv_length_aux_stream_array
    nv_dump_subgraphs nv_detailed_build_log nv_profile_min_shapes nv_profile_opt_shapes
    nv_profile_max_shapes enable_cuda_graph nv_multi_profile_enable
    nv_use_external_data_initializer nv_runtime_cache_path nv_weight_streaming_budget
    nv_op_types_to_exclude nv_enable_profiling nv_profiling_output_file nv_use_sync_gpu_allocator
    nv_persistent_context_memory nv_multi_rotary_cache_concat_offset
    nv_weight_stripped_engine_enable_experimental
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionProvider:
    """One provider.

    Attributes:
        name: ONNX Runtime's.
        short: what it is asked for by.
        install: what brings it.
        options: that it takes.
        cache_options: that make it keep what it compiles in a folder, `{cache}`.
        keeps_context: whether it writes a model of compiled parts, which loads without compiling.
        plugin: module of the wheel that registers it with ONNX Runtime, where it is not built in.
    """

    name: str
    short: str
    install: str
    options: frozenset[str]
    cache_options: Mapping[str, str] = field(default_factory=dict)
    keeps_context: bool = False
    plugin: str | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.short != "cpu"

    def check_options(self, options: Mapping[str, str]) -> None:
        """Raise NirvanaError for an option that the provider does not have."""
        for name in options:
            if name not in self.options:
                near = difflib.get_close_matches(name, self.options, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise NirvanaError(
                    f"{self.name} has no option {name!r}.{hint} It has "
                    f"{', '.join(sorted(self.options))}."
                )

    def fill_cache_options(self, cache_dir: Path) -> dict[str, str]:
        """Return the options that keep compiled parts in a folder; make the folder.

        Raises NirvanaError for a provider that compiles nothing to keep.
        """
        if not self.cache_options:
            raise NirvanaError(
                f"{self.name} compiles nothing that could be kept, and provider_cache is "
                f"{cache_dir}. Leave it unset; these have a cache: "
                f"{', '.join(p.short for p in EXECUTION_PROVIDERS if p.cache_options)}."
            )
        make_folder(cache_dir, "profile")
        return {key: text.format(cache=cache_dir) for key, text in self.cache_options.items()}


EXECUTION_PROVIDERS = (
    ExecutionProvider(
        name="CPUExecutionProvider",
        short="cpu",
        install="pip install 'nirvana-deploy[cpu]'",
        options=frozenset({"use_arena"}),
    ),
    ExecutionProvider(
        name="CUDAExecutionProvider",
        short="cuda",
        install="onnxruntime-gpu in place of onnxruntime: pip install 'nirvana-deploy[cuda]'",
        options=frozenset(_CUDA_OPTIONS.split()),
    ),
    ExecutionProvider(
        name="TensorrtExecutionProvider",
        short="tensorrt",
        install="onnxruntime-gpu in place of onnxruntime, and TensorRT's libraries: pip install "
        "'nirvana-deploy[cuda,tensorrt]'",
        options=frozenset(_TENSORRT_OPTIONS.split()),
        cache_options={
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "{cache}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "{cache}",
        },
        keeps_context=True,
    ),
    ExecutionProvider(
        name="NvTensorRTRTXExecutionProvider",
        short="tensorrt-rtx",
        install="onnxruntime (not onnxruntime-gpu) and its plugin: pip install "
        "onnxruntime-ep-nv-tensorrt-rtx",
        options=frozenset(_RTX_OPTIONS.split()),
        cache_options={"nv_runtime_cache_path": "{cache}"},
        keeps_context=True,
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
)


def find_provider(asked: str) -> ExecutionProvider:
    """Return a provider by its short or its full name; raise NirvanaError where it is neither."""
    for provider in EXECUTION_PROVIDERS:
        if asked in (provider.short, provider.name):
            return provider
    known = ", ".join(provider.short for provider in EXECUTION_PROVIDERS)
    raise NirvanaError(f"There is no provider {asked!r}; expected one of {known}, or a full name.")


def parse_options(settings: Iterable[str]) -> dict[str, str]:
    """Return options given as `name=value`; raise NirvanaError for one that is not, or is twice."""
    options: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name or name in options:
            raise NirvanaError(
                "provider_options are written name=value, each name once, got "
                f"{', '.join(settings)}."
            )
        options[name] = value
    return options
