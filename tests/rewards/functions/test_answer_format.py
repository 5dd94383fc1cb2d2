"""format, think_format, tag_count, reasoning_steps and code_format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError, RewardError
from rewards import load

GOOD = "<think>\nA\n\nB\n</think>\n<answer>\n4\n</answer>"


def score(name: str, text: str, **params: Any) -> float:
    return load(name, **params)(completions=[text])[0]


@pytest.mark.parametrize("text", [GOOD, GOOD + "\n"])
def test_block_format(text: str) -> None:
    assert score("format", text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("</think>\n<answer>", "</think>\n\n<answer>"),
        "Sure! " + GOOD,
        GOOD + "\n\n",
        GOOD + " ok",
        GOOD.replace("A", "<think>"),
        GOOD.replace("4", "4</answer>"),
        GOOD.replace("4", "<think>"),
        "<think>A</think><answer>4</answer>",
        "<think>\n</think>\n<answer>\n4\n</answer>",
        "",
    ],
)
def test_anything_else_is_not_the_block_format(text: str) -> None:
    assert score("format", text) == 0.0


def test_inline_format() -> None:
    assert score("format", "<think>A\nB</think><answer>4</answer>", layout="inline") == 1.0
    assert score("format", "<think>A</think> <answer>4</answer>", layout="inline") == 0.0
    assert score("format", "<think>A</think><answer>4</answer></answer>", layout="inline") == 0.0
    with pytest.raises(ConfigError, match="layout 'xml' is unknown; use one of block, inline"):
        load("format", layout="xml")


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think>b", 1.0),
        ("<think></think>", 1.0),
        (" <think>a</think>", 0.0),
        ("<think>a<think>b</think>", 0.0),
        ("<think>a</think></think>", 0.0),
        ("<think>a", 0.0),
        ("</think><think>", 0.0),
    ],
)
def test_think_format(text: str, reward: float) -> None:
    assert score("think_format", text) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (GOOD, 1.0),
        (GOOD.removesuffix("\n</answer>"), 0.75),
        (GOOD + "\n</answer>", 0.75),
        ("<think>\n", 0.25),
        ("<think>a</think><answer>4</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_tag_count(text: str, reward: float) -> None:
    assert score("tag_count", text) == reward


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "\n", "a"]), max_size=20).map("".join))
def test_tag_count_is_a_quarter_for_each_tag(text: str) -> None:
    reward = score("tag_count", text)
    assert reward in (0.0, 0.25, 0.5, 0.75, 1.0)
    if score("format", text) == 1.0:
        assert reward == 1.0


fragments = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "\n", "a", "```python\n", "```", "Step 1:", "- ", "2. "])
tagged = st.lists(fragments, max_size=4).map("".join)


@settings(deadline=None)
@given(st.lists(fragments, max_size=16).map("".join) | st.tuples(tagged, tagged).map(lambda pair: GOOD.replace("A", pair[0]) + pair[1]))
def test_the_stricter_form_implies_the_looser(text: str) -> None:
    if score("code_format", text) == 1.0:
        assert score("format", text) == 1.0
    if score("format", text) == 1.0 or score("format", text, layout="inline") == 1.0:
        assert score("think_format", text) == 1.0


# ------------------------------------------------------------------------------------------------------- reasoning_steps


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("", 0),
        ("It is so.", 0),
        ("Step 1: a Step 22: b", 2),
        ("Step one: a step 1: b Step 1 c", 0),
        ("1. a\n2. b", 2),
        ("Well:\n1. a\n2. b", 2),  # Open-R1 counts none of them
        ("see 1. a", 0),
        (" 1. a", 0),
        ("1) a", 0),
        ("- a\n- b", 1),
        ("- a\n- b\n- c", 2),
        ("* a\n* b\n* c", 2),
        ("-", 0),
        ("\n- a", 1),
        ("a\r\n- b", 1),
        ("a\r- b", 0),
        ("a\u2028- b\x0b* c", 0),
        ("a\n* b", 1),
        ("a - b * c", 0),
        ("First, a. Next, b.", 2),
        ("Second, a. Finally, b.", 2),
        ("First a, second, b", 0),
        ("1. First, a", 2),  # a number and a word
    ],
)
def test_reasoning_steps_counts_marks_in_every_line(text: str, marks: int) -> None:
    assert score("reasoning_steps", text) == marks / 3


def test_three_steps_are_enough() -> None:
    assert score("reasoning_steps", "1. a\n2. b\n3. c") == 1.0
    assert score("reasoning_steps", "1. a\n2. b\n3. c\n4. d\n- e") == 1.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["Step 1:", "1.", "-", "*", "First,", "Finally,", "\n", " ", "a"]), max_size=12).map("".join))
def test_reasoning_steps_is_in_thirds(text: str) -> None:
    assert score("reasoning_steps", text) in (0.0, 1 / 3, 2 / 3, 1.0)
    assert score("reasoning_steps", text + "\n- more") >= score("reasoning_steps", text)


# ----------------------------------------------------------------------------------------------------------- code_format

CODE = "<think>\nA\n</think>\n<answer>\nSo:\n```python\nprint(4)\n```\n</answer>"


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (CODE, 1.0),
        (CODE + "\n", 1.0),
        (CODE.replace("print(4)\n", ""), 1.0),
        (CODE.replace("python\n", "python  \n"), 1.0),
        (CODE.replace("So:\n", "```cpp\nint a;\n```\n"), 1.0),
        (CODE.replace("```python", "```cpp"), 0.0),
        (CODE.replace("```python", "```python3"), 0.0),
        (CODE.replace("```python", "```Python"), 0.0),
        (CODE.replace("```python", "```"), 0.0),
        (CODE.replace("print(4)\n```", "print(4)"), 0.0),
        (CODE.replace("A", "```python\nprint(4)\n```").replace("So:\n```python\nprint(4)\n```", "So."), 0.0),  # only thought
        (CODE.replace("</think>\n<answer>", "</think><answer>"), 0.0),
        (CODE + " Done.", 0.0),
        ("```python\nprint(4)\n```", 0.0),
        (GOOD, 0.0),
        ("", 0.0),
    ],
)
def test_code_format(text: str, reward: float) -> None:
    assert score("code_format", text) == reward


def test_the_language_of_code_format() -> None:
    cpp = CODE.replace("```python", "```c++")
    assert score("code_format", cpp, language="c++") == 1.0
    assert score("code_format", CODE.replace("```python", "```cpp"), language="c") == 0.0


def test_the_language_of_a_row_counts_where_it_has_one() -> None:
    texts = [CODE.replace("```python", f"```{language}") for language in ("cpp", "python", "python", "python")]
    assert load("code_format")(completions=texts, language=["cpp", "cpp", None, ""]) == [1.0, 0.0, 1.0, 1.0]
    with pytest.raises(RewardError, match="code_format: the column language holds 3, a int; make it text or null"):
        load("code_format")(completions=[CODE], language=[3])


@pytest.mark.parametrize("language", ["", None, ["python"]])
def test_a_language_that_is_no_text_is_refused(language: Any) -> None:
    with pytest.raises(ConfigError, match="language .* is not the text after the backticks of a fence"):
        load("code_format", language=language)
