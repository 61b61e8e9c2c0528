"""A module with the attributes of TensorRT 10 or 11 that a build and a refit touch.

It builds nothing: it keeps what it was told, and its log is that of TensorRT 10.10. What a real
TensorRT makes of the calls it cannot say.
"""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

LOG = (Path(__file__).parent / "data" / "tensorrt_10_10_layers.log").read_text(encoding="utf-8")


class Settings:
    builder_optimization_level = 3
    hardware_compatibility_level = None

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.pools: dict[str, int] = {}
        self.profiles: list[dict[str, tuple[Any, ...]]] = []
        self.cache: Cache | None = None
        self.timing_is_taken = True

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, limit: int) -> None:
        self.pools[pool] = limit

    def add_optimization_profile(self, profile: "Shapes") -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> "Cache":
        return Cache(data)

    def set_timing_cache(self, cache: "Cache", ignore_mismatch: bool) -> bool:
        self.cache = cache
        return self.timing_is_taken and not cache.data.startswith(b"foreign")

    def get_timing_cache(self) -> "Cache":
        assert self.cache is not None
        return Cache(self.cache.data + b"timed;")


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class Shapes:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = (low, best, high)


class Monitor:
    def __init__(self) -> None:
        pass


class Logger(Monitor):
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def make_tensorrt(version: str = "10.12.0", *, plan: bytes | None = b"plan") -> ModuleType:
    """Return the module; `built` is the list of the settings that were built with."""
    trt = ModuleType("tensorrt")
    built: list[Settings] = []
    network = SimpleNamespace(num_layers=0)

    class Builder:
        def __init__(self, logger: Logger) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            trt.network_flags = flags
            return network

        def create_builder_config(self) -> Settings:
            return Settings()

        def create_optimization_profile(self) -> Shapes:
            return Shapes()

        def build_serialized_network(self, network: Any, settings: Settings) -> memoryview | None:
            built.append(settings)
            severity = SimpleNamespace(name="VERBOSE" if plan else "ERROR")
            self.logger.log(severity, LOG if plan else trt.failure)
            return memoryview(plan) if plan else None

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            pass

        def parse(self, graph: bytes) -> bool:
            return True

        def parse_from_file(self, path: str) -> bool:
            return True

    flags = ("REFIT", "VERSION_COMPATIBLE", "WEIGHT_STREAMING", "TF32", "STRIP_PLAN")
    vars(trt).update(
        __version__=version,
        built=built,
        failure="it failed",
        Builder=Builder,
        OnnxParser=OnnxParser,
        ILogger=Logger,
        IProgressMonitor=Monitor,
        BuilderFlag=SimpleNamespace(**{name: name for name in flags}),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        HardwareCompatibilityLevel=SimpleNamespace(
            NONE="none", AMPERE_PLUS="ampere", SAME_COMPUTE_CAPABILITY="same"
        ),
    )
    if version.startswith("11."):  # IAttention is there since 10.14
        attention = SimpleNamespace(decomposable=False)
        layer = _Layer()
        layer.type, layer.attention = "ATTENTION_INPUT", attention
        network.num_layers, network.get_layer = 1, lambda index: layer
        trt.IAttentionInputLayer = _AttentionLayer
        trt.LayerType = SimpleNamespace(ATTENTION_INPUT="ATTENTION_INPUT")
        trt.attention = attention
    return trt


class _Layer:
    """The class that the binding returns a layer in."""


class _AttentionLayer(_Layer):
    pass
