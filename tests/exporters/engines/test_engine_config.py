import pytest

from exporters.engines.engine_config import EngineConfig, ShapeRange
from nirvana_deploy.config_reader import read_config, to_plain
from pruning.errors import NirvanaError


def test_defaults_are_what_the_demo_builds() -> None:
    config = EngineConfig()
    assert (config.flavour, config.precision) == ("auto", "fp16")
    assert config.compute_capabilities == ("8.9",)
    assert (config.batch.opt, config.length.opt) == (8, 128)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 4, 3)])
def test_unordered_range_is_refused(sizes: tuple[int, int, int]) -> None:
    low, opt, high = sizes
    with pytest.raises(NirvanaError, match=f"min <= opt <= max, got min={low}, opt={opt}, max="):
        ShapeRange(min=low, opt=opt, max=high)


@pytest.mark.parametrize("capability", ["89", "sm89", "8.9.1", "", "8.x"])
def test_malformed_capability_is_refused(capability: str) -> None:
    with pytest.raises(NirvanaError, match=r"written like '8\.9'"):
        EngineConfig(compute_capabilities=("8.6", capability))


def test_repeated_capability_is_refused() -> None:
    with pytest.raises(NirvanaError, match="must differ"):
        EngineConfig(compute_capabilities=("8.6", "8.6"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flavour", "trt", "flavour must be one of auto, tensorrt, tensorrt_rtx, got 'trt'"),
        ("precision", "int8", "precision must be one of fp16, bf16, fp32, graph, got 'int8'"),
        ("workspace_mib", 0, "workspace_mib must be 1 or more, got 0"),
        ("optimisation_level", 6, "optimisation_level must be from 0 to 5, got 6"),
        ("hardware_compatible", "all", "must be one of none, ampere_plus, same_.*, got 'all'"),
        ("profiles", ({"x": ((1,), (2,))},), "three shapes .* profile 0 gives 2 for x"),
    ],
)
def test_unknown_value_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        EngineConfig(**{name: value})


def test_fusion_cannot_be_required_of_fp32() -> None:
    with pytest.raises(NirvanaError, match="require_fused_attention cannot be met in precision"):
        EngineConfig(precision="fp32", require_fused_attention=True)


def test_a_recipe_gives_profiles_by_input() -> None:
    given = [{"x": [[1, 2], [2, 4], [3, 8]]}]
    config = read_config(EngineConfig, {"profiles": given})
    assert config.profiles == ({"x": ((1, 2), (2, 4), (3, 8))},)
    assert to_plain(config)["profiles"] == given
