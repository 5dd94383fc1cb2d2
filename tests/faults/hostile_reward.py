"""A reward that now and then does what user code does at its worst. The completion decides, so that a run can be repeated."""

from __future__ import annotations

import os
import sys
import time
import zlib


def hostile(completions: list[str], **_: object) -> list[float | None]:
    """Score each completion 0 or 1. Of a thousand completions, eight have an answer that no reward should give, or none."""
    return [_answer(zlib.crc32(str(completion).encode()) % 1000) for completion in completions]


def _answer(lot: int) -> float | None:
    match lot:
        case 0:
            raise RuntimeError("a reward that fails")
        case 1:
            os._exit(3)
        case 2:
            time.sleep(3600)
        case 3:
            os.kill(os.getpid(), 9)
        case 4:
            return float("nan")
        case 5:
            return None
        case 6:
            return "high"  # pyright: ignore[reportReturnType]
        case 7:
            print('{"rewards": [1.0]}\x00\xff' * 1000)
            print('{"rewards": [1.0]}' * 1000, file=sys.stderr)
    return float(lot % 2)
