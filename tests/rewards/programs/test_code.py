"""code and binary_code, with real programs in real jails. Where Open-R1 rewards something else on purpose, the test says so."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, DataError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.convention.group_input import GroupInput
from rewards.grading.graders import Graders
from rewards.programs.code import Code, extract_code
from rewards.sandbox.jail import Sandbox
from rewards.sandbox.jail_process import ENVIRONMENT
from rewards.sandbox.local import LocalRunner
from tests import REPOSITORY
from tests.rewards.sample_programs import SUM, fenced

ADDITIONS = [("1 2\n", "3\n"), ("4 5\n", "9\n"), ("-1 1\n", "0\n"), ("10 20\n", "30\n")]


def info(tests: list[tuple[str, str]], language: str = "python") -> dict[str, Any]:
    return {"language": language, "test_cases": [{"input": given, "output": wanted, "type": "stdin_stdout"} for given, wanted in tests]}


def score(code: str, tests: list[tuple[str, str]] = ADDITIONS, language: str = "python", name: str = "code", **params: Any) -> float | None:
    return load(name, **params)(completions=[fenced(code, language)], verification_info=[info(tests, language)])[0]


def test_the_share_of_passed_tests() -> None:
    assert score(SUM["python"]) == 1.0
    assert score("print(3)") == 0.25
    assert score("print(17)") == 0.0


def test_binary_code_is_all_or_nothing() -> None:
    assert score(SUM["python"], name="binary_code") == 1.0
    assert score("a, b = map(int, input().split()); print(max(a + b, 1))", name="binary_code") == 0.0  # three of four


def test_binary_code_stops_at_the_test_that_decides() -> None:
    """The second test sleeps to its limit; it is not run when the first has failed."""
    code = "n = int(input())\nif n == 2:\n    import time\n    time.sleep(60)\nprint(0)"
    started_s = time.monotonic()
    assert score(code, [("1", "1"), ("2", "0")], name="binary_code", timeout_s=30.0) == 0.0
    assert time.monotonic() - started_s < 15.0


def test_binary_code_allows_less_than_one_percent_of_failures() -> None:
    """As the reference: 100 of 101 is more than 0.99, 99 of 100 is not."""
    code = "n = int(input()); print(n if n else 'x')"
    assert score(code, [(str(n), str(n)) for n in range(101)], name="binary_code") == 1.0
    assert score(code, [(str(n), str(n)) for n in range(100)], name="binary_code") == 0.0


def test_all_lines_count() -> None:
    """The reference compares as many lines as the shorter output has, so that a program that prints nothing more passes."""
    assert score("print(1)", [("", "1\n2\n3\n")]) == 0.0
    assert score("print(1); print(2); print(3); print(4)", [("", "1\n2\n3\n")]) == 0.0
    assert score("pass", [("", "1\n")]) == 0.0


@pytest.mark.parametrize(
    ("printed", "wanted", "reward"),
    [
        ("1 2  \n3\t\n\n\n", "1 2\n3", 1.0),
        ("1 2\r\n3\r\n", "1 2\n3\n", 1.0),
        ("1 2\n3", "1 2 \n3 \n\n", 1.0),
        (" 1", "1", 0.0),
        ("1  2", "1 2", 0.0),
        ("1\n\n2", "1\n2", 0.0),
        ("", "\n\n", 1.0),
        ("é 你好 🎉\n", "é 你好 🎉", 1.0),
        ("É", "é", 0.0),
    ],
)
def test_white_space_at_the_end_of_lines_and_empty_lines_at_the_end_do_not_count(printed: str, wanted: str, reward: float) -> None:
    assert score(f"import sys; sys.stdout.buffer.write({printed.encode()!r})", [("", wanted)]) == reward


def test_unicode_reaches_the_program() -> None:
    assert score("print(input()[::-1])", [("你好\n", "好你\n")]) == 1.0


def test_a_test_that_breaks_a_limit_or_exits_with_another_code_fails_alone() -> None:
    code = """
import sys
n = int(input())
print(n, flush=True)
if n == 1:
    while True: pass
elif n == 2:
    bytearray(1 << 30)
elif n == 3:
    sys.exit(3)
elif n == 4:
    sys.stdout.write("\\n" * (64 << 20))
elif n == 5:
    raise KeyError
"""
    assert score(code, [(str(n), str(n)) for n in range(8)], timeout_s=1.5) == 3 / 8


def test_a_long_output_that_is_wanted_is_right() -> None:
    long = "x" * (5 << 20)
    assert score(f"print('x' * {len(long)})", [("", long)]) == 1.0


def test_limits_are_parameters() -> None:
    sleeps = "import time; time.sleep(1.0); print(1)"
    assert (score(sleeps, [("", "1")], timeout_s=0.5), score(sleeps, [("", "1")], timeout_s=10.0)) == (0.0, 1.0)
    takes = "x = bytearray(200 << 20); print(1)"
    assert (score(takes, [("", "1")], memory_bytes=100 << 20), score(takes, [("", "1")])) == (0.0, 1.0)
    for params in ({"timeout_s": 0}, {"memory_bytes": -1}, {"timeout_s": float("nan")}):
        with pytest.raises(ConfigError, match="is not positive"):
            load("code", **params)


@pytest.mark.parametrize(
    ("text", "language", "code"),
    [
        ("```python\na\n```\nor\n```python\nb\n```", "python", "b\n"),
        ("```python\na\n```\nprints\n```\n3\n```", "python", "a\n"),
        ("```py\na\n```", "python", "a\n"),
        ("```python  \r\na\r\n```", "python", "a\r\n"),
        ("```c++\na\n```", "cpp", "a\n"),
        ("```cpp\na\n```\n```python\nb\n```", "cpp", "a\n"),
        ("```cpp\na\n```", "python", ""),
        ("```python\na", "python", ""),
        ("```\na\n```", "python", ""),
        ("```pythonic\na\n```", "python", ""),
        ("```python\n  \n```", "python", ""),
        ("", "python", ""),
    ],
)
def test_the_last_block_of_the_language_is_the_program(text: str, language: Any, code: str) -> None:
    assert extract_code(text, language) == code


def test_no_code_is_zero() -> None:
    rewards = load("code")(completions=["print(3)", fenced(SUM["cpp"], "cpp"), ""], verification_info=[info(ADDITIONS)] * 3)
    assert rewards == [0.0, 0.0, 0.0]


def test_enforce_same_language() -> None:
    both = fenced(SUM["cpp"], "cpp") + fenced(SUM["python"])
    columns = {"completions": [both, fenced(SUM["python"])], "verification_info": [info(ADDITIONS)] * 2}
    assert load("code")(**columns) == [1.0, 1.0]
    assert load("code", enforce_same_language=True)(**columns) == [0.0, 1.0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "no JSON",
        "[]",
        3,
        {},
        {"language": "python"},
        {"language": "python", "test_cases": []},
        {"language": "python", "test_cases": "x"},
        {"language": "python", "test_cases": ["x"]},
        {"language": "python", "test_cases": [{"input": "1"}]},
        {"language": "python", "test_cases": [{"input": 1, "output": 2}]},
        {"language": "python", "test_cases": [{"input": "1", "output": "1", "type": "function_call"}]},
        {"language": "cobol", "test_cases": [{"input": "1", "output": "1"}]},
        {"test_cases": [{"input": "1", "output": "1"}]},
    ],
)
def test_a_row_without_tests_does_not_apply(value: Any) -> None:
    group = GroupInput("", [fenced(SUM["python"])], [], {"verification_info": value}, 0)
    for name in ("code", "binary_code"):
        reward: Any = load(name)
        assert reward.grade(group, 0) == (None, "unparsable_gold")
        assert reward.deadline_s(group.columns) == 0.0


def test_the_column_may_be_json_text_and_the_type_missing() -> None:
    text = json.dumps({"language": "Python3", "test_cases": [{"input": "1 2", "output": "3"}]})
    assert load("code")(completions=[fenced(SUM["python"])], verification_info=[text]) == [1.0]
    nested = {"language": "python", "test_cases": json.dumps([{"input": "1 2", "output": "3", "type": "stdin_stdout"}])}
    assert load("code")(completions=[fenced(SUM["python"])], verification_info=[nested]) == [1.0]


def test_a_missing_column_is_refused_before_the_run() -> None:
    with pytest.raises(DataError, match="code needs the column verification_info, but the data has solution"):
        validate(RewardsSection.model_validate({"functions": ["code"]}), columns=["solution"])
    with pytest.raises(RewardError, match="needs the column verification_info"):
        load("code")(completions=["x"], solution=["4"])


def test_cpp() -> None:
    assert score(SUM["cpp"], language="cpp") == 1.0
    assert score("int main() { return undeclared; }", language="cpp") == 0.0
    assert score("int main() { int *p = nullptr; return *p; }", [("", "")], language="cpp") == 0.0


def test_cpp_recursion_is_limited_by_memory_alone() -> None:
    """A million frames take about 50 MB, and the usual stack has 8."""
    code = '#include <cstdio>\nint f(int n) { volatile int x[8] = {n}; return n ? f(n - 1) + x[0] % 2 : 0; }\nint main() { printf("%d", f(1000000)); }'
    assert score(code, [("", "500000")], language="cpp") == 1.0


def test_a_program_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_ = Sandbox.compile
    monkeypatch.setattr(Sandbox, "compile", lambda self, command, **rest: compiled.append(command) or compile_(self, command, **rest))
    code = SUM["cpp"] + "// not compiled before"
    assert score(code, language="cpp") == score(code, language="cpp", name="binary_code") == 1.0
    assert len(compiled) == 1


def test_the_deadline_covers_every_limit() -> None:
    """30 s and a jail to compile, then for each of the tests its limit and a jail."""
    reward: Any = load("code", timeout_s=2.0)
    assert reward.deadline_s({"verification_info": info(ADDITIONS)}) == 30.5 + 4 * 2.5


def test_a_program_cannot_see_or_change_the_next_run() -> None:
    code = "import os\nprint(os.listdir())\nopen('left', 'w').write('x')"
    assert score(code, [("", "['main.py']"), ("", "['main.py']")]) == 1.0


def test_secrets_are_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MORPH_API_KEY", "secret")
    (tmp_path / "token").write_text("secret")
    code = f"import os\nprint('MORPH_API_KEY' in os.environ, os.path.exists({str(tmp_path / 'token')!r}))"
    assert score(code, [("", "False False")]) == 1.0


def test_a_host_without_a_jail_is_refused_before_the_run(tmp_path: Path) -> None:
    """In a Python whose folder has no bwrap, and with nothing on the PATH."""
    code = """
from configs.schema.rewards import RewardsSection
from rewards import validate
validate(RewardsSection.model_validate({"functions": ["format"]}))
for name in ("code", "binary_code", "cf_code", "ioi_code"):
    try:
        validate(RewardsSection.model_validate({"functions": [name]}))
    except Exception as error:
        print(type(error).__name__, error)
"""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    env = {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    ran = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=True)
    told = ran.stdout.splitlines()
    assert len(told) == 4
    assert all("SandboxError" in line and "there is no bwrap on this host. Install it" in line for line in told), told


def test_a_missing_compiler_is_an_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Sandbox.check()
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(tmp_path))
    with pytest.raises(RewardError, match="apt-get install g\\+\\+"):
        score(SUM["cpp"] + "// nor this", language="cpp")
    with pytest.raises(RewardError, match="apt-get install g\\+\\+"):
        validate(RewardsSection.model_validate({"functions": ["ioi_code"]}))
    validate(RewardsSection.model_validate({"functions": ["code", {"name": "cf_code", "params": {"language": "python"}}]}))


def test_unknown_providers_and_settings_of_others_are_refused() -> None:
    with pytest.raises(ConfigError, match="provider 'docker' is unknown; use one of local, piston, e2b, morph"):
        load("code", provider="docker")
    with pytest.raises(ConfigError, match="endpoints are a setting of piston, and the provider is local"):
        load("code", endpoints=["http://x:2000"])
    with pytest.raises(ConfigError, match="image is a setting of e2b and morph"):
        load("code", provider="piston", image="x")


def test_making_a_reward_starts_and_looks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for provider in ("local", "piston", "e2b", "morph"):
        Code(provider=provider)


# ------------------------------------------------------------------------------------------------------------ in graders

ATTACK = """
import os, time
open('/proc/self/comm', 'w').write('NAME')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
    while True: time.sleep(1)
print(sum(map(int, input().split())), flush=True)
while True:
    try: os.fork()
    except OSError: pass
"""


def processes_named(name: str) -> int:
    """Living processes of this name, wherever they hang in the tree."""
    names = (Path(f"/proc/{pid}/stat") for pid in os.listdir("/proc") if pid.isdigit())
    count = 0
    for stat in names:
        with suppress(OSError):
            count += f"({name}) " in stat.read_text() and f"({name}) Z" not in stat.read_text()
    return count


def test_a_fork_bomb_with_a_daemon_costs_its_own_completion_and_leaves_nothing() -> None:
    name = f"bomb-{os.getpid()}"
    most_seen = 0

    async def look() -> None:
        nonlocal most_seen
        while True:
            most_seen = max(most_seen, processes_named(name))
            await asyncio.sleep(0.05)

    async def main() -> None:
        graders = await Graders.start(
            [("code", {"timeout_s": 1.5}), ("format", {})],
            count=1,
            timeout_s=1.0,  # less than the limits of the tests add up to: the deadline is theirs
            memory_limit_bytes=4 << 30,
            cwd=REPOSITORY,
        )
        looking = asyncio.ensure_future(look())
        try:
            columns = {"verification_info": info(ADDITIONS[:2])}
            texts = [fenced(ATTACK.replace("NAME", name)), fenced(SUM["python"]), fenced("print(3)")]
            for _ in range(2):
                code, form = await graders.grade(GroupInput("", texts, [], columns, 0))
                assert (code.values, code.outcomes) == ([0.0, 1.0, 0.5], ["scored"] * 3)
                assert form.outcomes == ["scored"] * 3
                assert processes_named(name) == 0
            assert graders.replaced == 0
        finally:
            looking.cancel()
            await graders.close()

    asyncio.run(main())
    assert most_seen > 10
    assert processes_named(name) == 0


def test_graders_say_what_a_node_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver may have what a worker's node has not."""
    monkeypatch.delenv("PISTON_ENDPOINTS", raising=False)

    async def main() -> None:
        await Graders.start([("code", {"provider": "piston"})], count=1, timeout_s=5, memory_limit_bytes=4 << 30, cwd=REPOSITORY)

    with pytest.raises(RewardError, match="^reward code: provider piston needs the addresses of its servers"):
        asyncio.run(main())


def test_a_runner_gives_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = LocalRunner()
    runner.check(["python", "cpp"])
    assert score(SUM["cpp"] + "// nor that", language="cpp") == 1.0
    assert list(tmp_path.iterdir()) == []
