"""A run while it is being made of a recipe: the tree of its keys, and what is to be said of each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.contracts.errors import ConfigError
from configs.recipes.tables import KeyTables

HIDDEN = "…"
"""Shown in the place of a secret, which no row holds."""


@dataclass(frozen=True)
class Row:
    """What became of one setting.

    Example:
        >>> Row("torch_dtype", "bfloat16", "model.dtype", "bfloat16").outcome
        'model.dtype: bfloat16'
    """

    setting: str
    """As the recipe writes it; empty for what the recipe does not say."""
    given: Any
    target: str = ""
    """Key of the run; empty where the setting has no effect."""
    value: Any = None
    why: str = ""

    @property
    def origin(self) -> str:
        """What the recipe says, for people."""
        return f"{self.setting}: {_shown(self.given)}"

    @property
    def outcome(self) -> str:
        """What the run has, for people."""
        return f"{self.target}: {_shown(self.value)}"


class Draft:
    """Takes settings, and gives the tree of a run and one row or more for each setting."""

    def __init__(self, given: Mapping[str, Any], written: Mapping[str, str], tables: KeyTables) -> None:
        self.given = given
        """Settings under the names of `tables`; null ones are not given."""
        self._written = written
        self._tables = tables
        self.tree: dict[str, Any] = {}
        self._rows: list[Row] = []

    @property
    def rows(self) -> tuple[Row, ...]:
        """In the order of the recipe, then what it does not say."""
        order = {written: place for place, written in enumerate(self._written.values())}
        return tuple(sorted(self._rows, key=lambda row: order.get(row.setting, len(order))))

    def has(self, setting: str) -> bool:
        return setting in self.given

    def written(self, setting: str) -> str:
        return self._written.get(setting, setting)

    def flag(self, setting: str) -> bool:
        """A setting that is true or false; false where it is not given."""
        value = self.given.get(setting, False)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ConfigError(f"{self.written(setting)}: {value!r} is neither true nor false; write true or false")
        return value

    def count(self, setting: str, default: int) -> int:
        """A positive whole number."""
        value = self.number(setting, default)
        if value < 1 or value % 1:
            raise ConfigError(f"{self.written(setting)}: {value:g} is not a positive whole number; write one, such as {default}")
        return int(value)

    def number(self, setting: str, default: float) -> float:
        value = self.given.get(setting, default)
        return finite(value, self.written(setting))

    def names(self, setting: str, default: Sequence[str] = ()) -> list[str]:
        """A list of names; one may stand alone."""
        value = self.given.get(setting, default)
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{self.written(setting)}: {value!r} is not a list of names; write [a, b]")
        return list(value)

    def mapping(self, setting: str) -> dict[str, Any]:
        value = self.given.get(setting, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{self.written(setting)}: {value!r} is not a mapping; write {{key: value}}")
        return value

    def choice(self, setting: str, choices: Mapping[Any, Any], default: Any) -> Any:
        """What `choices` has for the value of a setting."""
        value = self.given.get(setting, default)
        if isinstance(value, list | dict) or value not in choices:
            known = ", ".join(str(choice).lower() for choice in choices if choice is not None)
            raise ConfigError(f"{self.written(setting)}: {value!r} is not one of the choices; choose {known}")
        return choices[value]

    def put(self, target: str, value: Any, *settings: str, why: str = "") -> None:
        """Set a key of the run. `settings` are what it was made of; where none of them is given, the recipe does not say it."""
        *sections, name = target.split(".")
        place = self.tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
        present = [setting for setting in settings if self.has(setting)]
        if not present:
            self._rows.append(Row("", None, target, value, why))
        for setting in present:
            self._rows.append(self._row(setting, target, value, why))

    def ignore(self, setting: str, why: str) -> None:
        """Say why a setting has no effect here."""
        if self.has(setting):
            self._rows.append(self._row(setting, why=why))

    def say(self, setting: str, taker: str) -> None:
        """Say which part of the run took a setting."""
        if self.has(setting):
            self._rows.append(self._row(setting, taker, self.given[setting]))

    def tell(self, target: str, value: Any, why: str) -> None:
        """Say what holds here although the recipe does not say it, without setting it."""
        self._rows.append(Row("", None, target, value, why))

    def refuse_where_asked(self, setting: str) -> None:
        """End with an error unless the value asks for nothing."""
        neutral, remedy = self._tables.refused[setting]
        value = self.given[setting]
        if value not in neutral:
            raise ConfigError(f"{self.written(setting)}: {_shown(value)} is not supported: {remedy}")
        self.ignore(setting, "it asks for what is done anyway")

    def put_as_it_stands(self, setting: str) -> None:
        self.put(self._tables.targets[setting], self.given[setting], setting)

    def _row(self, setting: str, target: str = "", value: Any = None, why: str = "") -> Row:
        written = self.written(setting)
        return Row(written, HIDDEN if written in self._tables.secrets else self.given[setting], target, value, why)

    def origins(self) -> dict[str, str]:
        """Key of the run -> the settings that it was made of."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.target and row.setting:
                found.setdefault(row.target, []).append(row.setting)
        return {target: ", ".join(settings) for target, settings in found.items()}


def finite(value: Any, setting: str) -> float:
    """The number that a value is.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{setting}: {value!r} is not a number; write one, such as 1 or 0.1")
    return number


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(
            str(entry.get("path") or entry.get("id") or entry.get("name") or entry) if isinstance(entry, dict) else str(entry)
            for entry in value
        )
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else f"{text[:57]}..."
