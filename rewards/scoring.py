"""From what the rewards said of a group to its `Scores`: failures by `on_error`, None, and the weighted sum. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from cluster.records import FAILED_OUTCOMES, RewardColumn, RolloutGroup, Scores
from configs.schema import RewardsSection
from rewards.calling import Verdict
from rewards.group_input import GroupInput


def as_input(group: RolloutGroup, step: int, with_token_ids: bool) -> GroupInput:
    """The part of a group's body that rewards see. Token ids cost time as JSON, and few rewards read them."""
    return GroupInput(
        prompt=group.messages if group.conversational else group.prompt_text,
        texts_G=group.texts_G,
        token_ids_G=group.table.column("token_ids").to_pylist() if with_token_ids else [],
        columns=group.columns,
        step=step,
    )


def aggregate(section: RewardsSection, group: RolloutGroup, verdicts: Sequence[Verdict], score_s: float) -> Scores:
    """The scores of a group.

    A reward's None takes no part in the sum. A reward that *failed* (timeout, crash, invalid value) is not a None: under
    `on_error: exclude` the sum of the others would be lower than the siblings' for no fault of the completion, a hidden 0;
    so the completion gets no reward at all. Under `zero` its failed part is 0.0. A reward of weight 0 only watches.

    Args:
        section: names, weights and `on_error`.
        group: the scored group, of G completions.
        verdicts: one for each reward of the section, in order, each of G values.
        score_s: wall seconds that scoring took.
    """
    columns = {spec.name: _column(section, verdict) for spec, verdict in zip(section.functions, verdicts, strict=True)}
    return Scores(
        prompt_id=group.prompt_id,
        attempt=group.attempt,
        rewards_G=tuple(_weighted_sum(section, columns, index) for index in range(len(group))),
        columns=columns,
        score_s=score_s,
        metrics={name: fmean(values) for verdict in verdicts for name, values in verdict.metrics.items()},
        extras={name: tuple(values) for verdict in verdicts for name, values in verdict.extras.items()},
        first_error=_first_error(section, verdicts),
    )


def _column(section: RewardsSection, verdict: Verdict) -> RewardColumn:
    on_failure = 0.0 if section.on_error == "zero" else None
    values = (on_failure if outcome in FAILED_OUTCOMES else value for value, outcome in zip(verdict.values, verdict.outcomes, strict=True))
    return RewardColumn(tuple(values), tuple(verdict.outcomes))


def _weighted_sum(section: RewardsSection, columns: dict[str, RewardColumn], index: int) -> float | None:
    parts: list[float] = []
    for spec in section.functions:
        column = columns[spec.name]
        value = column.values_G[index]
        if value is not None:
            parts.append(spec.weight * value)
        elif column.outcomes_G[index] in FAILED_OUTCOMES and spec.weight != 0:
            return None
    return sum(parts) if parts else None


def _first_error(section: RewardsSection, verdicts: Sequence[Verdict]) -> str:
    for spec, verdict in zip(section.functions, verdicts, strict=True):
        if verdict.error:
            return f"reward {spec.name}: {verdict.error}"
    return ""
