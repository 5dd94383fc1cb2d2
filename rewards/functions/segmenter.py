"""jieba's words of Chinese text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

from configs.contracts.errors import ConfigError


class Segmenter(Protocol):
    """The part of jieba's Tokenizer that is used here."""

    def cut(self, sentence: str) -> Iterator[str]: ...


def require_jieba(reward: str) -> None:
    """Raise ConfigError, naming the reward, if jieba is not installed."""
    if importlib.util.find_spec("jieba") is None:
        raise ConfigError(f"{reward}: language 'zh' needs the package jieba, which is not installed; pip install jieba, on every node")


@lru_cache(maxsize=1)
def segmenter() -> Segmenter:
    """jieba's Tokenizer with its dictionary loaded, which takes half a second."""
    import logging
    import tempfile

    import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer: Any = jieba.Tokenizer()
    # SECURITY: without a folder of its own, jieba would unmarshal whatever file anybody has put at /tmp/jieba.cache
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer
