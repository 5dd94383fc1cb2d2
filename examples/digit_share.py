"""A reward of one's own, with TRL's calling convention: list it as `examples/digit_share.py:digit_share` under `rewards.functions`."""


def digit_share(completions, **_columns):
    """The share of digits among a completion's characters: one number in [0, 1] for each completion."""
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]
