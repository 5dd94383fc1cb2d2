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
from rewards.grading.golds import GoldCheck, check_golds, gold_sentences, require_readable_golds

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


def tagged(answer_style: str) -> dict[str, Any]:
    return {"name": "accuracy", "params": {"answer_style": answer_style}}


def test_kinds_are_counted_and_shown():
    golds = ["42", "3,5", "A", "阴道炎", "\\sqrt{2}", "7 cm", ""]
    (check,) = checked([{"solution": gold} for gold in golds], tagged("auto"))
    assert check.kinds == {"number": 2, "list": 1, "option": 1, "text": 1, "latex": 1, "unreadable": 1}
    assert (check.unreadable, check.faults) == ((6,), ())
    (sentence,) = gold_sentences(check)
    assert "1 of the first 7 cannot be read (2 number, 1 list, 1 option, 1 text, 1 latex, 1 unreadable)" in sentence


def test_golds_that_are_no_mathematics_are_told_with_the_setting_that_compares_them():
    (check,) = checked([{"solution": gold} for gold in ("A", "阴道炎", "42")], "accuracy")
    assert (check.unreadable, check.not_mathematics) == ((0, 1), 2)
    assert "2 of them are text or options, and no mathematics: set answer_style: auto" in gold_sentences(check)[-1]
    with pytest.raises(DataError, match="can read none of the first 1 gold answers .*\n.*\n.*set answer_style: auto in its params"):
        require_readable_golds(checked([{"solution": "A"}], "accuracy"))


@pytest.mark.parametrize("name", ["accuracy", "reasoning_accuracy", "length", "cosine"])
def test_a_gold_that_is_wrong_against_itself_is_listed(name: str):
    """Open-R1's rule repairs no malformed operator in an answer, though it does in a gold."""
    (check,) = checked([{"solution": gold} for gold in ("2\\sqrt2", "1")], name)
    (fault,) = check.faults
    assert (fault.row, fault.gold, fault.read) == (0, '"2\\\\sqrt2"', "latex 2*sqrt(2)")
    assert fault.wrong == "its own answer \\boxed{2\\sqrt2} gets 0.0".replace(
        "\\boxed", ("</think>" if "reasoning" in name else "") + "\\boxed"
    )
    assert "grades 1 gold answers otherwise than they are meant" in "\n".join(gold_sentences(check))
    with pytest.raises(DataError, match="calls none of the first 1 gold answers .* right against itself"):
        require_readable_golds(checked([{"solution": "2\\sqrt2"}], name))


def test_a_gold_that_takes_another_rows_answer_for_right_is_listed():
    (check,) = checked([{"solution": gold} for gold in ("$x^2-1$", "$(x-1)(x+1)$", "0.5", "1/2")], tagged("auto"))
    assert [(fault.row, fault.wrong) for fault in check.faults] == [(0, "the answer of row 1, \\boxed{(x-1)(x+1)}, gets 1.0 too")]
    assert gold_sentences(check)[-1].endswith(
        'row 0: "$x^2-1$" (read as latex x**2 - 1): the answer of row 1, \\boxed{(x-1)(x+1)}, gets 1.0 too'
    )


def test_code_has_golds_but_no_answers_to_say():
    (check,) = checked([{"verification_info": TESTS}, {"verification_info": TESTS}], "code")
    assert (check.kinds, check.faults) == ({}, ())
