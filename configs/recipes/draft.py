"""A run that is being made from a recipe: the recipe's settings, the keys that are set, and one row or more for each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from configs.contracts.errors import ConfigError
from configs.recipes.tables import KeyTables
from configs.yaml_files import YamlValue, in_yaml

DONE_ANYWAY = "this is what happens here anyway"
"""Why a setting that asks for nothing else has no effect."""

HIDDEN = "…"
"""Shown instead of a secret; no row holds the secret itself."""

SHOWN_PROSE = 160
"""Most characters that are shown of a text with blanks, such as a system prompt."""

SWITCHES: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0"), False),
}
"""Words for true and false in YAML 1.1 and on the command lines of transformers' scripts."""

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Row:
    """The result of converting one setting.

    Example:
        >>> Row("torch_dtype", "bfloat16", "model.dtype", "bfloat16").outcome
        'model.dtype: bfloat16'
    """

    setting: str
    """Name as written in the recipe; empty for a key that the recipe does not set."""
    given: YamlValue
    """Value in the recipe."""
    target: str = ""
    """Key of the run; empty if the setting has no effect."""
    value: YamlValue = None
    """Value of that key."""
    why: str = ""

    @property
    def origin(self) -> str:
        """The setting and its value in the recipe."""
        return f"{self.setting}: {_shown(self.given)}"

    @property
    def outcome(self) -> str:
        """The key of the run and its value."""
        return f"{self.target}: {_shown(self.value)}"

    @property
    def is_taken_as_it_is(self) -> bool:
        """True if the key has the name of the setting, behind its section, and takes the value as the recipe writes it."""
        same_name = bool(self.setting) and f"_{self.target.replace('.', '_')}".endswith(f"_{self.setting}")
        return same_name and not self.why and _is_same(self.given, self.value)


class RecipeSettings:
    """The settings of a recipe, each read as the type that a rule needs. A value of another type is a `ConfigError`."""

    def __init__(self, given: Mapping[str, YamlValue], written: Mapping[str, str]) -> None:
        self.given = given
        """Name in the tables -> value; null settings are left out."""
        self._written = written

    def has(self, setting: str) -> bool:
        return setting in self.given

    def written(self, setting: str) -> str:
        """The name under which the recipe gives a setting."""
        return self._written.get(setting, setting)

    def flag(self, setting: str) -> bool:
        """Read true or false; false if the setting is not given."""
        value = as_switch(self.given.get(setting, False))
        if not isinstance(value, bool):
            raise ConfigError(f"{self.written(setting)}: {value!r} is neither true nor false; write true or false")
        return value

    def count(self, setting: str, default: int) -> int:
        """Read a positive whole number."""
        value = self.number(setting, default)
        if value < 1 or value % 1:
            raise ConfigError(f"{self.written(setting)}: {value:g} is not a positive whole number; write one, such as {default}")
        return int(value)

    def number(self, setting: str, default: float) -> float:
        """Read a finite number."""
        return finite(self.given.get(setting, default), self.written(setting))

    def names(self, setting: str, default: Sequence[str] = ()) -> list[str]:
        """Read a list of names; a single name counts as a list."""
        value = self.given.get(setting, default)
        if isinstance(value, str):
            return [value]
        names = [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else []
        if not isinstance(value, list | tuple) or len(names) != len(value):
            raise ConfigError(f"{self.written(setting)}: {value!r} is not a list of names; write [a, b]")
        return names

    def mapping(self, setting: str) -> dict[str, YamlValue]:
        """Read a mapping; empty if the setting is not given."""
        value = self.given.get(setting, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{self.written(setting)}: {value!r} is not a mapping; write {{key: value}}")
        return value

    def choice(self, setting: str, choices: Mapping[str | float | None, Choice], default: str | float | None) -> Choice:
        """Read one of the keys of `choices`, and return its value there."""
        value = self.given.get(setting, default)
        if isinstance(value, str) and value not in choices:
            value = as_switch(value)
        if not isinstance(value, str | int | float | None) or value not in choices:
            known = ", ".join(str(choice).lower() for choice in choices if choice is not None)
            raise ConfigError(f"{self.written(setting)}: {value!r} is not one of the choices; choose {known}")
        return choices[value]


class Draft(RecipeSettings):
    """The settings of a recipe, the keys of the run made from them, and the rows that say so."""

    def __init__(self, given: Mapping[str, YamlValue], written: Mapping[str, str], tables: KeyTables) -> None:
        super().__init__(given, written)
        self._tables = tables
        self.keys: dict[str, YamlValue] = {}
        """Key of the run, such as `learner.beta` -> value."""
        self._rows: list[Row] = []
        self._remedies: dict[str, str] = {}

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows: the settings in the recipe's order, then the keys that it does not set."""
        order = {written: position for position, written in enumerate(self._written.values())}
        return tuple(sorted(self._rows, key=lambda row: order.get(row.setting, len(order))))

    def tree(self) -> dict[str, YamlValue]:
        """Nest the keys into sections."""
        return _nested(self.keys)

    def origins(self) -> dict[str, str]:
        """Key of the run -> the settings that it was made from."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.target and row.setting:
                found.setdefault(row.target, []).append(row.setting)
        return {target: ", ".join(settings) + self._remedies.get(target, "") for target, settings in found.items()}

    def note_remedy(self, target: str, remedy: str) -> None:
        """Note how the recipe can give a key another value, for errors about this key."""
        self._remedies[target] = remedy

    def set(self, target: str, value: YamlValue, *settings: str, why: str = "") -> None:
        """Set a key of the run.

        Args:
            target: the key, such as `learner.beta`.
            settings: the settings that it is made from. If the recipe gives none of them, the row says that the recipe does not set the
            key.
            why: shown beside the key.
        """
        self.keys[target] = value
        present = [setting for setting in settings if self.has(setting)]
        if not present:
            self.note_default(target, value, why)
        for setting in present:
            self._rows.append(self._row(setting, target, value, why))

    def copy_setting(self, setting: str) -> None:
        """Set the key that takes the setting's value unchanged."""
        self.set(self._tables.targets[setting], self.given[setting], setting)

    def note_ignored(self, setting: str, why: str) -> None:
        """Note why a setting has no effect here, if the recipe gives it."""
        if self.has(setting):
            self._rows.append(self._row(setting, why=why))

    def note_use(self, setting: str, taker: str) -> None:
        """Note which part of the run uses a setting, if the recipe gives it."""
        if self.has(setting):
            self._rows.append(self._row(setting, taker, self.given[setting]))

    def note_default(self, target: str, value: YamlValue, why: str) -> None:
        """Note a value that holds although the recipe does not give it; sets nothing."""
        self._rows.append(Row("", None, target, value, why))

    def refuse_unless_harmless(self, setting: str) -> None:
        """Raise a `ConfigError` if the value asks for something that is not supported."""
        harmless, remedy = self._tables.refused[setting]
        value = self.given[setting]
        if value not in harmless and as_switch(value) not in harmless:
            raise ConfigError(f"{self.written(setting)}: {_shown(value)} is not supported: {remedy}")
        self.note_ignored(setting, DONE_ANYWAY)

    def _row(self, setting: str, target: str = "", value: YamlValue = None, why: str = "") -> Row:
        written = self.written(setting)
        return Row(written, HIDDEN if written in self._tables.secrets else self.given[setting], target, value, why)


def as_switch(value: YamlValue) -> YamlValue:
    """True or false for the words that transformers takes for them; any other value as it is.

    Example: `[as_switch("yes"), as_switch("Off"), as_switch(1), as_switch("steps")] == [True, False, True, "steps"]`.
    """
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def finite(value: YamlValue, setting: str) -> float:
    """Read a finite number.

    Raises:
        ConfigError: the value is not one; names `setting`.
    """
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{setting}: {value!r} is not a number; write one, such as 1 or 0.1")
    return number


def _nested(keys: Mapping[str, YamlValue]) -> dict[str, YamlValue]:
    tree: dict[str, YamlValue] = {}
    sections: dict[str, dict[str, YamlValue]] = {}
    for key, value in keys.items():
        name, dot, rest = key.partition(".")
        if dot:
            sections.setdefault(name, {})[rest] = value
        else:
            tree[name] = value
    return tree | {name: _nested(inside) for name, inside in sections.items()}


def _shown(value: YamlValue) -> str:
    """A value in one line. Only prose is cut, behind a word; names, paths and lists are whole."""
    text = _text(value)
    if not isinstance(value, str) or len(text) <= SHOWN_PROSE:
        return text
    return f"{text[: text.rfind(' ', 0, SHOWN_PROSE)]} ..." if " " in text[:SHOWN_PROSE] else text


def _is_same(given: YamlValue, value: YamlValue) -> bool:
    """Compare two values; `a` is the same as `[a]`, and 50 as 50.0. Mappings, of which lists show only the names, must be equal."""
    mappings = any(isinstance(entry, dict) for each in (given, value) for entry in (each if isinstance(each, list) else [each]))
    return given == value if mappings else _text(given) == _text(value)


def _text(value: YamlValue) -> str:
    text = ", ".join(map(_shown_entry, value)) if isinstance(value, list) else in_yaml(value)
    return text.replace("\n", "\\n")


def _shown_entry(entry: YamlValue) -> str:
    """An entry of a list; of a data set or a reward its path, id or name."""
    return str(entry.get("path") or entry.get("id") or entry.get("name") or in_yaml(entry)) if isinstance(entry, dict) else in_yaml(entry)
