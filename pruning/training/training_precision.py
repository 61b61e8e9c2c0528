"""Which number format to train in."""

import torch


def has_native_bf16() -> bool:
    """Return whether the training device multiplies bf16 in hardware.

    Elsewhere bf16 is emulated, and slower than fp32. Weights and optimizer stay fp32 either way.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16"))
