def whole_word(completions, solution, log_metric, **_columns):
    """1 where the completion is the solution and nothing else. Log the share of completions that are as long as it."""
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    log_metric("right_length", sum(len(text) == len(gold) for text, gold in zip(texts, solution, strict=True)) / len(texts))
    return [float(text.strip() == gold) for text, gold in zip(texts, solution, strict=True)]
