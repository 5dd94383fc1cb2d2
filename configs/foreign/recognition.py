"""Refuse what another system's users have, with the answer that says what to do: typed lines, shell scripts and files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.contracts.errors import ConfigError
from configs.foreign.answers import Command, answer_to_line, answer_to_settings, flat
from configs.foreign.other_files import answer_to_content, answer_to_name, read_tree
from configs.launch.shell_lines import lines_in
from configs.yaml_files import YamlValue

_ASSIGNMENT = re.compile(r"[+~]{0,2}(?P<name>[a-z_]\w*(?:[.@/][\w@/-]+)*)=(?P<value>.*)", re.DOTALL)
"""A setting as Hydra and torchtune take it."""

_FILES = (".yaml", ".yml", ".json", ".toml")


def refuse_foreign_line(words: Sequence[str], command: Command) -> None:
    """Refuse a line that starts another system, or has its settings.

    Raises:
        ConfigError: it does; the text is the answer.
    """
    if len(words) == 1 and " " in words[0]:
        words = words[0].split()
    _refuse(words, "this", command)


def refuse_foreign_script(path: Path, command: Command) -> None:
    """Refuse a shell script with such a line."""
    for words in lines_in(path):
        _refuse(words, str(path), command)


def refuse_foreign_file(path: Path, tree: dict[str, YamlValue], command: Command) -> None:
    """Refuse the content of a file that another system wrote, or that describes something else than a run."""
    answer = answer_to_settings(flat(tree), str(path), command) or answer_to_content(path, tree)
    if answer:
        raise ConfigError(answer)


def refuse_other_kinds(path: Path) -> None:
    """Refuse a file that holds no settings, by its name: weights, rows, a notebook, a script."""
    if answer := answer_to_name(path):
        raise ConfigError(answer)


def _refuse(words: Sequence[str], source: str, command: Command) -> None:
    settings: dict[str, object] = {}
    for word in words[1:]:  # a first word is the file itself, which is answered as such
        if word.endswith(_FILES) and Path(word).is_file():
            settings |= flat(_tree(Path(word)))
    words = [word for word in words if not word.startswith("cluster.address=")]  # `--address`, which the command itself takes
    settings |= dict(settings_of(words))
    if answer := answer_to_line(" ".join(_starting(words)), settings, source, command):
        raise ConfigError(answer)


def _tree(path: Path) -> dict[str, YamlValue]:
    try:
        return read_tree(path)
    except ConfigError:
        return {}


def settings_of(words: Sequence[str]) -> Iterator[tuple[str, object]]:
    """The settings of a line: `--key value`, `--key=value`, `--flag`, `a.b=value`, `+a.b=value`."""
    key, values = "", list[str]()
    for word in (*words, "--"):
        assigned = _ASSIGNMENT.fullmatch(word)
        if not word.startswith("--") and not assigned:
            values.append(word)
            continue
        if key:
            yield key, values[0] if len(values) == 1 else values or True
        key, values = "", []
        if assigned:
            yield assigned["name"], assigned["value"]
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key, values = key.replace("-", "_"), [value] if equals else []


def _starting(words: Sequence[str]) -> Iterator[str]:
    """The words that start a program: those before the first setting, after `-m`, `--module` and `--`, and the names of scripts."""
    starts, before = True, ""
    for word in words:
        if word == "--" or before in ("-m", "--module"):
            starts = starts or word == "--"
            yield word
        elif word.startswith("--") or _ASSIGNMENT.fullmatch(word):
            starts = False
        elif (starts or word.endswith(".py")) and not word.endswith(_FILES):
            yield word
        before = word
