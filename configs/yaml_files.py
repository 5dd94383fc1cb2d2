"""Read YAML text into values, by the rules of YAML 1.2, and write values as YAML that readers of 1.1 read alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, TypeAlias

import yaml

from configs.contracts.errors import ConfigError

YamlValue: TypeAlias = "bool | int | float | str | Sequence[YamlValue] | Mapping[str, YamlValue] | None"
"""A value of a YAML file: a scalar, a list or a mapping."""

_BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_WHOLE = re.compile(r"(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+)\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_DECIMAL = re.compile(r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_SCIENTIFIC = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+\Z")
"""A number such as `1e-4`. YAML 1.1 reads it as text, because it has neither a dot nor a sign in the exponent."""

_KINDS = ("bool", "int", "float", "timestamp")
"""Kinds of scalars that YAML 1.1 recognises in more texts than 1.2, among them `no`, `010`, `1:30` and `2024-01-05`."""


class _Loader(yaml.SafeLoader):
    """Load safely, and refuse a key that is given twice with different values: plain YAML silently takes the last one."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _KINDS]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in ((key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)):
            first, before = seen.setdefault(key.value, (key, value))
            if first is not key and not (isinstance(value, yaml.ScalarNode) and value.value == before.value):
                problem = f"the key {key.value!r} was given in line {first.start_mark.line + 1} already; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 8) if _OCTAL.match(node.value) else super().construct_yaml_int(node)


class _Dumper(yaml.SafeDumper):
    """Write what `_Loader` reads back: text that looks like `1e-4` is quoted, and text of several lines becomes a block."""


for _tag, _pattern, _letters in (("bool", _BOOLEAN, "tTfF"), ("int", _WHOLE, "-+0123456789"), ("float", _DECIMAL, "-+0123456789.")):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_letters))

for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", _OCTAL, ["0"])

_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def dump_yaml(value: object, width: float = 120) -> str:
    """Write a value as YAML that is read back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def parse_yaml(text: str, settle: Callable[[yaml.Node], None] = lambda _document: None) -> YamlValue:
    """Read one YAML value.

    Args:
        settle: changes the scalars of the document before values are made from them.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    loader = _Loader(text)
    try:
        document = loader.get_single_node()
        if document is None:
            return None
        settle(document)
        return loader.construct_document(document)
    finally:
        loader.dispose()


def read_yaml(path: Path, settle: Callable[[yaml.Node], None] = lambda _document: None) -> dict[str, YamlValue]:
    """Read a YAML file that holds a mapping.

    Args:
        settle: as in `parse_yaml`.

    Raises:
        ConfigError: the file cannot be read, is not YAML (the error names the line), or holds no mapping.
    """
    text = read_text(path)
    try:
        tree = parse_yaml(text, settle)
    except yaml.YAMLError as error:
        raise ConfigError(_describe_yaml_error(path, text, error)) from None
    if tree is None:
        raise ConfigError(f"{path} is empty; write at least the sections `model` and `data`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {shown(tree)}, not sections such as `model:` and `data:`; write `key: value` lines")
    return tree


def read_text(path: Path) -> str:
    """Read the text of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist{_near_files(path)}; give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give the path of a YAML file") from None


def _near_files(path: Path) -> str:
    there = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = get_close_matches(str(path), there, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _describe_yaml_error(path: Path, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        lines = text.splitlines()
        quoted = f"\n  {lines[mark.line].rstrip()}\n  {' ' * mark.column}^" if mark.line < len(lines) else ""
        remedy = "; indent with spaces" if "\\t" in (error.problem or "") else ""
        return f"{path}:{mark.line + 1}:{mark.column + 1}: not readable as YAML: {error.problem}{remedy}{quoted}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{path}:{line}: not readable as YAML: character {chr(error.character)!r} is not allowed; remove it"
    return f"{path}: not readable as YAML: {error}"


def shown(value: object) -> str:
    """Quote a value in an error, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def in_yaml(value: YamlValue) -> str:
    """A value as a file writes it in one line, without quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {in_yaml(inside)}' for key, inside in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(in_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
