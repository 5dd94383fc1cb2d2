"""Rewards that cannot be loaded: graders say in one sentence which, and why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from configs.contracts.errors import RewardError
from rewards.convention.group_input import GroupInput
from rewards.grading.graders import Graders


def values_of(*rewards: str, memory_limit_bytes: int = 4 << 30) -> list[float | None]:
    """Start a grader of these rewards, and return the values of the first for one completion."""

    async def main() -> list[float | None]:
        specs = [(reward, {}) for reward in rewards]
        graders = await Graders.start(specs, count=1, timeout_s=20.0, memory_limit_bytes=memory_limit_bytes, cwd=Path.cwd())
        try:
            return (await graders.grade(GroupInput("2+2?", ["4"], [[1]], {}, 0)))[0].values
        finally:
            await graders.close()

    return asyncio.run(main())


def test_a_module_that_does_not_import_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")

    told = "^reward .*broken.py:f cannot be loaded: .*broken.py, line 1: ModuleNotFoundError: .*not_installed_anywhere'; install it[^\n]*$"
    with pytest.raises(RewardError, match=told):
        values_of(f"{tmp_path / 'broken.py'}:f")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "was ended by SIGSEGV; look what is done there when it is imported"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "was ended by SIGKILL; raise rewards.memory_limit_bytes, or"),
        ("import os\nos._exit(3)\n", "exited with code 3; look what"),
        (
            "import os\nos.closerange(3, 256)\ndef f(completions): ...\n",
            "exited with code 1; look .*\nreward .*mine.py:f closed descriptors",
        ),
    ],
)
def test_an_import_that_ends_the_grader_says_how(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)

    with pytest.raises(RewardError, match=f"^loading .*mine.py:f ended the grader process: it {told}"):
        values_of("tag_count", f"{tmp_path / 'mine.py'}:f")


def test_a_module_sees_no_arguments_of_the_grader(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--scale', default=2.0)\nscale = parser.parse_args().scale\n"
        "def f(completions):\n    return [scale * len(sys.argv)] * len(completions)\n"
    )

    assert values_of(f"{tmp_path / 'mine.py'}:f") == [2.0]


def test_too_little_memory_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("TABLE = bytearray(2 << 30)\ndef f(completions): ...\n")

    with pytest.raises(RewardError, match="large.py:f cannot be loaded: .*line 1: MemoryError; raise rewards.memory_limit_bytes"):
        values_of(f"{tmp_path / 'large.py'}:f", memory_limit_bytes=1 << 30)
