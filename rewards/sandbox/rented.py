"""Run programs on machines rented from E2B or Morph Cloud, through the clients of these services.

Each completion gets a fresh machine, which is stopped afterwards. If this process is killed first, the service stops the machine after
MACHINE_LIFE_S. Programs have no network there: E2B's machines have none, and on Morph's each program gets an empty network namespace. The
services' keys stay in this process. The clients are extras: `pip install 'rollcast[e2b]'`, `pip install 'rollcast[morph]'`.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from configs.contracts.errors import ConfigError, RewardError
from rewards.sandbox.jail import Limits, Result
from rewards.sandbox.runner import (
    COMPILE_LIMITS,
    COMPILER_FLAGS,
    UNLIMITED_STACK,
    CompilationError,
    Language,
    Prepared,
    Program,
    Provider,
    compiler_said,
    required_key,
    with_output_file,
)

if TYPE_CHECKING:
    from rewards.sandbox.rented_job import Job

START_S = 120.0
"""Time that a service may take to start a machine."""

REQUEST_S = 30.0
"""Time to send a program and its input, and to receive its output."""

MACHINE_LIFE_S = 1800
"""The service stops a machine after this time, even if this process was killed."""

CHUNK_CHARACTERS = 90_000
"""Longest piece of text in a command for Morph. Linux allows 131,072 bytes in one argument."""


T = TypeVar("T")


class Machine(Protocol):
    """A rented machine."""

    def python(self, code: str, timeout_s: float) -> str:
        """Run Python code on the machine, and return what it printed."""
        ...

    def stop(self) -> None:
        """Give the machine back."""
        ...


class RemoteRunner(ABC):
    """The common part of the two services.

    Args:
        image: the template or snapshot that machines start from.
    """

    name: Provider
    client: str
    """Name of the module of the service's client."""
    key_variable: str
    parallel_runs = 1  # programs on one machine would slow one another down
    unshares_network: bool
    """True if the machine has a network, so that each program must be cut off from it."""

    def __init__(self, image: str | None = None) -> None:
        self._image = image

    def check(self, languages: Collection[Language]) -> None:
        if importlib.util.find_spec(self.client) is None:
            raise ConfigError(f"provider {self.name} needs its client on every node: pip install 'rollcast[{self.name}]'")
        required_key(self.key_variable, self.name)

    def deadline_s(self, runs: int, wall_s: float) -> float:
        return START_S + REQUEST_S + COMPILE_LIMITS.wall_s + runs * (wall_s + REQUEST_S)

    @contextmanager
    def prepare(self, program: Program) -> Iterator[Prepared]:
        self.check([program.language])
        machine = self.guarded(self._start)
        try:
            remote = _RemoteProgram(self, machine, f"rollcast-{uuid.uuid4().hex}", _command(program))
            remote.set_up(program)
            yield remote
        finally:
            self.guarded(machine.stop)

    @abstractmethod
    def _start(self) -> Machine:
        """Rent a machine, and wait until it is ready."""

    def guarded(self, call: Callable[[], T]) -> T:
        """Call the service's client, and raise its errors as RewardError: they are no faults of the program."""
        try:
            return call()
        except Exception as error:
            raise RewardError(f"provider {self.name} failed: {type(error).__name__}: {error}"[:2000]) from None


@dataclass(frozen=True, slots=True)
class _RemoteProgram:
    runner: RemoteRunner
    machine: Machine
    home: str
    command: Sequence[str]

    def set_up(self, program: Program) -> None:
        """Send the program to the machine, and compile it there."""
        compiler = ["g++", *COMPILER_FLAGS, "-o", "program", *program.sources]
        command = ["true"] if program.language == "python" else compiler
        result = self._do(command, program.files, "", COMPILE_LIMITS, prepares=True)
        if not result.ok:
            raise CompilationError(compiler_said(result))

    def run(
        self,
        stdin: str = "",
        *,
        limits: Limits,
        arguments: Sequence[str] = (),
        files: Mapping[str, str] = {},
        output: str | None = None,
    ) -> Result:
        command = [*self.command, *arguments]
        return self._do(command if output is None else with_output_file(command, output), files, stdin, limits, prepares=False)

    def _do(self, command: Sequence[str], files: Mapping[str, str], stdin: str, limits: Limits, prepares: bool) -> Result:
        job: Job = {
            "home": self.home,
            "prepares": prepares,
            "command": list(command),
            "files": dict(files),
            "stdin": stdin,
            "unshares_network": self.runner.unshares_network,
            "wall_s": limits.wall_s,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "output_bytes": limits.output_bytes,
        }
        mark = f"rollcast-{uuid.uuid4().hex}:"
        code = f"{_job_source()}\nmain(json.loads({json.dumps(job)!r}), {mark!r})\n"
        printed = self.runner.guarded(lambda: self.machine.python(code, limits.wall_s + REQUEST_S))
        answer = json.loads(printed.partition(mark)[2] or json.dumps({"error": f"it printed {printed[-500:]!r} and no result"}))
        if "error" in answer:
            name = self.runner.name
            raise RewardError(
                f"provider {name} could not run a program ({answer['error']}); use an image that has python3, and g++ for C++"
            )
        return Result(**answer)


def _command(program: Program) -> list[str]:
    if program.language == "python":
        return ["python3", next(iter(program.files))]
    return ["/bin/sh", "-c", UNLIMITED_STACK, "sh"]


@cache
def _job_source() -> str:
    return Path(__file__).with_name("rented_job.py").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ E2B


class E2BRunner(RemoteRunner):
    """Runs programs in E2B's sandboxes (https://e2b.dev). `image` is a template. Default: that of the client."""

    name: Provider = "e2b"
    client = "e2b_code_interpreter"
    key_variable = "E2B_API_KEY"
    unshares_network = False

    def _start(self) -> Machine:
        from e2b_code_interpreter import Sandbox  # type: ignore[import-not-found]

        return _E2BMachine(Sandbox.create(self._image, timeout=MACHINE_LIFE_S, allow_internet_access=False))


class _E2BSandbox(Protocol):
    """The part of the client's Sandbox that is used here."""

    def run_code(self, code: str, *, timeout: float) -> Any: ...
    def kill(self) -> object: ...


@dataclass(frozen=True, slots=True)
class _E2BMachine:
    sandbox: _E2BSandbox

    def python(self, code: str, timeout_s: float) -> str:
        execution = self.sandbox.run_code(code, timeout=timeout_s)
        if execution.error:
            raise RuntimeError(f"{execution.error.name}: {execution.error.value}")
        return "".join(execution.logs.stdout)

    def stop(self) -> None:
        self.sandbox.kill()


# ------------------------------------------------------------------------------------------------------------ Morph


class MorphRunner(RemoteRunner):
    """Runs programs on Morph Cloud's instances (https://cloud.morph.so). `image` is the id of a snapshot, and must be given."""

    name: Provider = "morph"
    client = "morphcloud"
    key_variable = "MORPH_API_KEY"
    unshares_network = True

    def check(self, languages: Collection[Language]) -> None:
        if not self._image:
            raise ConfigError(
                "provider morph starts its machines from a snapshot, and `image` is not set; make a snapshot with python3, and g++ for "
                "C++ (`morphcloud snapshot create`), and set `image` to its id in the reward's params"
            )
        super().check(languages)

    def _start(self) -> Machine:
        instance = self._client.instances.start(self._image, ttl_seconds=MACHINE_LIFE_S, ttl_action="stop", timeout=START_S)
        return _MorphMachine(instance)

    @cached_property
    def _client(self) -> Any:
        """The client, made once: this takes seconds."""
        from morphcloud.api import MorphCloudClient  # type: ignore[import-not-found]

        return MorphCloudClient(api_key=required_key(self.key_variable, self.name))


class _MorphAnswer(Protocol):
    exit_code: int
    stdout: str
    stderr: str


class _MorphInstance(Protocol):
    """The part of the client's Instance that is used here."""

    def exec(self, command: str, *, timeout: float) -> _MorphAnswer: ...
    def stop(self) -> object: ...


@dataclass(frozen=True, slots=True)
class _MorphMachine:
    instance: _MorphInstance

    def python(self, code: str, timeout_s: float) -> str:
        path = f"${{TMPDIR:-/tmp}}/rollcast-job-{uuid.uuid4().hex}"
        text = base64.b64encode(code.encode(errors="replace")).decode()
        chunks = [text[start : start + CHUNK_CHARACTERS] for start in range(0, len(text), CHUNK_CHARACTERS)]
        for number, chunk in enumerate(chunks):  # one file for each piece: the client may send a request twice
            self._exec(f"printf %s {chunk} > {path}.{number:06}", REQUEST_S)
        return self._exec(f"cat {path}.* | base64 -d | python3 -", timeout_s)

    def _exec(self, command: str, timeout_s: float) -> str:
        response = self.instance.exec(command, timeout=timeout_s)
        if response.exit_code != 0:
            raise RuntimeError(f"`{command[:80]}` exited with code {response.exit_code}: {response.stderr[-500:]}")
        return response.stdout

    def stop(self) -> None:
        self.instance.stop()
