"""ioi_code and cf_code, with real compilers, checkers and managers in real jails.

The scores are those of Open-R1's cf_scoring.py and ioi_scoring.py; the rows have the columns of open-r1/codeforces and open-r1/ioi.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError, RewardError
from configs.schema import RewardsSection
from rewards import load, validate
from rewards.group_input import GroupInput
from rewards.ioi_task import with_includes
from rewards.sandbox import Sandbox
from tests.rewards.programs import SUM, fenced

SUMS = [
    {"input": "1 2\n", "output": "3\n"},
    {"input": "3 4\n", "output": "7\n"},
    {"input": "5 5\n", "output": "10\n"},
    {"input": "0 0\n", "output": "0\n"},
]
RIGHT_TWICE = "a, b = map(int, input().split())\nprint(a + b if a < 4 and a else 'x')"
"""Passes the first two."""


def grade(name: str, text: str, row: dict[str, Any], **params: Any) -> tuple[float | None, str]:
    return tuple(load(name, **params).grade(GroupInput("", [text], [], row, 0), 0))  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ Codeforces


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


# ------------------------------------------------------------------------------------------------------------ IOI: Batch

GRADER = '#include "Doubling.h"\n#include <cstdio>\nint main() { int n; if (scanf("%d", &n)) printf("%d\\n", twice(n)); }\n'
HEADER = "int twice(int n);\n"
HALF_MARKS = """
#include <fstream>
#include <iostream>
#include "testlib.h"
int main(int count, char **names) {
    std::ifstream correct(names[2]), printed(names[3]);
    double a, b;
    correct >> a; printed >> b;
    std::cout << (a == b ? 1.0 : b == 0 ? nothing : 0.456) << std::endl;
    std::cerr << "translate:success" << std::endl;
}
"""
TESTLIB = "const double nothing = 0.0;\n"
"""Not the real one, but found where that is."""

BATCH = {
    "id": "Doubling",
    "subtask": "01-small",
    "score": 30,
    "score_precision": 2,
    "time_limit": 2.0,
    "memory_limit": 256 << 20,
    "task_type": "Batch",
    "test_names": ["0-1", "0-2", "1-1"],
    "test_cases": [["1\n", "2\n"], ["4\n", "8\n"], ["0\n", "0\n"]],
    "grader_files": [
        ["graders/grader.cpp", GRADER],
        ["graders/Doubling.h", HEADER],
        ["graders/grader_config.json", "{}"],
        ["graders/sample.cpp", ""],
    ],
}
WITH_CHECKER = BATCH | {"grader_files": [*BATCH["grader_files"], ["checker/checker.cpp", HALF_MARKS], ["checker/testlib.h", TESTLIB]]}
DOUBLING = "int twice(int n) { vector<int> v(1, n); return 2 * v[0]; }"
"""Needs bits/stdc++.h, the problem's header for its linkage is not needed, and the std namespace is."""


def ioi(code: str, row: dict[str, Any] = BATCH, **params: Any) -> float | None:
    value, outcome = grade("ioi_code", fenced(code, "cpp"), row, **params)
    assert outcome == ("unparsable_gold" if value is None else "scored")
    return value


def test_a_subtask_is_the_worst_of_its_tests() -> None:
    assert ioi(DOUBLING) == 1.0
    assert ioi("int twice(int n) { return n == 4 ? 9 : 2 * n; }") == 0.0
    assert ioi("int twice(int n) { return 2; }") == 0.0


def test_no_code_or_code_that_does_not_compile_scores_nothing() -> None:
    assert grade("ioi_code", fenced(DOUBLING, "python"), BATCH) == (0.0, "scored")
    assert ioi("int twice(int n) { return") == 0.0
    assert ioi("int thrice(int n) { return 3 * n; }") == 0.0
    assert ioi("int twice(int n) { abort(); }") == 0.0
    assert ioi("struct Last { ~Last() { fflush(stdout); _exit(3); } } last; " + DOUBLING) == 0.0


def test_a_checker_gives_part_of_the_points_which_are_rounded_to_the_precision() -> None:
    almost = "int twice(int n) { return n == 4 ? 9 : 2 * n; }"
    assert ioi(DOUBLING, WITH_CHECKER) == 1.0
    assert ioi(almost, WITH_CHECKER) == 0.46
    assert ioi(almost, WITH_CHECKER | {"score_precision": 1}) == 0.5
    assert ioi(almost, WITH_CHECKER | {"score_precision": 0}) == 0.0
    assert ioi("int twice(int n) { return n == 4 ? 0 : 2 * n; }", WITH_CHECKER) == 0.0


def test_a_checker_that_does_not_compile_is_an_error_of_the_data() -> None:
    row = BATCH | {"grader_files": [*BATCH["grader_files"], ["checker/checker.cpp", "int main( {"]]}
    with pytest.raises(RewardError, match="checker of problem Doubling does not compile"):
        ioi(DOUBLING, row)


def test_it_stops_at_the_first_batch_with_a_0(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    ran: list[Any] = []
    compile_, run = Sandbox.compile, Sandbox.run
    monkeypatch.setattr(Sandbox, "compile", lambda self, command, **rest: compiled.append(command) or compile_(self, command, **rest))
    monkeypatch.setattr(Sandbox, "run", lambda self, command, **rest: ran.append(command) or run(self, command, **rest))
    counts = []
    for batch in (1, 2, -1):
        ran.clear()
        assert ioi("int twice(int n) { return -1 - n; }", test_batch_size=batch) == 0.0
        counts.append(len(ran))
    assert counts == [1, 2, 3]
    assert len(compiled) == 1


def test_tests_by_name_and_as_json() -> None:
    by_name = {"0-2": ["4\n", "8\n"], "0-1": ["1\n", "2\n"], "1-1": ["0\n", "0\n"], "not in this subtask": ["1\n", "3\n"]}
    assert ioi(DOUBLING, BATCH | {"test_cases": by_name}) == 1.0
    assert ioi(DOUBLING, BATCH | {"test_cases": json.dumps(by_name), "grader_files": json.dumps(BATCH["grader_files"])}) == 1.0
    assert ioi(DOUBLING, BATCH | {"test_cases": by_name, "test_names": ["0-1", "not in this subtask"]}) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"test_cases": []},
        {"test_cases": None},
        {"test_cases": ["x"]},
        {"test_names": ["none"], "test_cases": {}},
        {"task_type": "OutputOnly"},
        {"task_type": "Communication"},
        {"time_limit": None},
        {"memory_limit": "much"},
        {"grader_files": [["name"]]},
    ],
)
def test_rows_that_cannot_be_judged_do_not_apply(change: dict[str, Any]) -> None:
    assert ioi(DOUBLING, BATCH | change) is None
    reward: Any = load("ioi_code")
    assert reward.deadline_s(BATCH | change) == 0.0


def test_missing_columns_are_refused_before_the_run() -> None:
    with pytest.raises(DataError, match="ioi_code needs the column test_cases"):
        validate(RewardsSection.model_validate({"functions": ["ioi_code"]}), columns=[name for name in BATCH if name != "test_cases"])


def test_includes_are_added_where_they_are_missing() -> None:
    files = {"Doubling.h": HEADER}
    assert with_includes("x", "Doubling", files) == '#include <bits/stdc++.h>\n#include "Doubling.h"\nusing namespace std;\nx'
    whole = '#include "Doubling.h"\n#include <bits/stdc++.h>\nusing namespace std;\nx'
    assert with_includes(whole, "Doubling", files) == whole
    assert (
        with_includes('#include "Doubling.h"\nx', "Doubling", files)
        == '#include <bits/stdc++.h>\nusing namespace std;\n#include "Doubling.h"\nx'
    )
    assert '.h"' not in with_includes("x", "Other", files)


def test_white_space_within_lines_counts_once() -> None:
    """As the reference's `diff -b`: its amount does not matter, but whether there is any does."""
    grader = '#include "Doubling.h"\n#include <cstdio>\nint main() { printf("a   b  \\n%d\\n\\n", twice(1)); }\n'
    row = BATCH | {"grader_files": [["graders/grader.cpp", grader], ["graders/Doubling.h", HEADER]], "test_names": ["0"]}
    assert ioi(DOUBLING, row | {"test_cases": [["", "a b\n2\n"]]}) == 1.0
    assert ioi(DOUBLING, row | {"test_cases": [["", "ab\n2\n"]]}) == 0.0


# ------------------------------------------------------------------------------------------------------------ IOI: Communication

MANAGER = """
#include <cstdio>
#include <vector>
#include "Guess.h"
int main(int count, char **names) {
    int secret, copies = (count - 1) / 2, most = 40;
    if (!scanf("%d", &secret)) return 1;
    std::vector<FILE *> from(copies), to(copies);
    for (int i = 0; i < copies; i++) { from[i] = fopen(names[1 + 2 * i], "r"); to[i] = fopen(names[2 + 2 * i], "w"); }
    double score = 1.0;
    for (int i = 0; i < copies; i++) {
        int asked = 0, n, found = -1;
        char what;
        while (found < 0 && asked++ < most && fscanf(from[i], " %c %d", &what, &n) == 2)
            if (what == '!') found = n == secret + i; else { fprintf(to[i], "%d\\n", n > secret + i); fflush(to[i]); }
        if (found != 1) score = 0.0; else if (asked > 20) score = score < 0.5 ? score : 0.5;
    }
    printf("%g\\n", score);
}
"""
STUB = """
#include <cstdio>
#include <cstdlib>
#include "Guess.h"
bool too_high(int n) { printf("? %d\\n", n); fflush(stdout); int answer = 0; return scanf("%d", &answer) == 1 && answer; }
int main(int count, char **names) { printf("! %d\\n", find(100 + (count > 1 ? 1000 * atoi(names[1]) : 0))); }
"""
FIFO_STUB = """
#include <cstdio>
#include <cstdlib>
#include "Guess.h"
static FILE *in, *out;
bool too_high(int n) { fprintf(out, "? %d\\n", n); fflush(out); int answer = 0; return fscanf(in, "%d", &answer) == 1 && answer; }
int main(int count, char **names) {
    out = fopen(names[2], "w"); in = fopen(names[1], "r");
    fprintf(out, "! %d\\n", find(100 + (count > 3 ? 1000 * atoi(names[3]) : 0)));
    fclose(out);
}
"""
GUESS_HEADER = "int find(int most);\nbool too_high(int n);\n"
SEARCH = """
int find(int most) {
    int low = 0;
    while (low < most) { int mid = (low + most + 1) / 2; if (too_high(mid)) most = mid - 1; else low = mid; }
    return low;
}
"""
COUNT_UP = "int find(int most) { for (int n = 1; n <= most; n++) if (too_high(n)) return n - 1; return most; }"


def communication(stub: str = STUB, secrets: tuple[int, ...] = (42,), **settings: Any) -> dict[str, Any]:
    config = {f"task_type_parameters_Communication_{name}": value for name, value in settings.items()}
    files = {"manager.cpp": MANAGER, "stub.cpp": stub, "Guess.h": GUESS_HEADER, "grader_config.json": json.dumps(config)}
    return BATCH | {
        "id": "Guess",
        "task_type": "Communication",
        "test_names": None,
        "test_cases": [[f"{secret}\n", ""] for secret in secrets],
        "grader_files": [[f"graders/{name}", content] for name, content in files.items()],
    }


def test_a_submission_talks_with_the_manager() -> None:
    assert ioi(SEARCH, communication(secrets=(42, 0, 99))) == 1.0
    assert ioi(COUNT_UP, communication(secrets=(5, 30))) == 0.5
    assert ioi(COUNT_UP, communication(secrets=(5, 99))) == 0.0
    assert ioi("int find(int) { return 42; }", communication()) == 1.0


NUMBERED = "int find(int most) { return 42 + most / 1000; }"
"""Right where the stub of copy 1 is told its number."""


def test_copies_of_a_submission_and_pipes_as_arguments() -> None:
    assert ioi(SEARCH, communication(num_processes=2)) == 1.0
    assert ioi(NUMBERED, communication(num_processes=2)) == 1.0
    assert ioi("int find(int) { return 42; }", communication(num_processes=2)) == 0.0  # the second one's secret is 43
    assert ioi(SEARCH, communication(FIFO_STUB, user_io="fifo_io")) == 1.0
    assert ioi(NUMBERED, communication(FIFO_STUB, user_io="fifo_io", num_processes=2)) == 1.0


def test_words_of_a_submission_that_has_ended_wait_for_the_manager() -> None:
    row = communication()
    slow = MANAGER.replace("std::vector<FILE *> from", "struct timespec nap = {0, 700000000}; nanosleep(&nap, 0); std::vector<FILE *> from")
    files = dict(row["grader_files"]) | {"graders/manager.cpp": "#include <time.h>\n" + slow}
    assert ioi("int find(int) { return 42; }", row | {"grader_files": list(files.items())}) == 1.0


def test_a_manager_sees_that_a_submission_has_ended() -> None:
    """It need not wait for its time limit."""
    started_s = time.monotonic()
    assert ioi("int find(int) { abort(); }", communication() | {"time_limit": 60.0}) == 0.0
    assert time.monotonic() - started_s < 20.0


@pytest.mark.parametrize(
    "attack",
    [
        "int find(int) { abort(); }",
        "int find(int) { exit(0); }",
        "int find(int) { for (;;); }",
        "int find(int) { for (;;) pause(); }",
        "int find(int) { for (;;) puts(\"\"); }",
        # the manager's processes and files are out of sight: its score cannot be written by the submission
        "int find(int) { for (int p = 1; p < 200; p++) { string name = \"/proc/\" + to_string(p) + \"/fd/1\";"
        " if (FILE *score = fopen(name.c_str(), \"w\")) fputs(\"1\\n\", score); } return 0; }",
    ],
)  # fmt: skip
def test_a_submission_that_does_not_answer_scores_nothing(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ioi(attack, communication() | {"time_limit": 1.0}) == 0.0
    assert list(tmp_path.iterdir()) == []


def test_services_cannot_run_programs_side_by_side() -> None:
    with pytest.raises(RewardError, match="problem Guess is of type Communication, .* use provider local"):
        ioi(SEARCH, communication(), provider="piston", endpoints=["http://127.0.0.1:9"])
