"""Gold answers are read before a run starts, by the rewards themselves in real grader processes.

Protected here: a gold counts as unreadable exactly where the reward would leave the group out; a run whose reward can read none is
refused with three of them; what hangs a parser is ended.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.contracts.errors import DataError
from configs.schema.rewards import RewardsSection
from rewards.grading.golds import GoldCheck, check_golds, require_readable_golds

TESTS = {"language": "python", "test_cases": [{"input": "1", "output": "1", "type": "stdin_stdout"}]}


def checked(rows: list[dict[str, Any]], *functions: Any, **settings: Any) -> list[GoldCheck]:
    return check_golds(RewardsSection.model_validate({"functions": list(functions), **settings}), rows)


def test_every_reward_that_compares_reads_the_golds():
    golds = ["42", "", None, r"\frac{1}{2}", ["a", "list"], "18 a day.\n#### 18"]
    names = ["accuracy", "reasoning_accuracy", "length", "cosine", "format"]
    checks = checked([{"solution": gold} for gold in golds], *names)
    assert [check.reward for check in checks] == ["accuracy", "reasoning_accuracy", "length", "cosine"], "format has no gold"
    assert {(check.columns, check.checked, check.unreadable) for check in checks} == {(("solution",), 6, (1, 2, 4))}
    assert checks[0].shown == ('""', "null", '["a", "list"]')


def test_the_gold_is_where_the_reward_looks_for_it():
    rows = [{"answer": "", "final": "7"}, {"answer": "", "final": "8"}]
    (default,) = checked(rows, "accuracy")
    (named,) = checked(rows, {"name": "accuracy", "params": {"gold_column": "final"}})
    assert (default.columns, default.unreadable) == (("answer",), (0, 1))
    assert (named.columns, named.unreadable) == (("final",), ())


def test_words_are_golds_in_a_tag():
    rows = [{"solution": "aspirin, twice daily"}]
    (tagged,) = checked(rows, {"name": "accuracy", "params": {"answer_style": "answer_tag"}})
    assert tagged.unreadable == ()


def test_tests_of_code_are_golds():
    rows = [{"verification_info": info} for info in (TESTS, json.dumps(TESTS), "{}", None)]
    (check,) = checked(rows, "code")
    assert (check.columns, check.unreadable) == (("verification_info",), (2, 3))


def test_a_gold_that_hangs_the_parser_cannot_be_read():
    nested = "(" * 3000 + "1" + ")" * 3000
    (check,) = checked([{"solution": nested}, {"solution": "1"}], "accuracy", timeout_s=2.0)
    assert check.unreadable == (0,)


def test_users_functions_are_not_asked(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(completions, **kwargs):\n    raise SystemExit\n")
    assert checked([{"solution": ""}], f"{tmp_path}/mine.py:mine") == []
    assert checked([], "accuracy") == []


def test_a_reward_that_can_read_no_gold_is_refused_with_three_of_them():
    checks = checked([{"solution": gold} for gold in (None, "", {"text": "x" * 200}, None)], "accuracy")
    with pytest.raises(DataError) as caught:
        require_readable_golds(checks)
    message = str(caught.value)
    assert message.startswith("reward accuracy can read none of the first 4 gold answers (column solution)")
    assert '\n  null\n  ""\n  {"text": "xxx' in message
    assert "gold_column in the reward's params" in message
    require_readable_golds(checked([{"solution": None}, {"solution": "1"}], "accuracy"))
