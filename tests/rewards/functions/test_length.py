"""length, cosine and soft_overlong_punishment: their formulas, worked out by hand, and what holds for every group."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError, RewardError
from rewards import load
from rewards.convention.group_input import GroupInput
from rewards.convention.per_completion import Grade
from rewards.functions.length import Cosine, Length

RIGHT, WRONG = "\\boxed{4}", "\\boxed{5}"
BOX = len(RIGHT)
ROUNDING = 1e-12
"""The values are below 2 and come of fewer than ten operations, each exact to 2e-16 of its result."""


def padded(text: str, length: int) -> str:
    """A completion of so many characters."""
    return text + " " * (length - len(text))


def score(name: str, texts: Sequence[str], solution: Any = "4", **params: Any) -> list[float | None]:
    return load(name, **params)(completions=texts, solution=[solution] * len(texts))


def tokens(*lengths: int) -> list[list[int]]:
    return [list(range(length)) for length in lengths]


# ---------------------------------------------------------------------------------------------------------------- length


def test_length_of_right_and_wrong_answers() -> None:
    """Lengths 10 to 30: lambda is 0.5, 0.25, 0, -0.25, -0.5; a wrong answer keeps only what is negative."""
    lengths = (10, 15, 20, 25, 30)
    assert score("length", [padded(RIGHT, length) for length in lengths]) == [0.5, 0.25, 0.0, -0.25, -0.5]
    assert score("length", [padded(WRONG, length) for length in lengths]) == [0.0, 0.0, 0.0, -0.25, -0.5]


def test_a_wrong_sibling_counts_among_the_lengths() -> None:
    """Shortest 10 (wrong), longest 30 (wrong): the right answer of 20 characters is half way."""
    assert score("length", [padded(WRONG, 10), padded(RIGHT, 20), padded(WRONG, 30)]) == [0.0, 0.0, -0.5]


def test_equal_lengths_and_single_completions_get_nothing() -> None:
    assert score("length", [padded(RIGHT, 12), padded(WRONG, 12)]) == [0.0, 0.0]
    assert score("length", [RIGHT]) == [0.0]


def test_an_empty_completion_is_wrong_and_of_length_zero() -> None:
    assert score("length", ["", padded(RIGHT, 10), padded(RIGHT, 20)]) == [0.0, 0.0, -0.5]


def test_length_in_tokens_need_not_be_length_in_characters() -> None:
    texts = [padded(RIGHT, 10), padded(RIGHT, 20), padded(RIGHT, 30)]
    by_tokens = load("length", unit="tokens")(completions=texts, completion_ids=tokens(8, 2, 4), solution=["4"] * 3)
    assert by_tokens == pytest.approx([-0.5, 0.5, 0.5 - 2 / 6], abs=ROUNDING)
    with pytest.raises(RewardError, match="length counts tokens: pass completion_ids"):
        score("length", texts, unit="tokens")
    with pytest.raises(ValueError, match="'completion_ids' has 2 values for 3 completions"):
        load("length", unit="tokens")(completions=texts, completion_ids=tokens(8, 2), solution=["4"] * 3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(BOX, 60)), min_size=1, max_size=8))
def test_what_holds_for_every_group(group: list[tuple[bool, int]]) -> None:
    values = score("length", [padded(RIGHT if right else WRONG, length) for right, length in group])
    lengths = [length for _, length in group]
    spread = max(lengths) - min(lengths)
    for (right, length), value in zip(group, values, strict=True):
        assert value is not None
        assert -0.5 <= value <= (0.5 if right else 0.0)
        if spread and right and length in (min(lengths), max(lengths)):
            assert value == (0.5 if length == min(lengths) else -0.5)
    if not spread:
        assert set(values) == {0.0}
    elif all(right for right, _ in group):  # the sum of 1/2 - (len - min) / spread over G completions
        implied = len(group) / 2 - (sum(lengths) - len(group) * min(lengths)) / spread
        assert math.fsum(value or 0.0 for value in values) == pytest.approx(implied, abs=ROUNDING)


# ---------------------------------------------------------------------------------------------------------------- cosine


@pytest.mark.parametrize(
    ("length", "right", "wrong"),
    [
        # cos(pi/3) = 1/2: (1 + 1/2) / 2 = 3/4 of the way from the value at max_len to the value at 0
        (20, 0.5 + 0.5 * 0.75, -0.5 - 0.5 * 0.75),
        (30, 0.75, -0.75),
        (40, 0.5 + 0.5 * 0.25, -0.5 - 0.5 * 0.25),
        (60, 0.5, -0.5),
        (61, 0.5, -0.5),
        (1000, 0.5, -0.5),  # Open-R1 does not stop at max_len, and a long wrong answer would get better and worse again
    ],
)
def test_cosine(length: int, right: float, wrong: float) -> None:
    values = score("cosine", [padded(RIGHT, length), padded(WRONG, length)], max_len=60)
    assert values == pytest.approx([right, wrong], abs=ROUNDING)


def test_cosine_at_length_zero() -> None:
    """In tokens, since a right answer has characters. An empty text is wrong, and the worst."""
    reward = load("cosine", unit="tokens")
    assert reward(completions=[RIGHT, WRONG, ""], completion_ids=tokens(0, 0, 0), solution=["4"] * 3) == [1.0, -1.0, -1.0]


def test_the_defaults_of_cosine() -> None:
    """At 500 of 1000 characters half of the way: (0.5 + 1) / 2 and (-1 - 0.5) / 2."""
    assert score("cosine", [padded(RIGHT, 500), padded(WRONG, 500)]) == pytest.approx([0.75, -0.75], abs=ROUNDING)


def test_the_bounds_of_cosine_have_their_own_ends() -> None:
    bounds = {"min_value_wrong": -10.0, "max_value_wrong": -5.0, "min_value_correct": 2.0, "max_value_correct": 8.0}
    reward = load("cosine", unit="tokens", max_len=4, **bounds)
    texts, ids = [RIGHT, RIGHT, WRONG, WRONG], tokens(0, 4, 0, 4)
    assert reward(completions=texts, completion_ids=ids, solution=["4"] * 4) == [8.0, 2.0, -10.0, -5.0]


def test_bounds_in_the_other_order_turn_the_slope_round() -> None:
    """The defaults of Open-R1's script."""
    reward = load("cosine", unit="tokens", max_len=4, min_value_wrong=0.0, max_value_wrong=-0.5)
    assert reward(completions=[WRONG, WRONG], completion_ids=tokens(0, 4), solution=["4"] * 2) == [0.0, -0.5]


value = st.floats(-10, 10)


@settings(deadline=None)
@given(st.tuples(value, value).map(sorted), st.tuples(value, value).map(sorted), st.integers(1, 50))
def test_cosine_falls_for_right_and_rises_for_wrong_answers(wrong: list[float], right: list[float], max_len: int) -> None:
    bounds = dict(zip(("min_value_wrong", "max_value_wrong", "min_value_correct", "max_value_correct"), [*wrong, *right], strict=True))
    reward = Cosine(unit="tokens", max_len=max_len, **bounds)
    ids = tokens(*range(max_len + 3))
    for text, (low, high), sign in ((RIGHT, right, -1), (WRONG, wrong, 1)):
        group = GroupInput("", [text] * len(ids), ids, {"solution": "4"}, 0)
        values = [reward.grade(group, index).value or 0.0 for index in range(len(ids))]
        assert all(low - 20 * ROUNDING <= value <= high + 20 * ROUNDING for value in values)
        assert all(sign * (later - earlier) >= -20 * ROUNDING for earlier, later in itertools.pairwise(values))
        assert values[-1] == pytest.approx(low if text == RIGHT else high, abs=20 * ROUNDING)
        assert values[0] == pytest.approx(high if text == RIGHT else low, abs=20 * ROUNDING)


# ------------------------------------------------------------------------------------------ what the two of them have in common


@pytest.mark.parametrize("name", ["length", "cosine"])
def test_an_unparsable_gold_does_not_apply_even_where_lengths_are_equal(name: str) -> None:
    assert score(name, [RIGHT, WRONG], solution="") == [None, None]
    assert score(name, [RIGHT, padded(WRONG, 20)], solution="$$") == [None, None]


def test_an_answer_that_cannot_be_read_is_wrong_and_counted() -> None:
    group = GroupInput("", ["no idea", "no idea, none, at all"], [], {"solution": "4"}, 0)
    assert [Length().grade(group, index) for index in (0, 1)] == [Grade(0.0, "unparsable_answer"), Grade(-0.5, "unparsable_answer")]
    assert Cosine(max_len=7).grade(group, 0) == Grade(-0.5, "unparsable_answer")
    assert Length().grade(GroupInput("", [RIGHT], [], {"solution": ""}, 0), 0) == Grade(None, "unparsable_gold")


@pytest.mark.parametrize("name", ["length", "cosine"])
def test_the_answer_is_judged_as_accuracy_is_told_to(name: str) -> None:
    texts = ["<answer>4</answer>", "<answer>5</answer> " + " " * 20]
    latex = load(name)(completions=texts, answer=["4", "4"])
    tagged = load(name, answer_style="answer_tag")(completions=texts, answer=["4", "4"])
    assert latex[0] is not None and tagged[0] is not None
    assert latex[0] < tagged[0] and latex[1] == tagged[1], "only the first is right, and only where its tag is read"
    by_key = load(name, answer_style="answer_tag", gold_column="key")(completions=texts, key=["5", "5"], answer=["4", "4"])
    assert by_key[0] == latex[0]


@pytest.mark.parametrize("name", ["length", "cosine"])
def test_a_missing_gold_column_is_named_with_the_reward(name: str) -> None:
    with pytest.raises(RewardError, match=f"{name} needs the column solution or answer, but the data has label"):
        load(name)(completions=[RIGHT], label=["4"])


# ---------------------------------------------------------------------------------------------------- soft_overlong_punishment


def punish(*lengths: int, **params: Any) -> list[float]:
    return load("soft_overlong_punishment", **params)(completions=["x"] * len(lengths), completion_ids=tokens(*lengths))


def test_soft_overlong_punishment() -> None:
    """L_max 100, L_cache 20: free up to 80, then (80 - len) / 20."""
    values = punish(0, 80, 81, 90, 99, 100, 101, 500, max_completion_len=100, soft_punish_cache=20)
    assert values == [0.0, 0.0, -0.05, -0.5, -0.95, -1.0, -1.0, -1.0]


def test_the_cache_is_a_quarter_rounded_down_where_it_is_not_given() -> None:
    """103 // 4 is 25: free up to 78."""
    assert punish(78, 79, 103, 104, max_completion_len=103) == [0.0, -1 / 25, -1.0, -1.0]


def test_without_a_cache_it_is_a_step() -> None:
    assert punish(100, 101, max_completion_len=100, soft_punish_cache=0) == [0.0, -1.0]
    assert punish(3, 4, max_completion_len=3) == [0.0, -1.0]  # a quarter of 3 is 0


def test_a_cache_as_long_as_the_limit_punishes_every_token() -> None:
    assert punish(0, 1, 4, max_completion_len=4, soft_punish_cache=4) == [0.0, -0.25, -1.0]


@settings(deadline=None)
@given(st.integers(1, 60).flatmap(lambda longest: st.tuples(st.just(longest), st.none() | st.integers(0, longest))))
def test_the_punishment_only_grows_and_never_beyond_one(limits: tuple[int, int | None]) -> None:
    values = punish(*range(limits[0] + 3), max_completion_len=limits[0], soft_punish_cache=limits[1])
    assert all(-1.0 <= value <= 0.0 for value in values)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert (values[0], values[-1]) == (0.0, -1.0)


def test_outside_a_run_the_limit_must_be_given() -> None:
    with pytest.raises(ConfigError, match="max_completion_len is not set.*max_completion_len=2048"):
        punish(5)
    with pytest.raises(RewardError, match="soft_overlong_punishment counts tokens: pass completion_ids"):
        load("soft_overlong_punishment", max_completion_len=8)(completions=["x"])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("length", {"unit": "words"}, "length: unit 'words' is unknown; use one of characters, tokens"),
        ("length", {"answer_style": "xml"}, "length: answer_style 'xml' is unknown"),
        ("cosine", {"unit": ["tokens"]}, r"cosine: unit \['tokens'\] is unknown"),
        ("cosine", {"max_len": 0}, "cosine: max_len 0 is not a whole number of at least 1"),
        ("cosine", {"max_len": 10.5}, "cosine: max_len 10.5 is not a whole number"),
        ("cosine", {"min_value_wrong": "-1"}, "cosine: min_value_wrong '-1' is not a finite number"),
        ("cosine", {"max_value_correct": math.inf}, "cosine: max_value_correct inf is not a finite number"),
        ("soft_overlong_punishment", {"max_completion_len": 0}, "max_completion_len 0 is not a whole number of at least 1"),
        ("soft_overlong_punishment", {"max_completion_len": True}, "max_completion_len True is not a whole number"),
        ("soft_overlong_punishment", {"soft_punish_cache": -1}, "soft_punish_cache -1 is not a whole number of at least 0"),
        (
            "soft_overlong_punishment",
            {"max_completion_len": 4, "soft_punish_cache": 5},
            "soft_punish_cache 5 is more than max_completion_len 4",
        ),
    ],
)
def test_parameters_that_cannot_work_are_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name, **params)
