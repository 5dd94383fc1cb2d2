"""What a key of the settings holds, and the scalars of YAML read accordingly: a key that holds text takes them as they are written.

YAML has versions. `no` is false in YAML 1.1 and text in 1.2, `010` is 8 or 10, `1:30` is 90 or text. The type of the key decides; where it
does not, as in the parameters of a reward, the value is refused with both readings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.schema.stages import StageSection

TEXT, NULL, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"

_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_SWITCH = re.compile(r"yes|no|on|off", re.IGNORECASE)
_BINARY = re.compile(r"[-+]?0b[01_]+")


@dataclass(frozen=True)
class KeyType:
    """The types that a key of the settings may hold."""

    members: tuple[object, ...] = ()
    """Members of a union such as `str | None`; empty if the key is not known."""

    @classmethod
    def of(cls, annotation: object) -> KeyType:
        return cls(tuple(_members(annotation)))

    @property
    def optional(self) -> bool:
        """True if the key may be null."""
        return NoneType in self.members

    @property
    def texts(self) -> bool:
        """True if everything that the key holds, besides null, is free text or a path."""
        return bool(self._others) and all(member in (str, Path) for member in self._others)

    @property
    def scalar_is_text(self) -> bool:
        """True if what is neither a list nor a mapping is text: of `str | tuple[str, ...]`, too."""
        scalars = [member for member in self._others if get_origin(member) not in (tuple, list, dict)]
        return bool(scalars) and all(member in (str, Path) for member in scalars)

    @property
    def choices(self) -> tuple[object, ...]:
        """The values of a `Literal`."""
        return tuple(value for member in self.members if get_origin(member) is Literal for value in get_args(member))

    @property
    def free(self) -> bool:
        """True if anything may stand here, so that nothing tells how a scalar is meant."""
        return Any in self.members or object in self.members

    @property
    def lists_texts(self) -> bool:
        """True if the key holds a list of texts, and nothing else besides null."""
        return bool(self._others) and all(get_origin(member) in (tuple, list) and self.element.texts for member in self._others)

    @property
    def element(self) -> KeyType:
        """What an element of the list holds."""
        return KeyType.of(next((get_args(member)[0] for member in self.members if get_origin(member) in (tuple, list)), None))

    def inside(self, name: str) -> KeyType:
        """What the key `name` of this section or mapping holds."""
        for member in self.members:
            if isinstance(member, type) and issubclass(member, Section):
                return _of_field(member, name)
            if get_origin(member) in (dict, Mapping):
                return KeyType.of(get_args(member)[1])
        return KeyType()

    @property
    def has_text_keys(self) -> bool:
        """True if it is a section or a mapping, whose keys are texts."""
        return any(get_origin(member) is dict or (isinstance(member, type) and issubclass(member, Section)) for member in self.members)

    @property
    def _others(self) -> list[object]:
        return [member for member in self.members if member is not NoneType]


def key_type(names: Sequence[str], root: type[Section]) -> KeyType:
    """What the key `names`, such as `("data", "path")`, holds; an empty type if there is no such key."""
    found = KeyType((root,))
    for name in names:
        found = found.inside(name)
    return found


def _of_field(section: type[Section], name: str) -> KeyType:
    found = section.model_fields.get(name)
    if found is None:
        return KeyType()
    if section is StageSection and name in RunConfig.model_fields and get_origin(found.annotation) is dict:
        return _of_field(RunConfig, name)  # the settings of a stage are those of the run's section of this name
    return KeyType.of(found.annotation)


def _members(annotation: object) -> Iterator[object]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not None:
        yield annotation


@dataclass
class Settling:
    """Reads the scalars of a YAML document as their keys hold them, and collects those that have two readings."""

    root: KeyType
    names: tuple[str, ...] = ()
    """Names that lead to the document."""
    faults: list[str] = field(default_factory=list)
    """`line 3: params.flag: ...`, without the line where it says nothing."""
    _seen: set[int] = field(default_factory=set)

    def __call__(self, document: yaml.Node) -> None:
        self._settle(document, self.root, self.names)

    def _settle(self, node: yaml.Node, kind: KeyType, names: tuple[str, ...]) -> None:
        if isinstance(node, yaml.ScalarNode):
            self._settle_scalar(node, kind, names)
        elif id(node) in self._seen:  # an alias
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for number, element in enumerate(node.value):
                self._settle(element, kind if kind.free else kind.element, (*names[:-1], f"{names[-1] if names else ''}[{number}]"))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if kind.has_text_keys and isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                    key.tag = TEXT
                name = str(key.value)
                self._settle(value, kind if kind.free or key.tag == MERGE else kind.inside(name), (*names, name))

    def _settle_scalar(self, node: yaml.ScalarNode, kind: KeyType, names: tuple[str, ...]) -> None:
        if node.style is not None or node.tag == NULL:
            return
        if kind.scalar_is_text or node.value in kind.choices:
            node.tag = TEXT
        elif readings := two_readings(node.value, strict=kind.free):
            where = f"line {node.start_mark.line + 1}: " if node.start_mark.line else ""
            self.faults.append(f"{where}{'.'.join(names) or 'the value'}: {node.value} {readings}")


def two_readings(text: str, *, strict: bool) -> str:
    """Say which two readings a scalar has that is not quoted, with the remedy; empty for a plain one.

    Args:
        strict: nothing tells what the key holds, so that words such as `no` count, too.
    """
    if _LEADING_ZERO.fullmatch(text):
        return (
            f"begins with 0, which makes it octal in YAML 1.1 and decimal in 1.2; write {_decimal(text)} for a number, or '{text}' for text"
        )
    if not strict:
        return ""
    if _SWITCH.fullmatch(text):
        meant = "true" if text.lower() in ("yes", "on") else "false"
        return f"is {meant} in YAML 1.1 and text in 1.2; write {meant}, or '{text}' for text"
    if _CLOCK.fullmatch(text) or _BINARY.fullmatch(text) or (re.fullmatch(r"[-+]?[1-9][0-9]*(?:_[0-9]+)+", text)):
        return f"is a number in YAML 1.1 and text in 1.2; write the plain number, or '{text}' for text"
    return ""


def _decimal(text: str) -> str:
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text.lstrip("+"))
    return sign + (digits.replace("_", "").lstrip("0") or "0")
