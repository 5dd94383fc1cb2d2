"""cf_code, with real programs and checkers in real jails.

The scores are those of Open-R1's cf_scoring.py; the rows have the columns of open-r1/codeforces.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, DataError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.sandbox.jail import Sandbox
from tests.rewards.sample_programs import SUM, fenced, grade

SUMS = [
    {"input": "1 2\n", "output": "3\n"},
    {"input": "3 4\n", "output": "7\n"},
    {"input": "5 5\n", "output": "10\n"},
    {"input": "0 0\n", "output": "0\n"},
]
RIGHT_TWICE = "a, b = map(int, input().split())\nprint(a + b if a < 4 and a else 'x')"
"""Passes the first two."""


def cf(code: str, language: str = "python", tests: Any = SUMS, mode: str = "weighted_sum", batch: int = 1, **row: Any) -> float | None:
    columns = {"id": "1/A", "official_tests": tests, "language": language, "time_limit": 2.0, "memory_limit": 256.0, **row}
    value, outcome = grade("cf_code", fenced(code, language), columns, scoring_mode=mode, test_batch_size=batch)
    assert outcome == ("unparsable_gold" if value is None else "scored")
    return value


@pytest.mark.parametrize(
    ("mode", "right", "half", "wrong"), [("pass_fail", 1.0, 0.0, 0.0), ("partial", 1.0, 0.5, 0.0), ("weighted_sum", 1.1, 0.05, 0.0)]
)
def test_scoring_modes(mode: str, right: float, half: float, wrong: float) -> None:
    assert cf(SUM["python"], mode=mode) == right
    assert cf(RIGHT_TWICE, mode=mode) == half
    assert cf("print('x')", mode=mode) == wrong


def test_no_code_and_code_that_does_not_compile() -> None:
    assert grade("cf_code", "print(3)", {"official_tests": SUMS, "language": "python"}) == (-1.0, "scored")
    assert cf("int main( {", "cpp") == -0.1
    assert cf("print(", "python") == -0.1
    assert cf("if True:\nprint(1)", "python") == -0.1


def test_an_error_while_it_runs_is_no_error_of_compilation() -> None:
    assert cf("eval('1 +')") == 0.0
    assert cf("import sys; print('SyntaxError: no', file=sys.stderr); " + SUM["python"]) == 1.1


def test_cpp_submissions() -> None:
    assert cf(SUM["cpp"], "cpp") == 1.1


@pytest.mark.parametrize("tests", [[], None, "no JSON", [{"input": "1"}]])
def test_no_tests_do_not_apply_even_to_no_code(tests: Any) -> None:
    assert cf(SUM["python"], tests=tests) is None
    assert grade("cf_code", "", {"official_tests": tests, "language": "python"}) == (None, "unparsable_gold")


def test_rows_whose_limits_cannot_be_read_do_not_apply() -> None:
    assert cf(SUM["python"], time_limit="soon") is None
    reward: Any = load("cf_code")
    assert reward.deadline_s({"official_tests": SUMS, "language": "python", "memory_limit": []}) > 0.0
    assert reward.deadline_s({"official_tests": SUMS, "language": "python", "memory_limit": [1]}) == reward.deadline_s({}) == 0.0


def test_the_deadline_covers_every_limit() -> None:
    """Compiling and a jail, four tests and theirs; with a checker the same again for it, and one run more, on the correct output."""
    reward: Any = load("cf_code")
    row = {"official_tests": SUMS, "language": "cpp", "time_limit": 2.0}
    assert reward.deadline_s(row) == 30.5 + 4 * 2.5
    assert reward.deadline_s(row | {"generated_checker": "x"}) == 30.5 + 4 * 2.5 + 30.5 + 5 * 10.5


def test_generated_tests_count_too_where_they_are_tests() -> None:
    assert cf("print(3)", tests=SUMS[:1], generated_tests=SUMS[1:], mode="partial") == 0.25
    assert cf("print(3)", tests=json.dumps(SUMS[:1]), generated_tests=17, mode="partial") == 1.0


def test_pass_fail_stops_at_the_first_failed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run = Sandbox.run
    monkeypatch.setattr(Sandbox, "run", lambda self, command, **rest: ran.append(command) or run(self, command, **rest))
    counts = {}
    for mode, batch in [("pass_fail", 1), ("pass_fail", 2), ("pass_fail", -1), ("partial", 1)]:
        ran.clear()
        cf("print('x')", mode=mode, batch=batch)
        counts[mode, batch] = len(ran)
    assert counts == {("pass_fail", 1): 1, ("pass_fail", 2): 2, ("pass_fail", -1): 4, ("partial", 1): 4}


@pytest.mark.parametrize(
    ("printed", "correct", "passes"),
    [
        ("yes", "YES", True),
        ("YES  1\n2", "yes 1 2\n", True),
        ("1\n\n2\n", "1\r\n2\r\n", True),
        ("yesterday", "YESterday", False),
        ("abc", "ABC", False),
        ("1 2", "12", False),
        ("", "1", False),
        ("1 2", "1", False),
    ],
)
def test_without_a_checker_white_space_and_the_case_of_yes_do_not_count(printed: str, correct: str, passes: bool) -> None:
    tests = [{"input": "", "output": correct}]
    assert cf(f"print({printed!r})", tests=tests, mode="pass_fail") == float(passes)


ANY_ORDER = """
import sys
given, correct, printed = (open(name).read().split() for name in sys.argv[1:4])
print({ACCEPT} if sorted(correct) == sorted(printed) and given == ["in"] else 0)
"""
UNORDERED = [{"input": "in\r\n", "output": "1 2 3\n"}]


@pytest.mark.parametrize("accept", ["1", "100", "1.0"])
def test_a_checker_decides(accept: str) -> None:
    checker = ANY_ORDER.replace("{ACCEPT}", accept)
    assert cf("print(3, 1, 2)", tests=UNORDERED, generated_checker=checker) == 1.1
    assert cf("print(3, 1)", tests=UNORDERED, generated_checker=checker) == 0.0
    assert cf("print(3, 1, 2); exit(1)", tests=UNORDERED, generated_checker=checker) == 0.0
    assert cf("print(3, 1, 2)", tests=UNORDERED, generated_checker=ANY_ORDER.replace("{ACCEPT}", "50")) == 0.0


def test_a_checker_that_the_output_confuses_says_no_but_a_broken_one_is_an_error() -> None:
    needs_numbers = "import sys\nprint(int(sum(map(int, open(sys.argv[3]).read().split())) == 6))"
    assert cf("print('x')", tests=UNORDERED, generated_checker=needs_numbers) == 0.0
    with pytest.raises(RewardError, match="checker of problem 1/A gives no number, not even for the correct output"):
        cf("print(1, 2, 3)", tests=UNORDERED, generated_checker="import not_there")


def test_the_correct_output_and_the_checker_are_not_where_the_submission_runs() -> None:
    spies = "import os; print(sorted(os.listdir()))"
    assert (
        cf(
            spies,
            tests=[{"input": "", "output": "['main.py']"}],
            generated_checker="import sys; print(int(open(sys.argv[2]).read() == open(sys.argv[3]).read()))",
        )
        == 1.1
    )


def test_file_mode() -> None:
    code = "open('output.txt', 'w').write(str(sum(map(int, open('input.txt').read().split()))))\nprint('ignored')"
    assert cf(code, input_mode="file") == 1.1
    assert cf(SUM["python"].replace("input()", "open('input.txt').read()"), input_mode="file") == 0.0
    assert cf(code, input_mode="stdio") == 0.0


def test_limits_of_the_row() -> None:
    sleeps = "import time; time.sleep(0.8); " + SUM["python"]
    assert (cf(sleeps, tests=SUMS[:1], time_limit=0.5), cf(sleeps, tests=SUMS[:1], time_limit=5.0)) == (0.0, 1.1)
    takes = "x = bytearray(100 << 20); " + SUM["python"]
    assert (cf(takes, tests=SUMS[:1], memory_limit=64.0), cf(takes, tests=SUMS[:1], memory_limit=None, time_limit=None)) == (0.0, 1.1)


def test_the_language_is_the_rows_or_the_parameter() -> None:
    row = {"official_tests": SUMS}
    assert grade("cf_code", fenced(SUM["python"]), row, language="python") == (1.1, "scored")
    assert grade("cf_code", fenced(SUM["cpp"], "cpp"), row | {"language": "C++"}, language="python") == (1.1, "scored")
    assert grade("cf_code", fenced(SUM["python"]), row | {"language": "java"}) == (None, "unparsable_gold")
    with pytest.raises(DataError, match="cf_code needs the column language"):
        validate(RewardsSection.model_validate({"functions": ["cf_code"]}), columns=["official_tests"])
    validate(RewardsSection.model_validate({"functions": [{"name": "cf_code", "params": {"language": "cpp"}}]}), columns=["official_tests"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scoring_mode": "best"}, "scoring_mode 'best' is unknown; use one of pass_fail, partial, weighted_sum"),
        ({"test_batch_size": 0}, "test_batch_size 0 is neither positive nor -1"),
        ({"language": "java"}, "language 'java' is unknown; use one of python, cpp"),
        ({"provider": "slurm"}, "provider 'slurm' is unknown"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("cf_code", **params)
