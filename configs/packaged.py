"""The YAML files that come with rollcast, as a start for a file of one's own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from configs.contracts.errors import ConfigError
from configs.faults import section_at
from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.schema.sft import SftConfig

FOLDER = Path(__file__).parent
LINE = 130
"""Characters of a line of the comments."""

_KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>.*)$")


def packaged_names() -> dict[str, str]:
    """Name of each packaged file -> the first sentence of the comment at its head."""
    return {path.stem: _purpose(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}


def _purpose(text: str) -> str:
    head = takewhile(lambda line: line.startswith("#") and "rollcast " not in line, text.splitlines()[1:])
    return _first_sentence(" ".join(line.removeprefix("#").strip() for line in [text.partition("\n")[0], *head])).rstrip(":.")


def write_packaged(name: str, folder: Path) -> Path:
    """Write a packaged file into `folder`, with a comment at every key that has none; returns its path.

    Raises:
        ConfigError: no packaged file has this name, or `folder` has a file of this name already.
    """
    name = name.removeprefix("configs/").removesuffix(".yaml")
    if name not in packaged_names():
        near = get_close_matches(name, packaged_names(), n=1)
        raise ConfigError(f"no packaged file is called {name!r}{f' (did you mean {near[0]}?)' if near else ''}; `rollcast init` lists them")
    target = folder / f"{name}.yaml"
    text = (FOLDER / target.name).read_text().replace(f"configs/{target.name}", target.name)
    try:
        with target.open("x") as file:
            file.write(annotated(text))
    except FileExistsError:
        raise ConfigError(f"{target} exists already and is not overwritten; rename it, or call this in another folder") from None
    return target


def annotated(text: str) -> str:
    """Put a comment above every key that has none: the first sentence of its description in the schema."""
    root = RunConfig if re.search(r"^(actors|rewards):", text, re.MULTILINE) else SftConfig
    return "\n".join(_annotated_lines(text.splitlines(), root)) + "\n"


def _annotated_lines(lines: list[str], root: type[Section]) -> Iterator[str]:
    parents: list[str] = []
    before = ""
    for line in lines:
        match = _KEY.match(line)
        if match:
            depth = len(match["indent"]) // 2
            parents = [*parents[:depth], match["key"]]
            described = " #" in match["value"] or before.lstrip().startswith("#")
            if len(parents) == depth + 1 and not described and (said := _described(parents, root)):
                yield textwrap.fill(said, LINE, initial_indent=f"{match['indent']}# ", subsequent_indent=f"{match['indent']}# ")
        yield line
        before = line


def _described(keys: list[str], root: type[Section]) -> str:
    section = section_at(keys[:-1], root)
    field = section.model_fields.get(keys[-1]) if section else None
    return _first_sentence(" ".join((field.description or "").split())) if field else ""


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z`])", text)[0]
