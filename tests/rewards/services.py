"""Servers that speak the protocols of Piston, E2B and Morph Cloud on this machine, and really run what they are sent.

Written from Piston's API documentation and sources (api/src/job.js), and from the requests that the clients of E2B
(e2b_code_interpreter 2.11, e2b 2.63) and Morph (morphcloud 0.1.116) make. What they run are the tests' own programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from rewards.sandbox.jail import Limits, Result
from rewards.sandbox.local import LocalRunner
from rewards.sandbox.runner import CompilationError, Program


class Service(ThreadingHTTPServer):
    """A server on a free port. `mishaps` are what it does next instead of answering; `requests` is what it was asked."""

    daemon_threads = True

    def __init__(self, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.mishaps: deque[str] = deque()
        self.requests: list[tuple[str, str, Any]] = []
        self.keys: set[str] = set()
        self.living: set[str] = set()
        """Machines that were started and not ended."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is none of the server's business; all else fails the test at its client."""

    @contextmanager
    def running(self) -> Iterator[Service]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def service(self) -> Service:
        return cast(Service, self.server)

    def log_message(self, format: str, *args: Any) -> None: ...

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = json.loads(body) if body else None
        self.service.requests.append((self.command, self.path, request))
        mishap = self.service.mishaps.popleft() if self.service.mishaps and self.command == "POST" else ""
        if mishap == "hangs up":
            self.close_connection = True
        elif mishap == "slow":
            time.sleep(4.0)
            self.answer(200, {})
        elif mishap.isdigit():
            self.answer(int(mishap), {"message": f"mishap {mishap}"})
        elif mishap:
            self.answer(200, mishap.encode())
        else:
            self.respond(request)

    do_GET = do_POST = do_DELETE = handle_any

    def respond(self, request: Any) -> None:
        raise NotImplementedError

    def answer(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status != 204:
            self.wfile.write(data)


class Piston(_Handler):
    """Piston's API, version 2. It runs programs in the jail."""

    MOST_RUN_MS, MOST_COMPILE_MS = 10_000, 30_000
    RUNTIMES = (
        {"language": "python", "version": "3.12.0", "aliases": ["py", "python3"]},
        {"language": "c++", "version": "10.2.0", "aliases": ["cpp", "g++"], "runtime": "gcc"},
    )
    OLD = False
    """Older versions give no status."""

    def respond(self, request: Any) -> None:
        if (self.command, self.path) == ("GET", "/api/v2/runtimes"):
            return self.answer(200, self.RUNTIMES)
        if (self.command, self.path) != ("POST", "/api/v2/execute"):
            return self.answer(404, {"message": "Not Found"})
        refusal = self.refusal(request)
        return self.answer(400, {"message": refusal}) if refusal else self.answer(200, self.execution(request))

    def refusal(self, request: dict[str, Any]) -> str | None:
        if request["language"] not in ("python", "c++") or request["version"] != "*":
            return f"{request['language']}-{request['version']} runtime is unknown"
        if not all(isinstance(file["content"], str) and isinstance(file["name"], str) for file in request["files"]):
            return "files[0].content is required as a string"
        if request["run_timeout"] > self.MOST_RUN_MS or request["compile_timeout"] > self.MOST_COMPILE_MS:
            return f"run_timeout cannot exceed the configured limit of {self.MOST_RUN_MS}"
        return None

    def execution(self, request: dict[str, Any]) -> dict[str, Any]:
        names = [file["name"] for file in request["files"]]
        contents = {file["name"]: file["content"] for file in request["files"]}
        compiled = request["language"] == "c++"
        sources = {name: contents[name] for name in names if name.endswith((".cpp", ".h")) or name == names[0]}
        answer: dict[str, Any] = {"language": request["language"], "version": "1"}
        limits = Limits(wall_s=request["run_timeout"] / 1000, memory_bytes=request["run_memory_limit"], output_bytes=1 << 20)
        try:
            with LocalRunner().prepare(Program("cpp" if compiled else "python", sources)) as program:
                extra = {name: content for name, content in contents.items() if name not in sources}
                # Piston ends the input with a line end, newer ones always
                result = program.run(request["stdin"] + "\n", limits=limits, arguments=request["args"], files=extra)
        except CompilationError as error:
            return answer | {"compile": self.stage(Result("", str(error), 1, "exited", 0.0))}
        return answer | ({"compile": self.stage(Result("", "", 0, "exited", 0.0))} if compiled else {}) | {"run": self.stage(result)}

    def stage(self, result: Result) -> dict[str, Any]:
        killed = result.ending in ("timeout", "output", "memory") or result.exit_code == 137
        status = {"timeout": "TO", "output": "OL"}.get(
            result.ending, "SG" if killed or result.ending == "signal" else "RE" if result.exit_code else None
        )
        stage = {
            "stdout": result.stdout,
            "stderr": result.stderr,
            "output": result.stdout + result.stderr,
            "code": None if killed or result.ending == "signal" else result.exit_code,
            "signal": "SIGKILL" if killed else "SIGSEGV" if result.ending == "signal" else None,
        }
        return stage if self.OLD else stage | {"status": status, "message": None, "cpu_time": 1, "wall_time": 1, "memory": 1000}


class PistonWithoutCpp(Piston):
    RUNTIMES = Piston.RUNTIMES[:1]


class OldPiston(Piston):
    OLD = True


class E2B(_Handler):
    """E2B's API, and the code interpreter of its sandboxes, in which one Python runs what it is sent."""

    def respond(self, request: Any) -> None:
        if (self.command, self.path) == ("POST", "/v2/sandboxes"):
            self.service.keys.add(self.headers["X-API-Key"])
            self.service.living.add("box1")
            return self.answer(
                201,
                {
                    "templateID": request["templateID"],
                    "sandboxID": "box1",
                    "clientID": "c",
                    "envdVersion": "0.6.0",
                    "envdAccessToken": "token",
                },
            )
        if (self.command, self.path) == ("DELETE", "/sandboxes/box1"):
            self.service.living.discard("box1")
            return self.answer(204, None)
        if (self.command, self.path) != ("POST", "/execute"):
            return self.answer(404, {"code": 404, "message": "not found"})
        assert self.headers["X-Access-Token"] == "token"
        ran = subprocess.run([sys.executable, "-"], input=request["code"], capture_output=True, text=True, check=False)
        lines = [{"type": "stdout", "text": ran.stdout[start : start + 1000], "timestamp": ""} for start in range(0, len(ran.stdout), 1000)]
        if ran.returncode:
            lines.append({"type": "error", "name": "Error", "value": ran.stderr[-300:], "traceback": ran.stderr})
        lines.append({"type": "end_of_execution"})
        return self.answer(200, "".join(json.dumps(line) + "\n" for line in lines).encode())


class Morph(_Handler):
    """Morph Cloud's API. An instance is not ready at once, and runs shell commands."""

    def respond(self, request: Any) -> None:
        instance = {
            "id": "morphvm_1",
            "object": "instance",
            "created": 1,
            "status": "pending" if self.command == "POST" else "ready",
            "spec": {"vcpus": 1, "memory": 1024, "disk_size": 1024},
            "refs": {"snapshot_id": "snapshot_1", "image_id": "image_1"},
            "networking": {"internal_ip": None, "http_services": []},
        }
        if (self.command, self.path) == ("POST", "/instance?snapshot_id=snapshot_1"):
            self.service.keys.add(self.headers["Authorization"])
            self.service.living.add("morphvm_1")
            return self.answer(200, instance)
        if (self.command, self.path) == ("GET", "/instance/morphvm_1"):
            return self.answer(200, instance)
        if (self.command, self.path) == ("DELETE", "/instance/morphvm_1"):
            self.service.living.discard("morphvm_1")
            return self.answer(204, None)
        if (self.command, self.path) != ("POST", "/instance/morphvm_1/exec"):
            return self.answer(404, {"detail": "not found"})
        ran = subprocess.run(["/bin/sh", "-c", " ".join(request["command"])], capture_output=True, text=True, check=False)
        return self.answer(200, {"exit_code": ran.returncode, "stdout": ran.stdout, "stderr": ran.stderr})
