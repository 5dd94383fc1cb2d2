"""Loaded by vLLM's worker, in the engine's process: ties the engine's life to that of the actor that started it.

vLLM's engine does not notice the death of its parent: after a kill -9 of the driver it would hold its GPU for ever.
"""

from __future__ import annotations

import os
import select
import signal
import threading

ACTOR_PID = "ROLLCAST_ACTOR_PID"
"""Environment variable by which an actor tells the processes of its engine whom to follow."""


class EngineExtension:
    """What `worker_extension_cls` names. It adds nothing to the worker: importing this module is what ties."""


def follow_to_death(actor_pid: int) -> None:
    """Wait for the end of the actor, then kill this process, and the engine between them if there is one."""
    try:
        actor = os.pidfd_open(actor_pid)
        select.select([actor], [], [])
    except ProcessLookupError:
        pass  # it is gone already
    parent = os.getppid()
    if "EngineCore" in _command(parent):
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


if ACTOR_PID in os.environ:
    threading.Thread(target=follow_to_death, args=(int(os.environ[ACTOR_PID]),), name="follow-actor", daemon=True).start()
