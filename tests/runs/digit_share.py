"""A user's reward, by path: an untrained model earns it in different amounts, so that every step has a gradient."""


def digit_share(completions, **_columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]
