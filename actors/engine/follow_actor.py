"""Loaded by vLLM's worker, in the engine's process: ties the engine's life to that of the actor that started it.

vLLM's engine does not notice the death of its parent: after a kill -9 of the driver it would hold its GPU for ever.
"""

from __future__ import annotations

import os
import select
import signal
import threading

ACTOR_PID = "ROLLCAST_ACTOR_PID"
"""Environment variable that tells the engine's processes the process id of their actor."""


class EngineExtension:
    """The class for `worker_extension_cls`. It is empty: vLLM imports this module for it, and the import starts the watch."""


def follow_to_death(actor_pid: int) -> None:
    """Wait for the end of the actor, then kill this process, and the engine between them if there is one."""
    try:
        actor = os.pidfd_open(actor_pid)
        select.select([actor], [], [])
    except ProcessLookupError:
        pass  # the actor is gone already
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
