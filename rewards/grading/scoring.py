"""Make the `Scores` of a group from the reports of its rewards: failures by `on_error`, None, and weighted sums. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from configs.contracts.records import FAILED_OUTCOMES, Grades, RolloutGroup, Scores
from configs.schema.rewards import RewardsSection
from rewards.convention.group_input import GroupInput
from rewards.grading.calling import GradeReport

STD_EPSILON = 1e-4
"""Added to a reward's standard deviation before dividing by it, as in TRL."""


def as_input(group: RolloutGroup, step: int, with_token_ids: bool) -> GroupInput:
    """The part of a group's body that rewards see. Token ids are left out unless needed: as JSON they cost time."""
    return GroupInput(
        prompt=group.messages if group.conversational else group.prompt_text,
        texts_G=group.texts_G,
        token_ids_G=group.table.column("token_ids").to_pylist() if with_token_ids else [],
        columns=group.columns,
        step=step,
    )


def aggregate(section: RewardsSection, group: RolloutGroup, reports: Sequence[GradeReport], score_s: float) -> Scores:
    """Sum the rewards of a group.

    For one completion under one reward:

        the reward gave None       it does not apply: the completion's reward is the sum of the others
        it failed, `exclude`       the completion gets no reward at all
        it failed, `zero`          its part is 0.0
        its weight is 0            it is recorded, and changes nothing

    Under `exclude` a failure is not treated like None: without its part, the sum would be lower than those of the group's other
    completions, as if the completion were worse.

    Args:
        section: names, weights, `aggregation` and `on_error`.
        group: the scored group, of G completions.
        reports: one for each reward of the section, in order, each with G values.
        score_s: wall seconds that scoring took.
    """
    columns = {spec.label: grades_of(section, report) for spec, report in zip(section.functions, reports, strict=True)}
    rewards_G = weighted_rewards(section, columns)
    return Scores(
        prompt_id=group.prompt_id,
        attempt=group.attempt,
        rewards_G=rewards_G,
        columns=columns,
        score_s=score_s,
        normalised_rewards_G=_normalised_rewards(section, columns, rewards_G) if section.aggregation == "normalize_then_sum" else None,
        metrics=_logged(reports),
        extras={name: tuple(values) for report in reports for name, values in report.extras.items()},
        first_error=_first_error(section, reports),
    )


def grades_of(section: RewardsSection, report: GradeReport) -> Grades:
    """A reward's values and outcomes. The value of a failure is None, or 0.0 under `on_error: zero`."""
    on_failure = 0.0 if section.on_error == "zero" else None
    values = (on_failure if outcome in FAILED_OUTCOMES else value for value, outcome in zip(report.values, report.outcomes, strict=True))
    return Grades(tuple(values), tuple(report.outcomes))


def weighted_rewards(section: RewardsSection, columns: Mapping[str, Grades]) -> tuple[float | None, ...]:
    """Each completion's reward, the weighted sum. None where no reward applies, or where one with a weight failed."""
    size = len(next(iter(columns.values())).values_G)
    return tuple(_weighted_sum(section, columns, index) for index in range(size))


def _weighted_sum(section: RewardsSection, columns: Mapping[str, Grades], index: int) -> float | None:
    parts: list[float] = []
    for spec in section.functions:
        column = columns[spec.label]
        value = column.values_G[index]
        if value is not None:
            parts.append(spec.weight * value)
        elif column.outcomes_G[index] in FAILED_OUTCOMES and spec.weight != 0:
            return None
    return sum(parts) if parts else None


def _normalised_rewards(
    section: RewardsSection, columns: Mapping[str, Grades], rewards_G: Sequence[float | None]
) -> tuple[float | None, ...]:
    """Normalise each reward in the group, and sum: over rewards k, w_k (r_k - mean(r_k)) / (std(r_k) + 1e-4).

    GDPO (arXiv:2601.05242, section 3), as TRL's `multi_objective_aggregation="normalize_then_sum"`. Mean and (unbiased) deviation are over
    the completions to which reward k applies. Where it does not apply, its part is 0.
    """
    sums_G = [0.0] * len(rewards_G)
    for spec in section.functions:
        values_G = columns[spec.label].values_G
        applying = [value for value in values_G if value is not None]
        if len(set(applying)) < 2:
            continue  # exactly 0; computed, it could be a rounding error instead
        mean, divisor = fmean(applying), stdev(applying) + STD_EPSILON
        for index, value in enumerate(values_G):
            if value is not None:
                sums_G[index] += spec.weight * (value - mean) / divisor
    return tuple(None if reward is None else total for reward, total in zip(rewards_G, sums_G, strict=True))


def _logged(reports: Sequence[GradeReport]) -> dict[str, float]:
    """The mean of each metric over all calls of `log_metric` with its name, by whichever reward."""
    values: dict[str, list[float]] = {}
    for report in reports:
        for name, logged in report.metrics.items():
            values.setdefault(name, []).extend(logged)
    return {name: fmean(logged) for name, logged in values.items()}


def _first_error(section: RewardsSection, reports: Sequence[GradeReport]) -> str:
    for spec, report in zip(section.functions, reports, strict=True):
        if report.error:
            return f"reward {spec.name}: {report.error}"
    return ""
