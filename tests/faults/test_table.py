"""The table of faults names tests that exist."""

from __future__ import annotations

import re

from tests import REPOSITORY

TESTS = REPOSITORY / "tests"


def test_every_test_in_the_table_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS / "faults" / "README.md").read_text())
    assert len(named) > 40
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert not missing
