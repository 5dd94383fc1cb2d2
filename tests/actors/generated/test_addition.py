"""The quickstart's data: every sum once, answers right, demonstrations wrong in the announced shares."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actors.generated.addition import DAMAGED_LAYOUT_SHARE, DROPPED_CARRY_SHARE, SLIP_SHARE, write_addition

WHOLE = re.compile(r"<think>\n\d\+\d=\d+ \d\+\d\+[01]=\d+\n</think>\n<answer>\n(\d+)\n</answer>")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    path = write_addition(tmp_path_factory.mktemp("addition"), seed=0)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_two_digit_sum_is_there_once_with_its_answer(rows: list[dict]):
    assert len({row["prompt"] for row in rows}) == len(rows) == 8100
    for row in rows:
        first, second = map(int, re.findall(r"\d+", row["prompt"]))
        assert row["solution"] == str(first + second)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path):
    first, again, other = (write_addition(tmp_path / name, seed).read_bytes() for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == again != other


def test_demonstrations_are_faulty_in_the_announced_shares(rows: list[dict]):
    """Tolerance 0.03: four standard errors of a share of the 4,000 sums that each estimate rests on at least (half of 8,100)."""
    whole = [(row, match[1]) for row in rows if (match := WHOLE.fullmatch(row["demonstration"]))]
    carries = [(row, answer) for row, answer in whole if sum(int(n) % 10 for n in re.findall(r"\d+", row["prompt"])) >= 10]
    right = sum(answer == row["solution"] for row, answer in carries) / len(carries)
    dropped = sum(int(answer) == int(row["solution"]) - 10 for row, answer in carries) / len(carries)
    assert len(whole) / len(rows) == pytest.approx(1 - DAMAGED_LAYOUT_SHARE, abs=0.03)
    # One slip in nine happens to be what a dropped carry gives.
    assert dropped == pytest.approx(DROPPED_CARRY_SHARE + SLIP_SHARE / 9, abs=0.04)
    assert right == pytest.approx(1 - DROPPED_CARRY_SHARE - SLIP_SHARE, abs=0.04)
