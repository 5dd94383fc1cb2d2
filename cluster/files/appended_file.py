"""Files that grow by whole records while a run lives, and writes whose failure must not end it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class AppendedFile:
    """A file that records are appended to, once it can be written."""

    path: Path
    header: bytes = b""
    """Written first into a file that is empty."""
    _pending: list[bytes] = field(default_factory=list)

    def keep(self, record: bytes) -> None:
        """Keep a record in memory, for the next `flush`."""
        self._pending.append(record)

    @property
    def kept(self) -> int:
        """Number of records in memory."""
        return len(self._pending)

    def flush(self) -> None:
        """Append the records that are kept in memory.

        Raises:
            OSError: they cannot be written; the file ends with a whole record, as before, and they are still kept.
        """
        if not self._pending:
            return
        # The file is opened anew each time: it may have been removed, or replaced by a shorter one.
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            left = memoryview((b"" if size else self.header) + b"".join(self._pending))
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        self._pending.clear()

    def forget(self) -> None:
        """Drop the records that are kept in memory."""
        self._pending.clear()


@dataclass
class FailingWrites:
    """A count of failed writes. The first failure of each kind is said; training goes on."""

    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    """How often each kind could not be written."""

    @contextlib.contextmanager
    def going_on(self, what: str, consequence: str) -> Iterator[None]:
        """Catch every error of a write.

        Args:
            what: subject of the sentence "... cannot be written".
            consequence: what becomes of what should have been written.
        """
        try:
            yield
        except Exception as error:  # a log must never end a training, whatever is wrong with it
            self.counts[what] += 1
            if self.counts[what] == 1:
                self.say(f"WARNING: {what} cannot be written ({type(error).__name__}: {error}); training goes on; {consequence}")
