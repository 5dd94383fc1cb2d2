"""Redirect the output of workers to files of the run directory, and quote it when a worker dies."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

RAISED = re.compile(r"(?:^|[\s|])((?:\w+\.)*\w*(?:Error|Exception): \S.*)$")
"""An exception as Python prints it at the end of a traceback, behind whatever a library's log puts before each line."""

CONSEQUENCE = re.compile(
    r"^(?:\w+\.)*(?:EngineDeadError|RolloutError|RayTaskError|RayActorError|CancelledError):|[Ss]ee (?:the )?root cause|See stack trace"
)
"""Exceptions that only say that there was another one before."""


def redirect_output(path: Path) -> None:
    """Send this process's stdout and stderr, and those of the children it starts from now on, to the end of `path`.

    Works on file descriptors, and so catches the output of C++ libraries and of the vLLM engine process too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def tail(path: Path, lines: int = 20, most_bytes: int = 16_384) -> str:
    """The last lines of a log, or "" if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - most_bytes))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def last_exception(path: Path, most_bytes: int = 65_536) -> str:
    """The last exception that a library printed into a log, such as `ValueError: Head size 16 is not supported`; "" if there is none."""
    for line in reversed(tail(path, lines=most_bytes, most_bytes=most_bytes).splitlines()):
        found = RAISED.search(line)
        if found and not CONSEQUENCE.search(found[1]):
            return found[1].strip()
    return ""
