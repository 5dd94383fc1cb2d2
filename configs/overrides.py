"""Settings from the command line, `section.key=value`.

The type of the key decides how a value is read. Text is taken as it is typed: `data.system_prompt=End with #### 42` is that sentence. A list or
a mapping is written as in YAML, `[a, b]` or `{a: b}`, in which `#` begins no comment; a list is replaced as a whole. Numbers and booleans are
those of YAML 1.2. For a key that may be empty, `null` and nothing mean null.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml

from configs.contracts.errors import ConfigError
from configs.key_types import KeyType, Settling, key_type
from configs.schema.section import Section
from configs.yaml_files import YamlValue, parse_yaml, shown

NULLS = ("", "~", "null", "none")
"""What means null where a key may be empty, in any case."""

_FLOW = ("[", "{")
"""First characters of a list or a mapping in one line."""


def apply_overrides(tree: dict[str, YamlValue], overrides: Sequence[str], root: type[Section]) -> None:
    """Write overrides into the content of a file, from left to right.

    Raises:
        ConfigError: lists every override that cannot be applied.
    """
    faults: list[str] = []
    for override in overrides:
        try:
            _apply(tree, override, root)
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n  ".join(faults))


def _apply(tree: dict[str, YamlValue], override: str, root: type[Section]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r} does not have the form section.key=value; write it as learner.learning_rate=1e-4")
    section = tree
    for depth, name in enumerate(names[:-1], start=1):
        if section.get(name) is None:
            section[name] = {}
        inside = section[name]
        if not isinstance(inside, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(names[:depth])} is {shown(inside)}, not a section; replace it as a whole")
        section = inside
    section[names[-1]] = value_of(text, key_type(names, root), key)


def value_of(text: str, kind: KeyType, key: str) -> YamlValue:
    """Read the value of an override as its key holds it. What could be meant otherwise is told on stderr.

    Raises:
        ConfigError: it is no such value.
    """
    null = text.strip().lower() in NULLS
    if kind.texts and null and (kind.optional or not text):
        if text:
            _tell(f"{key}: {text!r} is read as null, which is no value")
        return None
    if kind.texts or (kind.scalar_is_text and not null and not text.lstrip().startswith(_FLOW)):
        return _text(text, key)
    if kind.lists_texts and not null and not text.lstrip().startswith("["):
        if "," in text:
            _tell(f"{key}: {text!r} is one entry of the list; write {key}=[a, b] for several")
        return [_text(text, key)]
    return None if kind.optional and null else _yaml(text, kind, key)


def _text(text: str, key: str) -> str:
    """Text as it is typed. Blanks and quotes around it may be meant for a shell, and are told."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        _tell(f"{key}: the quotes belong to the text, {text}; leave them out if they are not meant")
    elif text != text.strip(" \t"):
        _tell(f"{key}: the blanks around the text belong to it, {text!r}; leave them out if they are not meant")
    return text


def _yaml(text: str, kind: KeyType, key: str) -> YamlValue:
    """A value in YAML. Where nothing tells what the key holds, only brackets and braces make lists and mappings of a text."""
    settling = Settling(kind, tuple(key.split(".")))
    flow, untold = text.lstrip().startswith(_FLOW), kind.free or not kind.members
    try:
        value = parse_in_line(text, settling)
    except yaml.YAMLError as error:
        if not kind.members or (kind.free and not flow):
            return text
        problem = (error.problem if isinstance(error, yaml.MarkedYAMLError) else None) or "not YAML"
        raise ConfigError(f"override {f'{key}={text}'!r}: the value {text!r} cannot be read: {problem}; quote it as in YAML") from None
    if settling.faults:
        raise ConfigError("\n  ".join(f"override {fault}" for fault in settling.faults))
    return text if untold and not flow and isinstance(value, list | dict) else value


def parse_in_line(text: str, settling: Settling | None = None) -> YamlValue:
    """Read a value of the command line as YAML, in which `#` begins no comment.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    stand_in = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)

    def settle(document: yaml.Node) -> None:
        _put_back(document, stand_in)
        if settling is not None:
            settling(document)

    return parse_yaml(text.replace("#", stand_in), settle)


def _put_back(node: yaml.Node, stand_in: str, seen: frozenset[int] = frozenset()) -> None:
    """Put `#` back into every scalar of a document."""
    if isinstance(node, yaml.ScalarNode):
        node.value = node.value.replace(stand_in, "#")
    elif id(node) not in seen:  # not an alias of a node around this one
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _put_back(part, stand_in, seen | {id(node)})


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
