"""Cutting on a GPU: the same tensors as cutting on the CPU, and the masked model's outputs."""

import copy

import pytest
import torch

from pruning.cutting.masking import masked
from pruning.cutting.repack import repack
from pruning.cutting.wiring_inference import read_model
from tests.pruning.tiny_models import TINY, batch_for, live_logits, make_tiny, uneven_plan

DEVICE = "cuda"


def require_gpu() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch sees")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", TINY)
def test_a_model_is_cut_on_a_gpu_as_on_the_cpu(name: str, dtype: torch.dtype) -> None:
    require_gpu()
    model = make_tiny(name).to(dtype)
    plan = uneven_plan(model)
    expected = repack(model, plan).state_dict()
    found = repack(copy.deepcopy(model).to(DEVICE), plan).state_dict()
    assert list(found) == list(expected)
    for key, tensor in found.items():
        assert tensor.device.type == DEVICE
        torch.testing.assert_close(tensor.cpu(), expected[key], rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_repacked_equals_masked_on_a_gpu(name: str) -> None:
    require_gpu()
    model = make_tiny(name).to(DEVICE)
    plan, wiring = uneven_plan(model), read_model(model).wiring
    batch = {key: value.to(DEVICE) for key, value in batch_for(model).items()}
    with masked(model, plan, wiring):
        expected = live_logits(model, batch)
    # Sums are ordered by the kernel that a shape gets, and cut shapes get others.
    torch.testing.assert_close(
        live_logits(repack(model, plan), batch), expected, rtol=1e-4, atol=1e-4
    )
