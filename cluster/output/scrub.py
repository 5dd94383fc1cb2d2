"""Takes paths of the user's machine and secrets out of what is published.

A value that is a path is published as its last part (`…/model`). In running text the run's folder, the current one and the home folder are
replaced. What looks like a token, and what a variable of the environment holds whose name says that it is secret, is never published.
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
"""A variable with a shorter value is none: its value would be found everywhere."""

LOCAL_PATH = re.compile(r"(?:file://)?(?:/[^/\n]+/[^\n]*|~/?[^\n]*)")
"""A whole value that is an absolute path of at least two parts; `/no_think` is none."""


@overload
def scrubbed(value: Mapping[str, object], name: str = "") -> dict[str, object]: ...
@overload
def scrubbed(value: object, name: str = "") -> object: ...
def scrubbed(value: object, name: str = "") -> object:
    """A JSON value without paths and secrets.

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
    """A JSON value without secrets, its paths as they are: for a service that is the user's own."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return REMOVED if SECRET_NAME.search(name) and value else _without_tokens(value)


def scrubbed_text(text: str, run: Path | None = None) -> str:
    """A text without secrets and without the folders of the machine; `run` is the run's own folder."""
    folders = [*([(run, "RUN")] if run else []), (Path.cwd(), "."), (Path.home(), "~")]
    for folder, stands_for in sorted(folders, key=lambda each: -len(each[0].parts)):  # a folder before those that it lies in
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
