import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from exporters.engines.engine_flavour import (
    check_capabilities,
    choose_capabilities,
    import_flavour,
    list_capabilities,
)
from pruning.errors import MissingExtraError, NirvanaError


def fake(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(__version__="1.0", **members)
    return module


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return monkeypatch


@pytest.mark.parametrize(
    ("flavour", "what", "extra"),
    [
        ("auto", r"tensorrt_rtx or tensorrt\)", "rtx"),
        ("tensorrt_rtx", "tensorrt_rtx", "rtx"),
        ("tensorrt", "tensorrt", "tensorrt"),
    ],
)
def test_a_missing_flavour_names_its_extra(
    nothing_installed: pytest.MonkeyPatch, flavour: str, what: str, extra: str
) -> None:
    message = rf"{what} is not installed.*nirvana-deploy\[{extra}\]"
    with pytest.raises(MissingExtraError, match=message):
        import_flavour(flavour)


def test_auto_takes_rtx_first_and_else_tensorrt(nothing_installed: pytest.MonkeyPatch) -> None:
    nothing_installed.setitem(sys.modules, "tensorrt", fake("tensorrt"))
    assert import_flavour("auto").__name__ == "tensorrt"
    nothing_installed.setitem(sys.modules, "tensorrt_rtx", fake("tensorrt_rtx"))
    assert import_flavour("auto").__name__ == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("libcudart.so.13: cannot open"), "does not load: libcudart"),
        (ImportError("undefined symbol"), "does not load: undefined symbol"),
        (ModuleNotFoundError("", name="tensorrt_libs"), "its part tensorrt_libs is missing"),
    ],
)
def test_a_broken_flavour_is_not_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(NirvanaError, match=f"tensorrt is installed, but .*{message}"):
        import_flavour("tensorrt")


def test_capabilities_are_read_from_the_flavour() -> None:
    members = dict.fromkeys(["NONE", "SM120", "SM75", "CURRENT", "SM89"])
    trt = fake("tensorrt_rtx", ComputeCapability=SimpleNamespace(__members__=members))
    assert list_capabilities(trt) == ("7.5", "8.9", "12.0")
    check_capabilities(trt, ("12.0", "7.5"))
    with pytest.raises(NirvanaError, match=r"capability 9\.0, 10\.0\. It can for 7\.5, 8\.9, 12"):
        check_capabilities(trt, ("9.0", "8.9", "10.0"))
    with pytest.raises(NirvanaError, match="needs at least one"):
        check_capabilities(trt, ())


def test_the_default_capability_is_for_flavours_that_take_one() -> None:
    members = dict.fromkeys(["SM89", "SM120"])
    rtx = fake("tensorrt_rtx", ComputeCapability=SimpleNamespace(__members__=members))
    assert choose_capabilities(rtx, ("8.9",)) == ("8.9",)
    assert choose_capabilities(fake("tensorrt"), ("8.9",)) == ()
    with pytest.raises(NirvanaError, match=r"has no compute_capabilities, got 12\.0"):
        choose_capabilities(fake("tensorrt"), ("12.0",))


def test_an_option_that_the_flavour_lacks_is_refused_by_name() -> None:
    trt = fake("tensorrt")
    check_capabilities(trt, ())
    with pytest.raises(
        NirvanaError, match=r"tensorrt 1\.0 .*has no compute_capabilities, got 8\.9"
    ):
        check_capabilities(trt, ("8.9",))
