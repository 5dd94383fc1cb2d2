"""Providers other than the jail: what goes over the wire, and what becomes of everything that can go wrong there.

The tests of E2B and Morph run their real clients (`pip install 'rollcast[e2b,morph]'`) against servers on this machine.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.sandbox import piston
from rewards.sandbox.jail import Limits, Result
from rewards.sandbox.piston import PistonRunner
from rewards.sandbox.providers import make_runner
from rewards.sandbox.rented import Machine, RemoteRunner
from rewards.sandbox.runner import CompilationError, Program, Runner
from tests.rewards.sample_programs import SUM, fenced
from tests.rewards.services import E2B, Morph, OldPiston, Piston, PistonWithoutCpp, Service

LIMITS = Limits(wall_s=2.0)
INFO = {"language": "python", "test_cases": [{"input": "1 2", "output": "3"}, {"input": "4 5", "output": "9"}]}


@pytest.fixture
def server() -> Iterator[Service]:
    with Service(Piston).running() as server:
        yield server


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Retries without seconds of waiting; no address or key of this machine; and a folder for what rented machines leave lying."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(piston, "FIRST_DELAY_S", 0.01)
    for name in ("PISTON_ENDPOINTS", "E2B_API_KEY", "MORPH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


def run(runner: Runner, code: str, stdin: str = "", language: Any = "python", limits: Limits = LIMITS, **rest: Any) -> Result:
    with runner.prepare(Program(language, {"main.py" if language == "python" else "main.cpp": code})) as program:
        return program.run(stdin, limits=limits, **rest)


# ------------------------------------------------------------------------------------------------------------ every provider


@dataclass
class Here(RemoteRunner):
    """This machine, taken for a rented one."""

    name: Any = "e2b"
    client = "json"
    key_variable = "PATH"
    unshares_network = False

    def _start(self) -> Machine:
        return ThisMachine()


class ThisMachine:
    def python(self, code: str, timeout_s: float) -> str:
        return subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True, timeout=timeout_s).stdout

    def stop(self) -> None: ...


@pytest.fixture(params=["local", "piston", "old piston", "here", "e2b", "morph"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """One runner of each kind, all of which do what the tests of this section say."""
    if request.param in ("local", "here"):
        yield make_runner("local") if request.param == "local" else Here()
        return
    handler, make = {
        "piston": (Piston, piston_runner),
        "old piston": (OldPiston, piston_runner),
        "e2b": (E2B, e2b_runner),
        "morph": (Morph, morph_runner),
    }[request.param]
    with Service(handler).running() as server:
        yield make(server, monkeypatch)
        assert server.living == set()


def piston_runner(server: Service, monkeypatch: pytest.MonkeyPatch) -> Runner:
    return make_runner("piston", endpoints=server.url)


def e2b_runner(server: Service, monkeypatch: pytest.MonkeyPatch) -> Runner:
    pytest.importorskip("e2b_code_interpreter", reason="the client of E2B is not installed: pip install 'rollcast[e2b]'")
    for name, value in {"API_KEY": "e2b_secret", "API_URL": server.url, "SANDBOX_URL": server.url, "HTTP_VERSION": "1.1"}.items():
        monkeypatch.setenv(f"E2B_{name}", value)
    return make_runner("e2b")


def morph_runner(server: Service, monkeypatch: pytest.MonkeyPatch) -> Runner:
    pytest.importorskip("morphcloud", reason="the client of Morph is not installed: pip install 'rollcast[morph]'")
    monkeypatch.setenv("MORPH_API_KEY", "morph_secret")
    monkeypatch.setenv("MORPH_BASE_URL", server.url)
    return make_runner("morph", image="snapshot_1")


def test_a_program_is_run_as_often_as_asked(runner: Runner) -> None:
    runner.check(["python"])
    with runner.prepare(Program("python", {"main.py": SUM["python"]})) as program:
        results = [program.run(given, limits=LIMITS) for given in ("1 2", "4 5\n")]
    assert [(result.stdout, result.exit_code, result.ending, result.ok) for result in results] == [
        ("3\n", 0, "exited", True),
        ("9\n", 0, "exited", True),
    ]


def test_cpp_and_its_errors(runner: Runner) -> None:
    runner.check(["python", "cpp"])
    assert run(runner, SUM["cpp"], "1 2\n", "cpp").stdout == "3"
    with pytest.raises(CompilationError, match="undeclared"):
        run(runner, "int main() { return undeclared; }", language="cpp")


def test_arguments_files_and_several_sources(runner: Runner) -> None:
    code = "import sys; print(sys.argv[1:], open('data.txt', encoding='utf-8').read())"
    assert run(runner, code, arguments=["a b", "ü"], files={"data.txt": "é\n"}).stdout == "['a b', 'ü'] é\n\n"
    sources = {
        "a.cpp": '#include "b.h"\n#include <cstdio>\nint main() { printf("%d", f()); }',
        "b.h": "int f();\n",
        "b.cpp": "int f() { return 7; }\n",
    }
    with runner.prepare(Program("cpp", sources)) as program:
        assert program.run(limits=LIMITS).stdout == "7"


def test_endings(runner: Runner) -> None:
    exited = run(runner, "import sys; print('no', file=sys.stderr); sys.exit(3)")
    assert (exited.exit_code, exited.ending, exited.ok, exited.stderr) == (3, "exited", False, "no\n")
    hung = run(runner, "print(1, flush=True)\nwhile True: pass", limits=Limits(wall_s=0.7))
    assert (hung.ending, hung.ok) == ("timeout", False)
    killed = run(runner, "import os; os.kill(os.getpid(), 11)")
    assert (killed.exit_code, killed.ending, killed.ok) == (139, "signal", False)
    much = run(runner, "print('x' * (4 << 20))", limits=Limits(output_bytes=1 << 20))
    assert not much.ok
    assert len(much.stdout) <= 1 << 20
    assert not run(runner, "bytearray(1 << 30)", limits=Limits(memory_bytes=256 << 20)).ok


def test_each_run_has_a_folder_of_its_own(runner: Runner) -> None:
    with runner.prepare(Program("python", {"main.py": "import os; print(os.listdir()); open('left', 'w')"})) as program:
        assert program.run(limits=LIMITS).stdout == program.run(limits=LIMITS).stdout == "['main.py']\n"


def test_a_code_reward_on_every_provider(runner: Runner) -> None:
    reward: Any = load("code")
    reward._runner = runner
    texts = [fenced(SUM["python"]), fenced("print(3)"), fenced("print("), "none"]
    assert reward(completions=texts, verification_info=[INFO] * 4) == [1.0, 0.5, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------------------ Piston


def test_what_piston_is_sent(server: Service) -> None:
    run(make_runner("piston", endpoints=[server.url]), SUM["python"], "1 2", arguments=["x"], files={"more.txt": "y"})
    ((method, path, request),) = server.requests
    assert (method, path) == ("POST", "/api/v2/execute")
    assert request == {
        "language": "python",
        "version": "*",
        "files": [{"name": "main.py", "content": SUM["python"]}, {"name": "more.txt", "content": "y"}],
        "stdin": "1 2",
        "args": ["x"],
        "compile_timeout": 30_000,
        "run_timeout": 2000,
        "run_memory_limit": 512 << 20,
    }


@pytest.mark.parametrize("suffix", ["", "/", "/api/v2", "/api/v2/", "/api/v2/execute"])
def test_endpoints_are_written_with_and_without_their_path(server: Service, suffix: str) -> None:
    assert run(make_runner("piston", endpoints=[server.url + suffix]), "print(1)").stdout == "1\n"


def test_endpoints_of_the_environment(server: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISTON_ENDPOINTS", f" {server.url}/api/v2 , ")
    assert load("code", provider="piston")(completions=[fenced(SUM["python"])], verification_info=[INFO]) == [1.0]
    assert len(server.requests) == 2


@pytest.mark.parametrize("mishap", ["500", "502", "429", "hangs up", "no JSON", "[]", "{}", '{"run": 3}', '{"compile": {"code": 0}}'])
def test_what_may_pass_is_tried_again(server: Service, mishap: str) -> None:
    server.mishaps.extend([mishap] * 3)
    assert run(make_runner("piston", endpoints=server.url), "print(1)").stdout == "1\n"
    assert len(server.requests) == 4


def test_a_slow_server_is_left_for_another(server: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piston, "QUEUE_S", -30.5)  # of 30 s for the compiler and 2 s for the run 1.5 s are left
    with Service(Piston).running() as other:
        server.mishaps.extend(["slow"] * 6)
        other.mishaps.extend(["slow"])
        runner = make_runner("piston", endpoints=[server.url, other.url])
        assert run(runner, "print(1)").stdout == "1\n"
        before = len(server.requests)
        assert run(runner, "print(2)").stdout == "2\n"  # begins with the one that answered
        assert len(server.requests) == before


def test_a_dead_endpoint_is_passed_over(server: Service) -> None:
    runner = make_runner("piston", endpoints=[f"http://127.0.0.1:{closed_port()}", server.url])
    runner.check(["python", "cpp"])
    for number in range(4):
        assert run(runner, f"print({number})").stdout == f"{number}\n"


def test_all_endpoints_down_is_an_error_that_names_them(server: Service) -> None:
    endpoints = [f"http://127.0.0.1:{closed_port()}", server.url]
    server.mishaps.extend(["503"] * 100)
    reward = load("code", provider="piston", endpoints=endpoints)
    with pytest.raises(RewardError, match="no Piston endpoint ran the program in 6 attempts") as told:
        reward(completions=[fenced(SUM["python"])], verification_info=[INFO])
    assert all(endpoint in told.value.message for endpoint in endpoints)
    assert "HTTP 503" in told.value.message
    assert "refused" in told.value.message


def test_retries_end_after_their_time(server: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piston, "RETRY_S", 0.5)
    monkeypatch.setattr(piston, "FIRST_DELAY_S", 0.3)
    server.mishaps.extend(["500"] * 100)
    with pytest.raises(RewardError, match="in 2 attempts"):
        run(make_runner("piston", endpoints=server.url), "print(1)")


def test_a_refused_request_is_not_tried_again(server: Service) -> None:
    with pytest.raises(RewardError, match="refused the request: HTTP 400 run_timeout cannot exceed the configured limit"):
        run(make_runner("piston", endpoints=server.url), "print(1)", limits=Limits(wall_s=100.0))
    assert len(server.requests) == 1


def test_an_overloaded_server_is_asked_again_and_a_fork_bomb_is_believed_in_the_end(server: Service) -> None:
    server.mishaps.append('{"run": {"stdout": "", "stderr": "fork: retry: Resource temporarily unavailable", "code": 254, "signal": null}}')
    assert run(make_runner("piston", endpoints=server.url), "print(1)").stdout == "1\n"
    server.requests.clear()
    says_so = "import sys; print('Resource temporarily unavailable', file=sys.stderr); sys.exit(1)"
    assert not run(make_runner("piston", endpoints=server.url), says_so).ok
    assert len(server.requests) == piston.ATTEMPTS


def test_piston_is_checked_before_the_run(server: Service) -> None:
    def check(endpoints: list[str], name: str = "ioi_code") -> None:
        validate(RewardsSection.model_validate({"functions": [{"name": name, "params": {"provider": "piston", "endpoints": endpoints}}]}))

    dead = f"http://127.0.0.1:{closed_port()}"
    check([dead, server.url])
    with pytest.raises(RewardError, match=f"no Piston endpoint can be used.*{dead}"):
        check([dead])
    with Service(PistonWithoutCpp).running() as half:
        check([half.url], "code")
        check([half.url, server.url])
        with pytest.raises(RewardError, match="it lacks c\\+\\+ \\(POST /api/v2/packages installs a language"):
            check([half.url])
    with pytest.raises(ConfigError, match="'localhost:2000' is not an address; write it as http://host:2000"):
        check(["localhost:2000"])
    with pytest.raises(ConfigError, match="PISTON_ENDPOINTS"):
        check([])
    with Service(E2B).running() as no_piston, pytest.raises(RewardError, match="refused the request: HTTP 404 not found"):
        check([no_piston.url])


def test_why_piston_ended_a_program(server: Service) -> None:
    runner = make_runner("piston", endpoints=server.url)
    assert run(runner, "print('x' * (4 << 20))").ending == "output"
    assert run(runner, "while True: pass", limits=Limits(wall_s=0.5)).ending == "timeout"


def test_piston_cannot_give_back_files(server: Service) -> None:
    with pytest.raises(RewardError, match="use provider local"):
        run(make_runner("piston", endpoints=server.url), "print(1)", output="output.txt")


def test_batches_run_at_the_same_time(server: Service) -> None:
    """Four tests of a second each, in one batch and one by one."""
    tests = [{"input": "1", "output": "1"}] * 4
    row = {
        "official_tests": [tests],
        "language": ["python"],
        "time_limit": [5.0],
        "completions": [fenced("import time; time.sleep(1); print(1)")],
    }
    took_s = {}
    for batch in (1, -1):
        started_s = time.monotonic()
        assert load("cf_code", provider="piston", endpoints=server.url, test_batch_size=batch)(**row) == [1.1]
        took_s[batch] = time.monotonic() - started_s
    assert took_s[1] > 4.0
    assert took_s[-1] < took_s[1] - 1.0


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# ------------------------------------------------------------------------------------------------------------ E2B and Morph


def test_the_output_file_of_a_program_on_a_rented_machine() -> None:
    assert run(Here(), "open('output.txt', 'w').write('7'); print('other')", output="output.txt").stdout == "7"


def test_a_rented_machine_gets_no_secret_and_a_daemon_dies_with_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("E2B_API_KEY", "secret")
    assert run(Here(), "import os; print('E2B_API_KEY' in os.environ)").stdout == "False\n"
    mark = tmp_path / "mark"
    assert run(Here(), f"import os, time\nif os.fork() == 0:\n    time.sleep(1)\n    open({str(mark)!r}, 'w')\n").ok
    time.sleep(1.5)
    assert not mark.exists()


def test_a_machine_that_fails_is_an_error_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    class Broken(ThisMachine):
        def python(self, code: str, timeout_s: float) -> str:
            return "nothing of ours"

        def stop(self) -> None:
            stopped.append(True)

    monkeypatch.setattr(Here, "_start", lambda self: Broken())
    with pytest.raises(RewardError, match=r"provider e2b could not run a program \(it printed 'nothing of ours' and no result\)"):
        run(Here(), "print(1)")
    assert stopped == [True]


@pytest.mark.parametrize(
    ("provider", "client", "key"), [("e2b", "e2b_code_interpreter", "E2B_API_KEY"), ("morph", "morphcloud", "MORPH_API_KEY")]
)
def test_a_missing_client_or_key_is_refused_before_the_run(provider: str, client: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"provider": provider} | ({"image": "snapshot_1"} if provider == "morph" else {})
    section = RewardsSection.model_validate({"functions": [{"name": "code", "params": params}]})
    if importlib.util.find_spec(client) is None:
        with pytest.raises(ConfigError, match=rf"provider {provider} needs its client on every node: pip install 'rollcast\[{provider}\]'"):
            validate(section)
        return
    with pytest.raises(ConfigError, match=f"environment variable {key} is not set"):
        validate(section)
    monkeypatch.setenv(key, "x")
    validate(section)


def test_morph_needs_a_snapshot() -> None:
    with pytest.raises(ConfigError, match="starts its machines from a snapshot, and `image` is not set"):
        validate(RewardsSection.model_validate({"functions": [{"name": "code", "params": {"provider": "morph"}}]}))


@pytest.mark.parametrize(("handler", "make"), [(E2B, e2b_runner), (Morph, morph_runner)])
def test_clients_against_a_server(handler: Any, make: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    with Service(handler).running() as server:
        runner = make(server, monkeypatch)
        long = "7 " * 200_000
        assert run(runner, "print(len(input()))", long).stdout == f"{len(long)}\n"
        assert server.living == set()
        assert server.keys == {"e2b_secret" if handler is E2B else "Bearer morph_secret"}
        created = next(body for method, _, body in server.requests if method == "POST")
        assert created["timeout" if handler is E2B else "ttl_seconds"] == 1800
        if handler is E2B:
            assert created["allow_internet_access"] is False
        server.mishaps.extend(["400"])
        with pytest.raises(RewardError, match=f"provider {runner.name} failed: .*"):
            run(runner, "print(1)")


def test_a_program_on_morph_has_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with Service(Morph).running() as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.server_port}), 2)"
        result = run(morph_runner(server, monkeypatch), code)
        assert not result.ok
        assert "OSError" in result.stderr or "ConnectionRefusedError" in result.stderr


def test_piston_runs_nothing_when_it_is_made() -> None:
    PistonRunner(["http://127.0.0.1:9"])
