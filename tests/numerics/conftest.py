"""The learner's tiny model, for the numerics tests as well."""

from tests.learner.conftest import tiny_qwen2

__all__ = ["tiny_qwen2"]
