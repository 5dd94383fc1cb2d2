"""Remove secrets, and paths of the user's machine, from what is published.

If a whole value is a path, only its last part is published (`…/model`). In running text, the run's folder, the current folder and the home
folder are replaced. Text that looks like a token is removed, and so is the value of every environment variable that is named like a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import overload

REMOVED = "(removed)"
SECRET_NAME = re.compile(r"(?:^|[_-])(?:token|secret|password|passwd|api_?key|access_?key|credentials?)$", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16})"
)
"""Tokens of Hugging Face, OpenAI, GitHub, Slack and AWS."""

SHORTEST_SECRET = 8
"""A shorter value of such a variable is not removed: it would be found in ordinary words."""

LOCAL_PATH = re.compile(r"(?:file://)?(?:/[^/\n]+/[^\n]*|~/?[^\n]*)")
"""A whole value that is an absolute path of at least two parts; `/no_think` is not one."""


@overload
def scrubbed(value: Mapping[str, object], name: str = "") -> dict[str, object]: ...
@overload
def scrubbed(value: object, name: str = "") -> object: ...
def scrubbed(value: object, name: str = "") -> object:
    """Remove paths and secrets from a JSON value. `name` is the key under which it stands.

    Example:
        >>> scrubbed({"path": "/data/models/tiny", "params": {"api_key": "abc", "top_k": 3}})
        {'path': '…/tiny', 'params': {'api_key': '(removed)', 'top_k': 3}}
    """
    if isinstance(value, Mapping):
        return {key: scrubbed(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if SECRET_NAME.search(name) and value:
        return REMOVED
    if LOCAL_PATH.fullmatch(value):
        return f"…/{value.rstrip('/').rpartition('/')[2]}"
    return scrubbed_text(value)


@overload
def without_secrets(value: Mapping[str, object], name: str = "") -> dict[str, object]: ...
@overload
def without_secrets(value: object, name: str = "") -> object: ...
def without_secrets(value: object, name: str = "") -> object:
    """Remove secrets from a JSON value, and keep its paths: for a service in which only the user sees them."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return REMOVED if SECRET_NAME.search(name) and value else _without_tokens(value)


def scrubbed_text(text: str, run: Path | None = None) -> str:
    """Remove secrets and the machine's folders from a text; `run` is the run's own folder."""
    folders = [*([(run, "RUN")] if run else []), (Path.cwd(), "."), (Path.home(), "~")]
    for folder, stands_for in sorted(folders, key=lambda each: -len(each[0].parts)):  # an inner folder before the outer one
        if len(folder.parts) > 1:
            text = re.sub(rf"{re.escape(str(folder))}(?![\w-])", stands_for, text)
    return _without_tokens(text)


def _without_tokens(text: str) -> str:
    for value in secret_values():
        text = text.replace(value, REMOVED)
    return SECRET_VALUE.sub(REMOVED, text)


def secret_values() -> list[str]:
    """Return the values of environment variables whose names end in TOKEN, KEY, PASSWORD or the like."""
    return [value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET]
