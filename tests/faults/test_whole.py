"""The check for what a run leaves behind finds it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults import whole
from tests.faults.whole import Traces

LISTENER = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
server.set_inheritable(True)
heir = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False)
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
"""Listens on a port that a child inherits. Both end when their input does."""


def test_a_process_a_port_and_a_file_in_shared_memory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "SHARED_MEMORY", tmp_path)
    (tmp_path / "of another").touch()
    traces = Traces()
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        port = int(process.stdout.readline())
        traces.look(psutil.Process(process.pid))
        with pytest.raises(AssertionError, match="processes are left"):
            traces.require_none(0.1)
        (heir,) = psutil.Process(process.pid).children()
        traces.processes = {each for each in traces.processes if each != heir}  # a process that no look has seen
        heir.suspend()
        process.kill()
        process.wait()
        with pytest.raises(AssertionError, match=f"port {port}, held by process {heir.pid}"):
            traces.require_none(0.1)
        heir.kill()
    while heir.is_running():
        time.sleep(0.01)
    (tmp_path / "adapter").touch()
    with pytest.raises(AssertionError, match="left behind: .*adapter"):
        traces.require_none(0.1)
    (tmp_path / "adapter").unlink()
    traces.require_none(5)
