"""A launcher's line as its users have it, typed behind `rollcast train` or kept in a shell script -> the arguments of the training script.

CUDA_VISIBLE_DEVICES=0,1 nohup torchrun --nproc_per_node 2 grpo_training.py --beta 0.01 > log.txt 2>&1 &
`---------- dropped -----------------'  `--- kept ------'  `- script -----' `- kept -'   `-- dropped --'
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.contracts.errors import ConfigError

SCRIPTS = (".sh", ".bash", ".zsh", ".sbatch", ".slurm")
"""Suffixes of shell scripts."""

_STARTERS = frozenset({"env", "exec", "nohup", "time", "uv", "poetry", "accelerate", "torchrun", "deepspeed", "trl"})
_AFTER = frozenset({("uv", "run"), ("poetry", "run"), ("accelerate", "launch")})
_MODULES = frozenset({"-m", "-u", "torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"})
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=.*", re.DOTALL)
_PYTHON = re.compile(r"(?:.*/)?python[\d.]*")
_ENDS = re.compile(r"&|&&|\|\|?|;|[012&]?>>?\S*|<(?!\S*>)\S*")
"""Words that end a command, or send its output elsewhere. `<think>` and `<|im_end|>` are values."""

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>\"[^\"]*\"|'[^']*'|\S*)\s*(?:#.*)?")
_USE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::?-(?P<default>[^}]*))?\}|(?P<plain>\w+))")


@dataclass(frozen=True)
class Launch:
    """One command that starts a training."""

    script: str
    """The Python script, or TRL's name of the trainer (`trl dpo`); empty if the line has none."""
    arguments: tuple[str, ...]
    """The options of the launcher and of the script."""


def launch_of(words: Sequence[str]) -> Launch:
    """Drop the launcher's words and the shell's from a line.

    Example:
        >>> launch_of("accelerate launch --num_processes=7 src/grpo.py --config r.yaml".split()).arguments
        ('--num_processes=7', '--config', 'r.yaml')
    """
    if len(words) == 1 and " --" in words[0]:  # a line in quotes
        words = _split(words[0], "the line")
    words = _command(list(_words(words)))
    before = ["", *words]
    started = next((position for position, word in enumerate(words) if not _starts(word, before[position])), len(words))
    if not started or words[started - 1] == "trl":
        script = words[started] if started and started < len(words) else ""
        return Launch(script, tuple(words[started + bool(script) :]))
    found = next((position for position, word in enumerate(words) if word.endswith(".py")), None)
    if found is None:
        return Launch("", tuple(words[started:]))
    return Launch(words[found], (*(word for word in words[started:found] if word.startswith("--") or word[:1] != "-"), *words[found + 1 :]))


def launch_in(path: Path) -> Launch:
    """Find the one command of a shell script that starts a training.

    Raises:
        ConfigError: the script cannot be read, starts none or several, or uses a variable that nothing sets.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a shell script: {error}; give the path of one") from None
    found = list(_launches(text, path))
    if len(found) != 1:
        raise ConfigError(
            f"{path} starts {len(found) or 'no'} trainings, and one is run; give the line itself: rollcast train --key value ..."
        )
    return found[0]


def lines_in(path: Path) -> Iterator[list[str]]:
    """The words of each line of a shell script, variables filled in where the script or the environment sets them. What cannot be read is passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for line, variables in _commands(text):
        filled = _filled(_filled(line, variables, None), variables, None)  # a default may hold a variable
        try:
            yield _command(_split(filled, str(path)))
        except ConfigError:
            yield filled.split()


def _launches(text: str, path: Path) -> Iterator[Launch]:
    """Read the script line by line: plain assignments are remembered, everything else that is no training is passed over."""
    for line, variables in _commands(text):
        if " --" in line and not line.lstrip().startswith(("#", "echo", "if ", "pip ")):
            launch = launch_of(_split(_filled(line, variables, path), str(path)))
            if launch.script:
                yield launch


def _commands(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each line that is no plain assignment, continued lines joined, with the variables that are set before it."""
    variables: dict[str, str] = dict(os.environ)
    text = re.sub(r"`#[^`\n]*`", "", text)  # a comment inside a continued line
    for line in re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines():
        assigned = _ASSIGNMENT.fullmatch(line)
        if assigned:
            variables[assigned["name"]] = _filled(assigned["value"].strip("\"'"), variables, None)
        elif line.strip() and not line.lstrip().startswith("#"):
            yield line, variables


def _filled(text: str, variables: Mapping[str, str], path: Path | None) -> str:
    """Replace `$NAME` and `${NAME:-default}`. With a path, a variable that nothing sets is an error; `"$@"` is empty."""

    def value(use: re.Match[str]) -> str:
        name = use["braced"] or use["plain"]
        found = variables.get(name) or use["default"]
        if found is None and path is not None:
            raise ConfigError(f"{path} uses ${name}, which neither it nor the environment sets; set it before: {name}=... rollcast ...")
        return use[0] if found is None else found

    return _USE.sub(value, text.replace('"$@"', "").replace("$@", ""))


def _split(line: str, source: str) -> list[str]:
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in line)
    try:  # a shell's comment begins at a word; shlex would take every `#` for one
        return [word.replace(mark, "#") for word in shlex.split(re.sub(r"(?<=\S)#", mark, line), comments=True)]
    except ValueError as error:
        raise ConfigError(f"{source} cannot be read as a shell line: {error}; close the quote") from None


def _words(words: Sequence[str]) -> Iterator[str]:
    """The words that say something: no backslash of a continued line, and no blank, unless it is the value of an option."""
    before = ""
    for word in words:
        is_value = before.startswith("--") and "=" not in before
        if word.strip() != "\\" and (word.strip() or is_value):
            yield word
        before = word


def _command(words: Sequence[str]) -> list[str]:
    """The words of the first command, without redirections."""
    end = next((position for position, word in enumerate(words) if _ENDS.fullmatch(word)), len(words))
    return list(words[:end])


def _starts(word: str, before: str) -> bool:
    """Tell whether a word at the beginning of a line only starts the script; `before` is the word before it."""
    if word in _MODULES:
        return _PYTHON.fullmatch(before) is not None or before in _MODULES
    return word in _STARTERS or (before, word) in _AFTER or _VARIABLE.fullmatch(word) is not None or _PYTHON.fullmatch(word) is not None
