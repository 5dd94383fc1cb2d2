"""Call a function in a process of its own, so that this one holds no model and survives its end.

Children of `multiprocessing` run the caller's main file again, which in a script without `if __name__ == "__main__"` would train again.
This child starts as `python rollcast.py -m cluster.models.own_process` and runs nothing of the caller.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from configs.contracts.errors import RollcastError
from configs.contracts.logs import redirect_output
from rollcast import ROOT

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
Progress = Callable[..., None]


class ProcessEndedError(Exception):
    """The process ended before the function returned."""

    def __init__(self, exitcode: int) -> None:
        super().__init__(f"ended with exit code {exitcode}")
        self.exitcode = exitcode
        """Negative for a signal."""


def call_in_process(
    function: Callable[[*Arguments, Progress], Result], *arguments: *Arguments, log: Path, progress: Progress = lambda *_: None
) -> Result:
    """Return what the function returns. Everything that it prints goes to `log`.

    Args:
        function: a function of the project; its last argument is a callable that reports progress.
        arguments: the others; they are pickled.
        progress: called here with each report.

    Raises:
        RollcastError: raised by the function.
        ProcessEndedError: the process failed otherwise; `log` has its last lines.
    """
    ours, theirs = Pipe()
    with ours:
        command = [sys.executable, str(Path(ROOT) / "rollcast.py"), "-m", "cluster.models.own_process", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        theirs.close()  # so that the end of the process ends the pipe
        try:
            with suppress(BrokenPipeError):
                ours.send((function, arguments, log))
            return _receive(ours, progress)
        except (EOFError, ConnectionResetError):
            raise ProcessEndedError(process.wait()) from None
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()


def _receive(connection: Connection, progress: Progress) -> Any:
    """Pass reports on until the result comes, or the error."""
    while (received := connection.recv())[0] == "progress":
        progress(*received[1])
    kind, found = received
    if kind == "error":
        raise found
    return found


def main() -> None:
    """Make the call that the pipe holds; `sys.argv[1]` is its file descriptor."""
    with Connection(int(sys.argv[1])) as connection:
        function, arguments, log = connection.recv()
        redirect_output(log)
        try:
            connection.send(("result", function(*arguments, lambda *word: connection.send(("progress", word)))))
        except RollcastError as error:
            connection.send(("error", error))


if __name__ == "__main__":
    main()
