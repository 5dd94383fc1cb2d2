"""A reward of your own, with TRL's calling convention. List it as `examples/digit_share.py:digit_share` under `rewards.functions`."""


def digit_share(completions, log_metric, **_columns):
    """Return the share of digits among each completion's characters: one number in [0, 1] per completion. Log their mean length."""
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    log_metric("characters", sum(map(len, texts)) / len(texts))
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]
