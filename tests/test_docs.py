"""The pages say what is true of the tree: links, names of files and rooms, commands, the length of README's lines and of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cluster.__main__ import app
from tests import REPOSITORY
from tests.test_floors import FLOORS

LONGEST_README_LINE = 110
MOST_GLOSSARY_WORDS = 30
FOLDERS = "actors|benchmarks|cluster|configs|docs|examples|learner|rewards|tests"

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
"""A Markdown link that leads to no other site: the path, and the heading."""

FILE = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\.(?:py|yaml|jinja|md|svg)(?!\w)")
"""A file of a folder of this repository, in text, code or a command."""

FOLDER = re.compile(rf"`((?:{FOLDERS})(?:/\w+)*/)`")

ROOM = re.compile(rf"`((?:{FOLDERS})(?:/\w+)*)`")
"""A folder without a slash at its end. Other pages have names of metrics that look the same."""

ROOM_PAGES = ("README.md", "CONTRIBUTING.md", "docs/architecture.md")

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and GitLab make them from its headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def table_after(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, _, below = page.read_text().partition(f"\n## {heading}\n")
    lines = re.findall(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_readme_lines_fit_a_terminal() -> None:
    lines = enumerate((REPOSITORY / "README.md").read_text().splitlines(), start=1)
    long = [f"README.md:{number}: {len(line)} characters" for number, line in lines if len(line) > LONGEST_README_LINE]
    assert not long, f"at most {LONGEST_README_LINE}: {long}"


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for path, heading in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(f"{path}#{heading}" if heading else path)
    assert not broken, f"{name(page)} links to what is not there: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_and_folders_exist(page: Path) -> None:
    text = page.read_text()
    paths = {*FILE.findall(text), *FOLDER.findall(text), *(ROOM.findall(text) if name(page) in ROOM_PAGES else ())}
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert not missing, f"{name(page)} names what is not there: {sorted(missing)}"


def test_the_architecture_lists_every_room_with_its_floor() -> None:
    listed = {cells[0].strip("`"): int(cells[2]) for cells in table_after(REPOSITORY / "docs" / "architecture.md", "The rooms")}
    assert listed == {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}


def test_the_readme_lists_every_command() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    listed = {word for cells in table_after(REPOSITORY / "README.md", "Commands") for word in re.findall(r"`(\w+)", cells[0])}
    assert listed == commands


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"(?:\.venv/bin/|[`(] *|^ +)rollcast ([a-z]+)\b", page.read_text(), re.MULTILINE))
    assert used <= commands, f"{name(page)} uses commands that are not there: {sorted(used - commands)}"


def test_the_glossary_is_short() -> None:
    words = [cells[0] for cells in table_after(REPOSITORY / "CONTRIBUTING.md", "Words")]
    assert len(words) == len(set(words)) <= MOST_GLOSSARY_WORDS
