"""format, think_format and tag_count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from rewards import load

GOOD = "<think>\nA\n\nB\n</think>\n<answer>\n4\n</answer>"


def score(name: str, text: str, **params: str) -> float:
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
