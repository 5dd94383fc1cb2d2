import re


def one_number(completions, solution, log_metric, **_columns):
    """1 where the answer is among the numbers of the completion, less 0.1 for every other number in it."""
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    numbers = [re.findall(r"\d+", text) for text in texts]
    log_metric("numbers_mentioned", sum(map(len, numbers)) / len(numbers))
    return [float(gold in found) - 0.1 * max(0, len(found) - 1) for found, gold in zip(numbers, solution, strict=True)]
