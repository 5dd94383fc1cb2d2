"""ioi_code, with real compilers, checkers and managers in real jails.

The scores are those of Open-R1's ioi_scoring.py; the rows have the columns of open-r1/ioi.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import DataError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.programs.ioi_task import with_includes
from rewards.sandbox.jail import Sandbox
from tests.rewards.sample_programs import fenced, grade

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
    with pytest.raises(RewardError, match="problem Guess is of type Communication: .* use provider local"):
        ioi(SEARCH, communication(), provider="piston", endpoints=["http://127.0.0.1:9"])
