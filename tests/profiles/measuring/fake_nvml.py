"""A stand-in for pynvml: one or more GPUs whose counters are given by functions."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def install_nvml(
    monkeypatch: pytest.MonkeyPatch,
    *,
    millijoules: Callable[[], int] | None = None,
    used_bytes: Callable[[], int] | None = None,
    num_gpus: int = 1,
) -> ModuleType:
    """Put it in place; a counter that is None is one that the GPU does not have."""
    nvml = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    class NotSupportedError(NVMLError):
        pass

    def ask(counter: Callable[[], Any] | None) -> Callable[[Any], Any]:
        def answer(_handle: Any) -> Any:
            if counter is None:
                raise NotSupportedError("Not Supported")
            return counter()

        return answer

    def find_uuid(uuid: str) -> int:
        if not uuid.startswith("GPU-"):
            raise NVMLError("Not Found")
        return int(uuid.removeprefix("GPU-"))

    def memory() -> Any:
        found = ModuleType("memory")
        found.used = used_bytes()
        return found

    nvml.__dict__.update(
        NVMLError=NVMLError,
        NVMLError_NotSupported=NotSupportedError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: num_gpus,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=find_uuid,
        nvmlDeviceGetTotalEnergyConsumption=ask(millijoules),
        nvmlDeviceGetMemoryInfo=ask(None if used_bytes is None else memory),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml
