"""Run programs on Piston, a code execution service with an HTTP API (https://github.com/engineer-man/piston, API version 2).

Piston keeps nothing between requests: every run sends the program again, and C++ is compiled again. The servers need Piston's packages
`python` and `gcc`. Their limits PISTON_RUN_TIMEOUT and PISTON_COMPILE_TIMEOUT must not be lower than those of the rewards.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from configs.contracts.errors import ConfigError, RewardError
from rewards.sandbox.jail import Ending, Limits, Result
from rewards.sandbox.runner import COMPILE_LIMITS, CompilationError, Language, Prepared, Program, Provider

LANGUAGES: dict[Language, str] = {"python": "python", "cpp": "c++"}
"""Our name of a language -> Piston's."""

ATTEMPTS, RETRY_S = 6, 60.0
"""Most requests for one run, over all endpoints together; and wall seconds after which no new one is made."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 8.0
"""Pause after each round over all endpoints. It doubles from round to round."""

QUEUE_S = 30.0
"""Time that a busy server may keep a request waiting before it runs the program."""

CHECK_TIMEOUT_S = 10.0
MOST_ANSWER_BYTES = 64 << 20

BUSY = "Resource temporarily unavailable"
"""Error text of a program that an overloaded server could not start."""

SIGNALS = {"SIGILL": 4, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8, "SIGKILL": 9, "SIGSEGV": 11, "SIGPIPE": 13, "SIGTERM": 15, "SIGXCPU": 24}


class _File(TypedDict):
    name: str
    content: str


class _Request(TypedDict):
    """One execution. Times in milliseconds."""

    language: str
    version: str
    files: list[_File]
    """Of Python the first one is run."""
    stdin: str
    args: list[str]
    compile_timeout: int
    run_timeout: int
    run_memory_limit: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of an execution, compiling or running, as far as it is read here."""

    stdout: str
    stderr: str
    output: str
    """Both, in the order written."""
    code: int | None
    """None where a signal ended it."""
    signal: str | None
    """The signal's name."""
    status: str | None
    """Why the server killed it: "TO" for time, "OL" and "EL" for too much output. None where it did not, and from older servers."""

    @property
    def exit_code(self) -> int:
        return 128 + SIGNALS.get(str(self.signal), 0) if self.code is None else self.code

    @property
    def ending(self) -> Ending:
        """The ending. Newer servers say why they killed a program; older ones kill for time and for output, and do not say which."""
        if self.status in ("OL", "EL"):
            return "output"
        if self.status == "TO" or (self.status is None and self.signal == "SIGKILL"):
            return "timeout"
        return "exited" if self.code is not None and not self.signal else "signal"


@dataclass(frozen=True, slots=True)
class _Execution:
    """The answer to one request."""

    compiled: _Stage | None
    """None of a language that is not compiled."""
    ran: _Stage | None
    """None where the compiler failed."""


class _UnavailableError(Exception):
    """This endpoint gave no answer. Another may, or the same one later."""


class PistonRunner:
    """Runs programs on the first endpoint that answers. If one is down or busy, the next is tried.

    Args:
        endpoints: addresses such as `http://host:2000`, with or without `/api/v2`. Default: PISTON_ENDPOINTS, separated by commas.
    """

    name: Provider = "piston"
    parallel_runs = 8

    def __init__(self, endpoints: Sequence[str] | None = None) -> None:
        self._given = endpoints
        self._ready: list[str] = []

    def check(self, languages: Collection[Language]) -> None:
        wanted = {LANGUAGES[language] for language in languages}
        failures = []
        for endpoint in self._endpoints():
            try:
                missing = wanted - _runtimes(endpoint)
            except _UnavailableError as failure:
                failures.append(f"{endpoint}: {failure}")
                continue
            if not missing:
                return
            failures.append(f"{endpoint}: it lacks {', '.join(sorted(missing))} (POST /api/v2/packages installs a language)")
        raise RewardError(f"no Piston endpoint can be used ({'; '.join(failures)}); start one, or correct its address")

    @contextmanager
    def prepare(self, program: Program) -> Iterator[Prepared]:
        yield _PistonProgram(self, program)

    def deadline_s(self, runs: int, wall_s: float) -> float:
        return runs * (RETRY_S + COMPILE_LIMITS.wall_s + wall_s + QUEUE_S)

    def execute(self, request: _Request, timeout_s: float) -> _Execution:
        """Execute a request, and try again if need be. Raises RewardError with the failure of every endpoint."""
        order = list(self._endpoints())
        failures: dict[str, str] = {}
        delay_s, give_up_s = FIRST_DELAY_S, time.monotonic() + RETRY_S
        overloaded: _Execution | None = None
        attempt = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = _execution(_request(f"{order[0]}/execute", request, timeout_s))
                if not _looks_overloaded(answer):
                    self._ready = order  # the next run starts with the endpoint that answered
                    return answer
                overloaded = answer
                failures[order[0]] = BUSY
            except _UnavailableError as failure:
                failures[order[0]] = str(failure)
            order.append(order.pop(0))
            if time.monotonic() + delay_s > give_up_s:
                break
            if attempt % len(order) == 0 and attempt < ATTEMPTS:
                time.sleep(delay_s * random.uniform(0.8, 1.2))
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        if overloaded:
            return overloaded  # every server says so: the program itself starts too many processes
        said = "; ".join(f"{endpoint}: {failure}" for endpoint, failure in failures.items())
        raise RewardError(f"no Piston endpoint ran the program in {attempt} attempts ({said}); look at the servers")

    def _endpoints(self) -> list[str]:
        if not self._ready:
            given = os.environ.get("PISTON_ENDPOINTS", "").split(",") if self._given is None else self._given
            self._ready = [_address(endpoint.strip()) for endpoint in given if endpoint.strip()]
            if not self._ready:
                raise ConfigError(
                    "provider piston needs the addresses of its servers; set `endpoints` in the reward's params, or the environment "
                    "variable PISTON_ENDPOINTS on every node, separated by commas"
                )
            random.shuffle(self._ready)  # so that graders do not all start with the same one
        return self._ready


@dataclass(frozen=True, slots=True)
class _PistonProgram:
    runner: PistonRunner
    program: Program

    def run(
        self,
        stdin: str = "",
        *,
        limits: Limits,
        arguments: Sequence[str] = (),
        files: Mapping[str, str] = {},
        output: str | None = None,
    ) -> Result:
        if output is not None:
            raise RewardError(
                "Piston returns what a program prints, not the files that it writes; use provider local for problems with output files"
            )
        request: _Request = {
            "language": LANGUAGES[self.program.language],
            "version": "*",
            # the first file is the one that is run
            "files": [{"name": name, "content": content} for name, content in {**self.program.files, **files}.items()],
            "stdin": stdin,
            "args": list(arguments),
            "compile_timeout": round(1000 * COMPILE_LIMITS.wall_s),
            "run_timeout": round(1000 * limits.wall_s),
            "run_memory_limit": limits.memory_bytes,
        }
        started_s = time.monotonic()
        execution = self.runner.execute(request, COMPILE_LIMITS.wall_s + limits.wall_s + QUEUE_S)
        compiled, ran = execution.compiled, execution.ran
        if ran is None or (compiled and compiled.exit_code != 0):
            raise CompilationError((compiled and (compiled.stderr or compiled.output)) or "the compiler failed")
        return Result(ran.stdout, ran.stderr, ran.exit_code, ran.ending, time.monotonic() - started_s)


def _address(endpoint: str) -> str:
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"Piston endpoint {endpoint!r} is not an address; write it as http://host:2000")
    stem = endpoint.rstrip("/").removesuffix("/execute")
    return stem if "/api/" in stem else f"{stem}/api/v2"


def _request(url: str, body: _Request | None, timeout_s: float) -> object:
    import urllib.error  # imported here: it takes as long as all other imports of a grader together
    import urllib.request
    from http.client import HTTPException

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.loads(response.read(MOST_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        said = error.read(10_000).decode(errors="replace")
        if error.code == 429 or error.code >= 500:
            raise _UnavailableError(f"HTTP {error.code} {said[:200]}") from None
        raise RewardError(f"Piston at {url} refused the request: HTTP {error.code} {_message(said)}") from None
    except ValueError:
        raise _UnavailableError("its answer is not JSON") from None
    except (OSError, HTTPException) as error:
        raise _UnavailableError(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _message(said: str) -> str:
    try:
        return str(json.loads(said)["message"])
    except (ValueError, KeyError, TypeError):
        return said[:500]


def _runtimes(endpoint: str) -> set[str]:
    answer = _request(f"{endpoint}/runtimes", None, CHECK_TIMEOUT_S)
    try:
        if not isinstance(answer, list):
            raise TypeError
        return {name for runtime in answer for name in (runtime["language"], *runtime["aliases"])}
    except (TypeError, KeyError):
        raise _UnavailableError(f"its answer is no list of runtimes: {str(answer)[:200]}") from None


def _execution(answer: object) -> _Execution:
    """Read the answer to a request. Raises _UnavailableError if it is none."""
    stages = answer if isinstance(answer, dict) else {}
    execution = _Execution(_stage(stages.get("compile")), _stage(stages.get("run")))
    compiler_failed = execution.compiled is not None and execution.compiled.exit_code != 0
    if execution.ran is None and not compiler_failed:
        raise _UnavailableError(f"its answer is no execution: {str(answer)[:200]}")
    return execution


def _stage(stage: object) -> _Stage | None:
    if not isinstance(stage, dict) or not stage:
        return None
    stdout, stderr, output = (str(stage.get(name) or "") for name in ("stdout", "stderr", "output"))
    code, signal, status = stage.get("code"), stage.get("signal"), stage.get("status")
    return _Stage(
        stdout, stderr, output, code if isinstance(code, int) else None, str(signal) if signal else None, str(status) if status else None
    )


def _looks_overloaded(execution: _Execution) -> bool:
    return any(stage is not None and BUSY in stage.stderr for stage in (execution.compiled, execution.ran))
