"""The check that packed rows support a model's layers, from its config.json and without torch.

The mask of packed rows (`learner.model.attention`) lets a token see its whole sequence. A layer with a window, a chunk, a sparse index or a
recurrent state computes something else, and the learner would train another model than the one that the engines serve.
"""

from __future__ import annotations

from collections.abc import Mapping

FULL = "full_attention"
SLIDING = "sliding_attention"

KINDS_OF_FAMILY = {
    SLIDING: "afmoe cohere2 cohere2_moe cwm exaone4 exaone_moe gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text "
    "gemma4_unified gemma4_unified_text gpt_oss granite_swa granitemoe_swa inkling_text mimo_v2_flash ministral modernbert-decoder olmo3 "
    "vaultgemma",
    "chunked_attention": "llama4 llama4_text",
    "indexed_attention": "axk2 deepseek_v32 deepseek_v4 glm_moe_dsa hy_v4",
    "linear_attention": "granitemoehybrid kimi_linear minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text "
    "qwen3_next qwen4_exp qwen4_exp_text zaya",
    "recurrent": "bamba falcon_h1 falcon_mamba jamba lfm2 lfm2_moe mamba mamba2 recurrent_gemma rwkv xlstm zamba zamba2",
}
"""Kind -> families (`model_type`) that have layers of this kind unless their config.json lists `layer_types`."""

DEFAULT_WINDOWS = {"mistral": 4096, "moshi": 3000}
"""Family -> its `sliding_window` where config.json has none; those of other families are unlimited."""

WINDOW_OFF_BY_DEFAULT = ("qwen", "smollm3")
"""Beginnings of the families that use `sliding_window` only with `use_sliding_window: true`."""

_KIND_BY_FAMILY = {family: kind for kind, families in KINDS_OF_FAMILY.items() for family in families.split()}


def untrainable_layers(settings: Mapping[str, object], longest: int) -> str | None:
    """Say which layers packed rows cannot train, and why; None if every layer sees a whole sequence.

    Args:
        settings: the content of config.json; that of a model of text and images holds the text model's in `text_config`.
        longest: tokens of the longest sequence. A window that holds it is none.

    Example: `untrainable_layers({"model_type": "phi3", "sliding_window": 2047}, longest=4096)`
    """
    family = settings.get("model_type")
    text = settings.get("text_config")
    settings = text if isinstance(text, Mapping) else settings
    other = _kinds(settings, str(settings.get("model_type") or family)) - {FULL}
    if other:
        return f"has layers of kind {', '.join(sorted(other))}, but packed rows need full attention in every layer; choose another model"
    window = _window(settings, str(settings.get("model_type") or family))
    if window is not None and window < longest:
        return (
            f"sees only the last {window} tokens (sliding_window), and sequences have up to {longest}, but packed rows need full attention in "
            f"every layer; keep sequences within {window} tokens, or choose another model"
        )
    return None


def _kinds(settings: Mapping[str, object], family: str) -> set[str]:
    listed = settings.get("layer_types")
    if isinstance(listed, list | tuple) and listed:
        return {str(kind) for kind in listed}
    kind = _KIND_BY_FAMILY.get(family, FULL)
    if kind == SLIDING and "sliding_window" in settings and settings["sliding_window"] is None:
        return {FULL}
    first, layers = settings.get("max_window_layers", 28), settings.get("num_hidden_layers", 0)
    if (
        settings.get("use_sliding_window")
        and _window(settings, family)
        and isinstance(first, int)
        and isinstance(layers, int)
        and first < layers
    ):
        return {FULL, SLIDING}
    return {kind}


def _window(settings: Mapping[str, object], family: str) -> int | None:
    """The tokens that every layer sees at most; None for all. A model that lists `layer_types` says by them which layers have a window."""
    used = settings.get("use_sliding_window", not family.startswith(WINDOW_OFF_BY_DEFAULT))
    window = settings.get("sliding_window", DEFAULT_WINDOWS.get(family))
    return window if used and isinstance(window, int) and not settings.get("layer_types") else None
