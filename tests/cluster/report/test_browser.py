"""The report in a real browser: on a phone and on a desk, in light and in dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.report import write_report
from tests.cluster.chromium import EXECUTABLE, Chromium, chromium
from tests.cluster.run_directories import log_completions, log_steps, make_run, metrics_of

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium, chromium-browser or google-chrome on PATH")

UNBROKEN = "unbroken" * 100
OUTSIDE = """
    [...document.querySelectorAll("body *")]
        .filter((element) => !element.closest(".scroll, svg"))
        .filter((element) => { const box = element.getBoundingClientRect(); return box.width && (box.left < 0 || box.right > innerWidth); })
        .map((element) => element.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile") / "chromium") as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one run with words as long as they come, and of several runs."""
    folder = tmp_path_factory.mktemp("runs")
    wide = make_run(folder / UNBROKEN[:200], exit_reason=f"failed: {UNBROKEN}", settings=[f"model.path={UNBROKEN}"])
    log_completions(
        wide, 60, [UNBROKEN, f"{UNBROKEN}\n" * 20, "</script><script>document.title = 'attacked'</script>"], reward=UNBROKEN, gold=UNBROKEN
    )
    log_steps(wide, {step: metrics_of(step, 70) | {f"rewards/{UNBROKEN}/mean": 0.1, "kl": math.nan} for step in range(61, 71)})
    runs = [make_run(folder / name, steps=steps, settings=[f"seed={steps}"]) for name, steps in (("one", 40), ("other", 300), ("third", 1))]
    return {"wide": write_report([wide], folder / "wide.html"), "overlay": write_report([*runs, wide], folder / "overlay.html")}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["wide", "overlay"])
def test_it_fits_asks_for_nothing_and_complains_of_nothing(
    browser: Chromium, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate("document.title") != "attacked"
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground.removeprefix('rgb(').removesuffix(')')}]")) < 3 * 64) == dark
    assert browser.requested == [pages[name].as_uri()]
    assert browser.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_text_in_charts_is_readable(browser: Chromium, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["wide"], width, dark=False)
    heights = browser.evaluate('[...document.querySelectorAll("svg.chart text")].map((text) => text.getBoundingClientRect().height)')
    assert len(heights) > 100 and min(heights) >= 10


def test_values_are_shown_under_the_pointer_and_by_the_arrow_keys(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["overlay"], 1280, dark=False)
    left, right, top = browser.evaluate(
        """(() => { const chart = document.querySelector("svg.chart"); chart.scrollIntoView();
            const box = chart.getBoundingClientRect(), unit = box.width / 360; return [box.left + 46 * unit, box.left + 350 * unit, box.top + 50]; })()"""
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + (right - left) * 19 / 299, y=top)
    shown = 'document.querySelector("figure .tip:not([hidden])")?.textContent'
    told = browser.evaluate(shown).split("\n")
    # 300 steps at 160 points: one of two is drawn. The third run has one step, and is over by then.
    step = int(told[0].removeprefix("step "))
    assert abs(step - 20) <= 2
    assert told[2] == f"other {1 + step / 300:.4g}"
    assert [line.split()[0] for line in told[1:]] == ["one", "other", told[3].split()[0]]
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert browser.evaluate(shown) is None
    browser.evaluate('document.querySelector("svg.chart").focus()')
    for _ in range(2):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
    after = int(browser.evaluate(shown).split("\n")[0].removeprefix("step "))
    assert step < after <= step + 6
    assert browser.complaints == []


def test_a_load_from_elsewhere_would_be_noticed(browser: Chromium, pages: dict[str, Path], tmp_path: Path) -> None:
    """The page's policy stops a script and an image that came in after all, and the browser says so."""
    broken = tmp_path / "broken.html"
    intrusion = '<script>document.title = "attacked"</script><img src="http://127.0.0.1:9/x.png">'
    broken.write_text(pages["wide"].read_text().replace("<main>", f"<main>{intrusion}"))
    browser.open(broken, 1280, dark=False)
    assert browser.evaluate("document.title") != "attacked"
    assert len(browser.complaints) >= 2 and all("Content Security Policy" in each for each in browser.complaints)
