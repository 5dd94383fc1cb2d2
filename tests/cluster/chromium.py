"""A headless Chromium with one page, spoken to over the pipe of the DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

EXECUTABLE = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
"""Chromium's sandbox is off, because it refuses to run as root, as in a container. The browser opens only files of the tests."""


class Chromium:
    """Chromium reads commands from its file descriptor 3 and writes answers to 4, each ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        assert EXECUTABLE is not None
        (theirs_in, self._in), (self._out, theirs_out) = os.pipe(), os.pipe()
        theirs_in, theirs_out = _moved(theirs_in), _moved(theirs_out)
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", EXECUTABLE, f"--user-data-dir={profile}", *SWITCHES]
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._received, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._in)  # it ends when its pipe is closed
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; events that come meanwhile are kept."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._in, json.dumps({"id": self._number, "method": method, "params": parameters} | session).encode() + b"\0")
        for message in self._messages():
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)
        raise AssertionError(f"chromium ended with code {self._process.wait()} during {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._received:
                message, _, self._received = self._received.partition(b"\0")
                yield json.loads(message)
            if not (more := os.read(self._out, 1 << 20)):
                return
            self._received += more

    def open(self, file: Path, width: int, dark: bool) -> None:
        """Load a local page in a window of this width, and forget the events before it."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=file.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.evaluate("1")

    def evaluate(self, expression: str) -> Any:
        """Evaluate an expression in the page; wait for the value of a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """Return everything that the page wrote to its console, and its errors."""
        told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in told]

    @property
    def requested(self) -> list[str]:
        """Return the addresses of everything that was loaded or refused."""
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]

    def screenshot(self, file: Path) -> None:
        """Return the whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


def _moved(end: int) -> int:
    """Duplicate the end of a pipe to a file descriptor that is neither 3 nor 4."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD, 20)
    os.close(end)
    return moved


@contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    """Start a browser with an empty profile in this folder; the profile is removed afterwards."""
    with Chromium(profile) as browser:
        yield browser
    shutil.rmtree(profile, ignore_errors=True)
