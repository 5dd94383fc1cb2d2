"""repetition_penalty and fluency."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError, RewardError
from rewards import load
from tests import REPOSITORY

ROUNDING = 1e-15
"""One division and one subtraction of numbers up to 1."""


def penalty(text: str, **params: Any) -> float:
    return load("repetition_penalty", **params)(completions=[text])[0]


def fluency(text: str, **params: Any) -> float:
    return load("fluency", **params)(completions=[text])[0]


@pytest.mark.parametrize(
    ("text", "unique", "total"),
    [
        ("", 1, 1),
        (" \n\t ", 1, 1),
        ("a a", 1, 1),  # fewer than three words
        ("a a a", 1, 1),  # exactly three: one n-gram
        ("a a a a", 1, 2),
        ("a b c a b c", 3, 4),  # abc bca cab abc
        ("a b c d e", 3, 3),
        ("So so SO  sO\nso", 1, 3),  # lower-cased, and white space of any kind parts words
        ("a, b c a b c", 4, 4),  # punctuation belongs to its word
        ("我 我我 我", 2, 2),
    ],
)
def test_trigrams_of_words(text: str, unique: int, total: int) -> None:
    assert penalty(text) == pytest.approx(-(1 - unique / total), abs=ROUNDING)
    assert fluency(text) == pytest.approx(unique / total, abs=ROUNDING)
    assert str(penalty("a b c")) == "0.0"


def test_n_and_the_largest_penalty_are_parameters() -> None:
    assert penalty("a b a b", ngram_size=2) == pytest.approx(-1 / 3, abs=ROUNDING)  # ab ba ab
    assert penalty("a b a b", ngram_size=1) == pytest.approx(-2 / 4, abs=ROUNDING)
    assert penalty("a b a b", ngram_size=1, max_penalty=-0.5) == pytest.approx(-0.25, abs=ROUNDING)
    assert penalty("a b a b", ngram_size=4) == 0.0
    assert penalty("a b a b", ngram_size=5) == 0.0
    assert penalty("a a a a a", max_penalty=0) == 0.0
    assert fluency("a b a b", ngram_size=1) == 0.5


def test_tokens() -> None:
    completions, ids = ["x", "a a a a", "", ""], [[7, 7, 7, 7, 7], [1, 2, 3, 4], [], [7, 7, 7]]
    assert load("repetition_penalty", language="tokens")(completions=completions, completion_ids=ids) == pytest.approx([-2 / 3, 0, 0, 0])
    assert load("fluency", language="tokens")(completions=completions, completion_ids=ids) == pytest.approx([1 / 3, 1, 1, 1])
    with pytest.raises(RewardError, match="fluency counts tokens: pass completion_ids"):
        fluency("a b c", language="tokens")


def test_chinese_is_segmented() -> None:
    """我/来到/北京/清华大学 are four segments: eight in the doubled sentence, of whose six trigrams four differ."""
    sentence = "我来到北京清华大学"
    assert penalty(sentence, language="zh") == 0.0
    assert penalty(sentence * 2, language="zh") == pytest.approx(-2 / 6, abs=ROUNDING)
    assert fluency(sentence * 2, language="zh") == pytest.approx(4 / 6, abs=ROUNDING)
    assert penalty("", language="zh") == penalty("我来到", language="zh") == 0.0
    assert penalty(sentence * 2) == 0.0, "to English it is one word"
    assert penalty("a A a A", language="zh", ngram_size=1) == pytest.approx(-(1 - 3 / 7), abs=ROUNDING), "jieba keeps case and spaces"


def test_jieba_leaves_no_file_behind_and_reads_none(tmp_path: Path) -> None:
    """It believes a cache in the temporary folder, which anyone may have put there: this one knows a single word."""
    code = f"from rewards import load; print(load('fluency', language='zh')(completions=['{'我来到北京清华大学' * 2}']))"

    def run() -> str:
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        ran = subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=env, capture_output=True, text=True)
        assert "jieba" not in ran.stderr.lower() and "dict" not in ran.stderr
        return ran.stdout.strip()

    assert run() == f"[{4 / 6}]"
    assert not list(tmp_path.iterdir())
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"我来到北京清华大学": 9}, 9)))
    assert run() == f"[{4 / 6}]"


def test_without_jieba_it_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """`-S` leaves out site-packages, and with it jieba; -P with PYTHONPATH keeps the rest of this project importable."""
    code = (
        "from configs.contracts.errors import ConfigError\n"
        "from rewards.functions.repetition import Fluency, RepetitionPenalty\n"
        "RepetitionPenalty(), Fluency(language='tokens')\n"
        "for kind in (RepetitionPenalty, Fluency):\n"
        "    try:\n"
        "        kind(language='zh')\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    says = "language 'zh' needs the package jieba, which is not installed; pip install jieba, on every node"
    assert ran.stdout.splitlines() == [f"repetition_penalty: {says}", f"fluency: {says}"]


def test_making_one_does_not_import_jieba() -> None:
    code = (
        "import sys\nfrom rewards import load\nload('fluency', language='zh')\nload('repetition_penalty', language='zh')\n"
        "assert 'jieba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "B", "c.", " ", "\n"]), max_size=30).map(" ".join),
    st.integers(1, 5),
    st.floats(-5, 0),
)
def test_bounds_and_that_the_two_are_one_measure(text: str, ngram_size: int, max_penalty: float) -> None:
    value = penalty(text, ngram_size=ngram_size, max_penalty=max_penalty)
    assert max_penalty <= value <= 0.0
    share = fluency(text, ngram_size=ngram_size)
    assert 0.0 < share <= 1.0
    assert value == pytest.approx(max_penalty * (1.0 - share), abs=5 * ROUNDING)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_tokens_and_words_are_counted_alike(ids: list[int], ngram_size: int) -> None:
    text = " ".join(map(str, ids))
    by_tokens = load("repetition_penalty", language="tokens", ngram_size=ngram_size)(completions=[text], completion_ids=[ids])
    assert by_tokens == [penalty(text, ngram_size=ngram_size)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_penalty": 1.5}, "max_penalty 1.5 should not be positive"),
        ({"max_penalty": "-1"}, "max_penalty '-1' is not a finite number"),
        ({"ngram_size": 0}, "ngram_size 0 is not a whole number of at least 1"),
        ({"ngram_size": 2.5}, "ngram_size 2.5 is not a whole number"),
        ({"language": "de"}, "language 'de' is unknown; use one of en, zh, tokens"),
    ],
)
def test_parameters_that_cannot_work_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("repetition_penalty", **params)
    with pytest.raises(ValueError):
        load("repetition_penalty", **params)


def test_fluency_takes_no_penalty() -> None:
    with pytest.raises(ConfigError, match="reward fluency has no parameter 'max_penalty'; it has ngram_size, language"):
        load("fluency", max_penalty=-1.0)
