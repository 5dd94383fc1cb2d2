"""Show evaluations as a table on the terminal, with remarks below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from cluster.evaluation.measurement import Estimate, Evaluation
from cluster.evaluation.plan import WEIGHTED_SUM
from configs.contracts.records import FAILED_OUTCOMES

TRUNCATED_WARNING = 0.1
"""Fraction of completions that may end at the length limit without a remark."""


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Make a table with a row for each measure of each data set, with its interval."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("data set", "left"), ("measure", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # pyright: ignore[reportArgumentType]
    for found in evaluations:
        title = f"{found.name}, {found.prompts} prompts"
        for measure, value, interval in measures(found):
            table.add_row(title, measure, value, interval)
            title = ""
        table.add_section()
    return table


def measures(found: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and interval of every measure, as text."""
    if found.accuracy is not None:
        low, high = found.interval or (found.accuracy, found.accuracy)
        yield mean_name(found), *_shown(Estimate(value=found.accuracy, low=low, high=high))
        for k, estimate in found.pass_at.items():
            yield f"pass@{k}", *_shown(estimate)
        if found.majority is not None:
            yield f"maj@{found.num_generations}", *_shown(found.majority)
    else:
        yield mean_name(found), "-", ""
    for reward in dict.fromkeys((*found.rewards, *found.outcomes)):
        if reward != found.judge:
            yield f"reward {reward}", f"{found.rewards[reward]:.3f}" if reward in found.rewards else "-", ""
    yield "tokens a completion", f"{found.mean_length:.0f}", ""
    yield "cut off at the limit", f"{found.truncated:.1%}", ""


def mean_name(found: Evaluation) -> str:
    """Name the mean of the judge: `accuracy, greedy`, or `accuracy, avg@4`."""
    name = "weighted sum of rewards" if found.judge == WEIGHTED_SUM else found.judge
    return f"{name}, greedy" if found.temperature == 0 else f"{name}, avg@{found.num_generations}"


def _shown(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}"


def remarks(evaluations: Sequence[Evaluation], model: str = "") -> Iterator[str]:
    """Yield a sentence for each kind of prompt that was left out, for failed rewards, and for completions cut off at the limit."""
    for found in evaluations:
        where = ", ".join(part for part in (model, found.name) if part)
        left_out = {
            "are longer than data.max_prompt_length": found.too_long,
            "were refused by the engines": found.refused,
            f"cannot be judged by {found.judge} (it skips them, or cannot read their gold)": found.unjudged,
        }
        for why, count in left_out.items():
            if count:
                yield f"{where}: {count} prompts {why}, and are left out"
        failed = sum(found.outcomes.get(found.judge, {}).get(outcome, 0) for outcome in FAILED_OUTCOMES)
        if failed:
            yield f"{where}: on {failed} completions {found.judge} failed (timeout, crash or invalid value); they count as 0"
        if found.truncated > TRUNCATED_WARNING:
            yield f"{where}: {found.truncated:.0%} of the completions were cut off at the length limit: raise actors.max_completion_length"
