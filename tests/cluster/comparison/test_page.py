"""`comparison.html`: as text, and in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.comparison.differences import ComparedSet, compare_set
from cluster.comparison.page import PROMPTS_OF_A_SET, write_comparison
from tests.cluster.chromium import EXECUTABLE, Chromium, chromium
from tests.cluster.evaluations import answers, sampled
from tests.cluster.pages import Page

UNBROKEN = "unbroken" * 60
ATTACK = "</script><script>document.title = 'attacked'</script><b onclick=1>"
SOURCES = {"base": "some/base", "sft": f"/models/{UNBROKEN}", "<i>grpo": "/runs/x/adapter"}
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium, chromium-browser or google-chrome on PATH")


def compared(prompts: int = 6) -> ComparedSet:
    """sft is better on the first prompt, grpo on the first two, and worse on the third."""
    right = {"base": {2}, "sft": {0, 2}, "<i>grpo": {0, 1}}
    said = {
        model: answers(
            "math_500",
            [
                sampled(
                    index,
                    [float(index in right[model]), 0.0],
                    texts_G=[f"{model} says {ATTACK} {UNBROKEN}", "second"],
                    prompt=f"{index} {ATTACK}",
                )
                for index in range(prompts)
            ],
            ks=(2,),
        )
        for model in right
    }
    return compare_set(said, seed=0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison([compared()], SOURCES, tmp_path_factory.mktemp("comparison"))


def test_it_shows_every_model_prompt_and_difference(page: Path) -> None:
    text = page.read_text()
    parsed = Page(text)
    assert len(parsed.all("article")) == 6
    shown = " ".join(element.text for element in parsed.all("article")[:1])
    assert "base says" in shown and "sft says" in shown and "<i>grpo says" in shown, "side by side, and as text"
    assert "1 of 2 right" in shown and "2 of 2" not in shown
    assert [element.attributes["data-better"].split() for element in parsed.all("article")][:3] == [["1", "2"], ["2"], []]
    assert [element.attributes["data-worse"].split() for element in parsed.all("article")][:3] == [[], [], ["2"]]
    table = " ".join(element.text for element in parsed.all("table"))
    assert "+0.083" in table, "of sft: one prompt of six, half of its completions"
    assert "pass@2" in table and "maj@2" in table
    assert len(parsed.all("script")) == 1 and "document.title = 'attacked'" in shown


def test_a_long_set_shows_what_differs(tmp_path: Path) -> None:
    said = {
        model: answers("long", [sampled(index, [float(index > 300 and model == "grpo")]) for index in range(400)])
        for model in ("base", "grpo")
    }
    text = write_comparison([compare_set(said, seed=0)], {"base": "b", "grpo": "g"}, tmp_path).read_text()
    numbers = [int(number) for number in re.findall(r"<p class=\"faint\">prompt (\d+)</p>", text)]
    assert len(numbers) == PROMPTS_OF_A_SET and numbers == sorted(numbers)
    assert set(range(302, 401)) <= set(numbers), "the prompts on which models differ"
    assert "200 of 400 prompts" in text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile") / "chromium") as started:
        yield started


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_asks_for_nothing(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title").endswith("rollcast comparison")
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 3 * 64) == dark
    assert browser.requested == [page.as_uri()]
    assert browser.complaints == []


@needs_browser
@pytest.mark.parametrize(
    ("choice", "prompts"), [("all", 6), ("differ", 3), ("better 1", 1), ("better 2", 2), ("worse 1", 0), ("worse 2", 1)]
)
def test_prompts_are_filtered_by_who_does_better(browser: Chromium, page: Path, choice: str, prompts: int) -> None:
    browser.open(page, 1280, False)
    visible = browser.evaluate(
        "(() => { const select = document.querySelector('.filter select');"
        f" select.value = '{choice}'; select.dispatchEvent(new Event('change'));"
        " return [...document.querySelectorAll('article')].filter((article) => article.offsetHeight > 0).length; })()"
    )
    assert visible == prompts
    assert browser.evaluate("document.querySelector('.filter output').textContent") == f"{prompts} of 6"
