"""Describe each fault of a configuration in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import get_args

from pydantic_core import ErrorDetails

from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.yaml_files import shown

Location = tuple[int | str, ...]
"""Location of a fault, as pydantic gives it: `("rewards", "functions", 0, "weight")`."""


def _nested_section(annotation: object) -> type[Section] | None:
    """Find the section in an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_nested_section, get_args(annotation))), None)


def section_at(location: Sequence[int | str], root: type[Section]) -> type[Section] | None:
    """Find the section that a location leads to."""
    section: type[Section] | None = root
    for name in location:
        if isinstance(name, str):
            field = section.model_fields.get(name) if section else None
            section = _nested_section(field.annotation) if field else None
    return section


def all_keys(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield every key of a configuration, in the order of the schema."""
    for name, field in section.model_fields.items():
        yield prefix + name
        nested = _nested_section(field.annotation)
        if nested:
            yield from all_keys(nested, f"{prefix}{name}.")


def _key(location: Location, root: type[Section]) -> str:
    """Write a location as `rewards.functions[0].weight`, without the names that pydantic adds for the members of a union."""
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
    """Find the key most like an unknown one: a sibling with a similar name, in the same place of a list, or the same name in another section."""
    here = _key(location[:-1], root)
    parent = re.sub(r"\[\d+\]", "", here)
    wanted = str(location[-1]).lower()

    def likeness(candidate: str) -> float:
        section, _, name = candidate.rpartition(".")
        return SequenceMatcher(None, wanted, name.lower()).ratio() + (0.15 if section == parent else 0.0)

    best = max(all_keys(root), key=likeness)
    section, _, name = best.rpartition(".")
    if likeness(best) < 0.75:
        return None
    return f"{here}.{name}" if here and section == parent else best


def describe_fault(error: ErrorDetails, origins: Mapping[str, str], root: type[Section]) -> str:
    """Describe a fault in one line, `key: value, rule; remedy`.

    Args:
        origins: key -> the settings of a recipe that it was made from, which are named first.
    """
    key = _key(error["loc"], root)
    origin = next((settings for target, settings in origins.items() if key == target or key.startswith((f"{target}[", f"{target}."))), None)
    fault = _fault(error, root)
    return f"{origin} -> {fault}" if origin else f"{fault}{_in_the_recipe(fault, origins)}"


def _in_the_recipe(fault: str, origins: Mapping[str, str]) -> str:
    """The recipe's own names of the keys in a fault about several of them: its reader has set those, not ours."""
    named = [f"{target} is {settings}" for target, settings in origins.items() if re.search(rf"{re.escape(target)}(?![\w.])", fault)]
    return f" (in the recipe, {'; '.join(named)})" if named else ""


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
    return f"{key}: {shown(value)} {rule}; {remedy}"


def _suggestion(location: Location, root: type[Section]) -> str:
    nearest = _nearest_key(location, root)
    if nearest:
        return f"did you mean {nearest}?"
    section = section_at(location[:-1], root) or root
    return f"the keys here are {', '.join(section.model_fields)}"


def _meaning(location: Location, root: type[Section]) -> str:
    section = section_at(location[:-1], root)
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
"""First word of pydantic's name for a wrong type (`int_parsing`, `int_from_float`, ...) -> (rule, remedy)."""


def _rule(error: ErrorDetails) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    if kind in bounds:
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}[bounds[kind]]
        return f"must be {words} {context[bounds[kind]]}", "raise it" if kind.startswith("greater") else "lower it"
    if kind == "literal_error":
        return "is not one of the choices", f"choose {context['expected']}"
    return _RULES.get(kind.partition("_")[0], (f"is refused: {error['msg']}", "correct it"))
