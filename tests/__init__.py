"""Tests, in the same folders as the code that they test; `numerics`, `runs` and `faults` test several parts together."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
