"""The pages in a real browser: nothing is fetched, nothing overflows, every chart is drawn."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nirvana_deploy import draw_report
from tests.nirvana_deploy.headless_browser import CHROMIUM, Browser, run_browser
from tests.nirvana_deploy.stored_runs import make_plan, make_results, write_budgets, write_run

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)

SCREENS = {"phone": (390, 844, False), "narrow": (320, 640, True), "desk": (1280, 900, False)}
# What a drawn chart has: marks of a line, of single points, or of a box.
UNDRAWN = """[...document.querySelectorAll('.chart')].filter(chart => {
  const marks = chart.querySelectorAll('path.js-line, path.point, path.box');
  return ![...marks].some(mark => mark.getAttribute('d'));
}).map(chart => chart.getAttribute('aria-label'))"""
# Texts of a chart that its own frame cuts off.
CUT = """[...document.querySelectorAll('.chart')].flatMap(chart => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1);
  }).map(text => text.textContent);
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with run_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Draw a run alone, with cross-attention, and four budgets with a sweep of batches."""
    folder = tmp_path_factory.mktemp("pages")
    run = write_run(folder / "run", make_results())
    make_plan(0.5).save(run / "prune" / "plan.json")
    seq2seq = folder / "seq2seq.json"
    make_plan(0.5, cross=True).save(seq2seq)
    budgets = write_budgets(folder / "budgets", (0.8, 0.65, 0.5, 0.35))
    return {
        "run": draw_report([run], out=folder / "run.html", targets=["t4"]),
        "compared": draw_report([budgets, seq2seq], out=folder / "compared.html", targets=["l4"]),
    }


@pytest.mark.parametrize("name", ["run", "compared"])
def test_page_in_the_browser(
    browser: Browser, pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    browser.problems.clear()
    for screen, (width, height, dark) in SCREENS.items():
        browser.open(pages[name], width=width, height=height, dark=dark)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, screen
        assert browser.evaluate("document.querySelectorAll('.chart').length") > 8
        assert browser.evaluate(UNDRAWN) == []
        assert browser.evaluate(CUT) == [], screen
        shot = tmp_path / f"{name}-{screen}.png"
        browser.screenshot(shot)
        assert shot.stat().st_size > 50_000
    browser.print_pdf(tmp_path / f"{name}.pdf")
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert browser.problems == []


def test_the_browser_tells_of_problems(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<p style='width:900px'>wide<div class='chart' aria-label='empty'></div>"
        "<script src='http://127.0.0.1:9/a.js'></script><script>undefinedName()</script>"
    )
    browser.problems.clear()
    browser.open(page, width=390, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert browser.evaluate(UNDRAWN) == ["empty"]
    told = " ".join(browser.problems)
    assert "undefinedName" in told
    assert "asked for http://127.0.0.1:9/a.js" in told
    browser.problems.clear()


def test_printed_text_is_black_on_white(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.open(pages["run"], width=1280, height=900, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    style = "getComputedStyle(document.body)"
    colours = [browser.evaluate(f"{style}.{name}") for name in ("color", "backgroundColor")]
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
