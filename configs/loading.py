"""YAML and command-line overrides -> `RunConfig` or `SftConfig`, and back.

Everything that can be wrong with a configuration ends here as one `ConfigError`, which lists each fault as
`key: value, rule; remedy`. Paths in a configuration are relative to the current directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError
from configs.schema import RunConfig, Section
from configs.sft import SftConfig
from configs.stages import stage_folder

Config = TypeVar("Config", RunConfig, SftConfig)

Location = tuple[int | str, ...]
"""Where a fault lies, as pydantic says it: `("rewards", "functions", 0, "weight")`."""

_SCIENTIFIC = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+")
"""YAML 1.1 reads `1e-4` as a string because it has neither a dot nor a sign in the exponent; people mean a number."""


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice with different values, which plain YAML resolves to the last one in silence."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in ((key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)):
            first, before = seen.setdefault(key.value, (key, value))
            if first is not key and not (isinstance(value, yaml.ScalarNode) and value.value == before.value):
                problem = f"the key {key.value!r} was given in line {first.start_mark.line + 1} already; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: strings that look like `1e-4` are quoted, texts of several lines are blocks."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file, then apply overrides from left to right.

    Args:
        path: the YAML file.
        overrides: `learner.learning_rate=1e-4`. The value is YAML; for a key that holds text it may be any text.
            An empty value means null. Lists are replaced as a whole.

    Raises:
        ConfigError: the file cannot be read, is not YAML (names file and line), or what it says breaks the schema
            (lists every fault, with the nearest existing key for an unknown one).
    """
    path = Path(path)
    return config_of(read_yaml(path), str(path), overrides)


def load_sft_config(path: str | Path, overrides: Sequence[str] = ()) -> SftConfig:
    """Read a supervised fine-tuning, as `load_config` reads a run of GRPO."""
    path = Path(path)
    return sft_config_of(read_yaml(path), str(path), overrides)


def config_of(tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None) -> RunConfig:
    """A run from what a file holds, with all its stages; `tree` takes the overrides.

    Args:
        source: where it comes from, for people.
        origins: key of the run -> what it was made of, for people.

    Raises:
        ConfigError: as of `load_config`.
    """
    config = _validated(RunConfig, tree, source, overrides, origins)
    stage_configs(config, source)
    return config


def sft_config_of(tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None) -> SftConfig:
    """A supervised fine-tuning from what a file holds, as `config_of` a run of GRPO."""
    return _validated(SftConfig, tree, source, overrides, origins)


def stage_configs(config: RunConfig, source: str = "stages") -> tuple[RunConfig, ...]:
    """The run of every stage: the settings above `stages`, those of the stage over them, and the model and adapter of the stage before.

    Raises:
        ConfigError: one of them cannot work.
    """
    above = config.model_dump(exclude_unset=True, exclude={"stages"})
    found: list[RunConfig] = []
    for number, stage in enumerate(config.stages, start=1):
        tree = stage.over(above)
        tree["out_dir"] = config.out_dir.absolute() / stage_folder(number, stage.name)
        called = f"{source}, stage {number} ({stage.name}),"
        if found:
            if "warm_start" in stage.learner:
                raise ConfigError(f"{called} has learner.warm_start, which comes before all stages; set it above them, or in the first")
            tree["learner"] = tree.get("learner", {}) | {"warm_start": None}
            tree["model"] = above["model"] | _going_on(found[-1])
        found.append(_for_one_repository(_validated(RunConfig, tree, called), config.out_dir.absolute().name))
    return tuple(found)


def _for_one_repository(stage: RunConfig, name: str) -> RunConfig:
    """The stage, pushed where the whole run is pushed: a repository called after `1-few` would say nothing."""
    hub = stage.cluster.push_to_hub
    if hub is None or hub.hub_model_id is not None:
        return stage
    hub = hub.model_copy(update={"hub_model_id": name})
    return stage.model_copy(update={"cluster": stage.cluster.model_copy(update={"push_to_hub": hub})})


def _going_on(before: RunConfig) -> dict[str, Any]:
    """The model and adapter that a stage leaves to the next."""
    return {"path": before.trained_model_path, "adapter": str(before.out_dir / "adapter"), "merge_adapter": False}


def _validated(
    root: type[Config], tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None
) -> Config:
    for override in overrides:
        _apply_override(tree, override, root)
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        faults = list(dict.fromkeys(_describe(detail, origins or {}, root) for detail in error.errors(include_url=False)))
        raise ConfigError("\n  ".join([f"{source} does not describe a run:", *faults])) from None


def dump_config(config: RunConfig | SftConfig) -> str:
    """The whole run, defaults included, as YAML that is read back to an equal one."""
    return dump_yaml(config.model_dump(mode="json"))


def dump_yaml(value: Any, width: float = 120) -> str:
    """YAML that is read back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def parse_yaml(text: str) -> Any:
    """One YAML value, such as the value of an option on the command line.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it cannot be read, is not YAML (names file and line), or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist{_near_files(path)}; give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give the path of a YAML file") from None
    try:
        tree = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(_describe_yaml_error(path, text, error)) from None
    if tree is None:
        raise ConfigError(f"{path} is empty; it must hold at least the sections `model` and `data`")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {_shown(tree)}, not sections such as `model:` and `data:`")
    return tree


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


def _apply_override(tree: dict[str, Any], override: str, root: type[Section]) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r} must have the form section.key=value, such as learner.learning_rate=1e-4")
    place = tree
    for depth, name in enumerate(names[:-1], start=1):
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(names[:depth])} is {_shown(place)}, not a section; replace it as a whole")
    place[names[-1]] = _parse_value(names, text, override, root)


def _parse_value(names: Sequence[str], text: str, override: str, root: type[Section]) -> Any:
    """The value of an override. Text keys take anything as it stands: a template or `1234567` needs no quotes."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if _holds_text(names, root):
            return text
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"override {override!r}: the value {text!r} cannot be read: {problem}") from None
    return text if value is not None and not isinstance(value, str) and _holds_text(names, root) else value


def _holds_text(names: Sequence[str], root: type[Section]) -> bool:
    """Whether the schema has only text (or null) at this key."""
    section = _section_at(names[:-1], root)
    field = section.model_fields.get(names[-1]) if section else None
    return field is not None and set(get_args(field.annotation) or (field.annotation,)) <= {str, Path, type(None)}


def _nested_section(annotation: Any) -> type[Section] | None:
    """The section that an annotation such as `X`, `X | None` or `tuple[X, ...]` holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_nested_section, get_args(annotation))), None)


def _section_at(location: Sequence[int | str], root: type[Section]) -> type[Section] | None:
    section: type[Section] | None = root
    for name in location:
        if isinstance(name, str):
            field = section.model_fields.get(name) if section else None
            section = _nested_section(field.annotation) if field else None
    return section


def all_keys(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        nested = _nested_section(field.annotation)
        if nested:
            yield from all_keys(nested, f"{prefix}{name}.")


def _key(location: Location, root: type[Section]) -> str:
    """`rewards.functions[0].weight`. What pydantic adds to name the arm of a union is left out: it is no key."""
    key, section = "", root
    for name in location:
        if isinstance(name, int):
            key += f"[{name}]"
            continue
        if section is None:
            break
        key += f".{name}" if key else name
        field = section.model_fields.get(name)
        section = _nested_section(field.annotation) if field else None
    return key


def _nearest_key(location: Location, root: type[Section]) -> str | None:
    """The existing key most like an unknown one: a sibling with a similar name, or the same name in another section."""
    parent = re.sub(r"\[\d+\]", "", _key(location[:-1], root))
    wanted = str(location[-1]).lower()

    def likeness(candidate: str) -> float:
        section, _, name = candidate.rpartition(".")
        return SequenceMatcher(None, wanted, name.lower()).ratio() + (0.15 if section == parent else 0.0)

    best = max(all_keys(root), key=likeness)
    return best if likeness(best) >= 0.75 else None


def _describe(error: ErrorDetails, origins: Mapping[str, str], root: type[Section]) -> str:
    """One line of the form `key: value, rule; remedy`."""
    key = _key(error["loc"], root)
    origin = next((made_of for target, made_of in origins.items() if key == target or key.startswith((f"{target}[", f"{target}."))), None)
    return f"{origin} -> {_fault(error, root)}" if origin else _fault(error, root)


def _fault(error: ErrorDetails, root: type[Section]) -> str:
    key, kind, value = _key(error["loc"], root), error["type"], error["input"]
    if kind == "value_error":
        message = str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
        return f"{key}: {message}" if key else message
    if kind == "missing":
        return f"{key}: not given, and there is no default; add `{key.rpartition('.')[2]}: ...`{_meaning(error['loc'], root)}"
    if kind == "extra_forbidden":
        return f"{key}: there is no such key; {_suggestion(error['loc'], root)}"
    if value is None:
        return f"{key}: is empty; give a value"
    rule, remedy = _rule(error)
    return f"{key}: {_shown(value)} {rule}; {remedy}"


def _suggestion(location: Location, root: type[Section]) -> str:
    nearest = _nearest_key(location, root)
    if nearest:
        return f"did you mean {nearest}?"
    section = _section_at(location[:-1], root) or root
    return f"the keys here are {', '.join(section.model_fields)}"


def _meaning(location: Location, root: type[Section]) -> str:
    section = _section_at(location[:-1], root)
    field = section.model_fields.get(str(location[-1])) if section else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


_RULES: Mapping[str, tuple[str, str]] = {
    "bool": ("is neither true nor false", "write true or false"),
    "dict": ("is not a mapping", "write `key: value` lines"),
    "finite": ("is not a finite number", "write a finite number"),
    "float": ("is not a number", "write a number, such as 0.5 or 1e-4"),
    "int": ("is not a whole number", "write a whole number"),
    "model": ("is not a section", "write its `key: value` lines, indented"),
    "path": ("is not a path", "write the path of a file or folder"),
    "string": ("is not text", "put it in quotes if it is meant as text"),
    "tuple": ("is not a list", "write a list, such as [a, b]"),
}
"""Rule and remedy of a wrong type, by the first word of pydantic's name for it (`int_parsing`, `int_from_float`, ...)."""


def _rule(error: ErrorDetails) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    if kind in bounds:
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}[bounds[kind]]
        return f"must be {words} {context[bounds[kind]]}", "raise it" if kind.startswith("greater") else "lower it"
    if kind == "literal_error":
        return "is not one of the choices", f"choose {context['expected']}"
    return _RULES.get(kind.partition("_")[0], (f"is refused: {error['msg']}", "correct it"))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
