"""The reward that docs/rewards.md teaches is the example in the repository, and does what it says."""

from __future__ import annotations

import pytest

import rewards
from tests import REPOSITORY


def test_the_example_scores_as_documented() -> None:
    logged: list[tuple[str, float]] = []
    reward = rewards.load(str(REPOSITORY / "examples" / "one_number.py:one_number"))
    completions = ["4", [{"role": "assistant", "content": "4 or 5"}], "none"]
    values = reward(completions=completions, solution=["4"] * 3, log_metric=lambda *entry: logged.append(entry))
    assert values == [1.0, pytest.approx(0.9), 0.0]
    assert logged == [("numbers_mentioned", 1.0)]


def test_the_documentation_shows_the_example_as_it_is() -> None:
    assert (REPOSITORY / "examples" / "one_number.py").read_text() in (REPOSITORY / "docs" / "rewards.md").read_text()


def test_the_tutorial_shows_its_example_as_it_is() -> None:
    page = REPOSITORY / "docs" / "tutorials" / "own_reward.md"
    assert (REPOSITORY / "examples" / "whole_word.py").read_text() in page.read_text()


def test_the_example_of_the_tutorial_counts_whole_words() -> None:
    logged: list[tuple[str, float]] = []
    reward = rewards.load(str(REPOSITORY / "examples" / "whole_word.py:whole_word"))
    completions = ["cba", [{"role": "assistant", "content": "cb"}]]
    assert reward(completions=completions, solution=["cba"] * 2, log_metric=lambda *entry: logged.append(entry)) == [1.0, 0.0]
    assert logged == [("right_length", 0.5)]
