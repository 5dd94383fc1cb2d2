"""A watch over the groups of a run, which warns if nothing is learned, if a reward judges nothing, or if completions never end. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from configs.contracts.records import FAILED_OUTCOMES, Grades, ScoredGroup

Lesson = Literal["taught", "zero", "equal", "unrewarded", "cut_off", "skipped"]
"""What became of a group: it taught something, or why it could not."""

CAUSES: Mapping[Lesson, str] = {
    "zero": "had only rewards of 0",
    "equal": "had rewards that were all equal",
    "unrewarded": "had fewer than two rewards, as rewards failed or did not apply",
    "cut_off": "were cut off at the length limit, and learner.mask_truncated_completions leaves such completions out",
    "skipped": "were in steps that were skipped, as their loss was not finite",
}

REMEDIES: Mapping[Lesson, str] = {
    "zero": "look at completions/ and try the rewards on it with `rollcast score`; if they are right, the prompts are too hard: see `rollcast data pass-rate`",
    "equal": "look at completions/: the prompts may be too easy, the rewards too coarse, or actors.temperature too low",
    "unrewarded": "look at the first failure above, and at rewards/<name>/<outcome> in metrics.jsonl",
    "cut_off": "raise actors.max_completion_length",
    "skipped": "lower learner.learning_rate, or check the data",
}

MOSTLY_CUT_OFF = 0.9
"""Share of the completions of a run's first step that reach the length limit, above which they seem never to end."""

WARN_AFTER_STEPS = (1, 5, 25)
"""Batches of groups after which a warning is given, if none of them has taught anything."""


@dataclass
class RewardWatch:
    """The groups of a run by what they taught, since its first step.

    Args:
        groups_per_step: groups of a batch.
        masks_truncated: whether completions at the length limit are left out of the loss.
    """

    groups_per_step: int
    masks_truncated: bool = False
    counts: Counter[Lesson] = field(default_factory=Counter)
    filtered: int = 0
    """Groups that `learner.filter_zero_variance` kept from training; `counts` has them too."""
    _complete: bool = True
    """False where the run goes on from a checkpoint that does not say what was taught before it."""
    _without_values: set[str] = field(default_factory=set)
    """Rewards of which it was said that they judge nothing."""
    _filtered_now: list[ScoredGroup] = field(default_factory=list)
    """Groups that were filtered since a step was trained, or since a batch of them was looked at."""

    def snapshot(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {**self.counts, "filtered": self.filtered}

    def restore(self, snapshot: Mapping[str, int] | None) -> None:
        """Go on from a checkpoint; None where it was written without counts."""
        self._complete = snapshot is not None
        counts = dict(snapshot or {})
        self.filtered = counts.pop("filtered", 0)
        self.counts = Counter(counts)  # pyright: ignore[reportAttributeAccessIssue]  # of lessons, as `snapshot` wrote them

    def trained(self, step: int, groups: Sequence[ScoredGroup], *, skipped: bool = False) -> list[str]:
        """Enter the groups of a finished step; returns the warnings to show."""
        self._filtered_now.clear()
        warnings = [*self._of_endless_completions(step, groups), *self._of_rewards_without_values(f"step {step}", groups)]
        warned = self._enter(["skipped" if skipped else self._lesson(group) for group in groups])
        return [*warnings, *warned]

    def filter(self, group: ScoredGroup) -> list[str]:
        """Enter a group that is not trained on; returns the warnings to show."""
        self.filtered += 1
        self._filtered_now.append(group)
        warnings = []
        if len(self._filtered_now) == self.groups_per_step:  # a reward that judges nothing may keep every group from training
            warnings = self._of_rewards_without_values(f"the last {self.groups_per_step} groups, which were filtered", self._filtered_now)
            self._filtered_now.clear()
        return [*warnings, *self._enter([self._lesson(group)])]

    def nothing_learned(self) -> str | None:
        """Explain in two sentences that the rewards have taught nothing so far, and what to look at; None if they have, or it is not known."""
        if self.counts["taught"] or not self._complete:
            return None
        seen = self.counts.total()
        if not seen:
            return (
                "nothing was learned: no group was trained. Look at the accounting of the prompts, and at the logs of the rollout workers"
            )
        causes = ", ".join(f"{self.counts[cause]} {text}" for cause, text in CAUSES.items() if self.counts[cause])
        chief = max(CAUSES, key=lambda cause: self.counts[cause])
        filtered = f"; {self.filtered} of them were filtered (learner.filter_zero_variance)" if self.filtered else ""
        return (
            f"nothing was learned: no completion was better than another of its group, so the rewards changed no weight ({_groups(seen)}: "
            f"{causes}{filtered}). {REMEDIES[chief][0].upper()}{REMEDIES[chief][1:]}"
        )

    def _enter(self, lessons: Sequence[Lesson]) -> list[str]:
        before = self.counts.total()
        self.counts.update(lessons)
        passed = [n for n in WARN_AFTER_STEPS if before < n * self.groups_per_step <= self.counts.total()]
        why = self.nothing_learned()
        return [f"WARNING: so far {why}"] if passed and why else []

    def _lesson(self, group: ScoredGroup) -> Lesson:
        rewards = [reward for reward in group.scores.rewards_G if reward is not None]
        if len(rewards) < 2:
            return "unrewarded"
        if group.scores.zero_variance:
            return "equal" if any(rewards) else "zero"
        return "cut_off" if self.masks_truncated and all(group.summary.truncated_G) else "taught"

    def _of_endless_completions(self, step: int, groups: Sequence[ScoredGroup]) -> list[str]:
        """Look at the first step whether completions end by themselves."""
        truncated = [cut for group in groups for cut in group.summary.truncated_G]
        cut_off = sum(truncated)
        if step != 1 or cut_off <= MOSTLY_CUT_OFF * len(truncated):
            return []
        return [
            f"WARNING: {cut_off} of the {len(truncated)} completions of the first step ({cut_off / len(truncated):.0%}) were cut off at the length "
            "limit. Look at completions/: if answers go on after their end, the model stops at another token than the chat template writes (set "
            "model.eos_token), or a base model has no fitting template (model.chat_template); if they are unfinished, raise "
            "actors.max_completion_length"
        ]

    def _of_rewards_without_values(self, where: str, groups: Sequence[ScoredGroup]) -> list[str]:
        warnings = []
        for name in sorted({name for group in groups for name in group.scores.columns} - self._without_values):
            columns = [group.scores.columns[name] for group in groups if name in group.scores.columns]
            if any(_judges(column) for column in columns):
                continue
            self._without_values.add(name)
            outcomes = Counter(outcome for column in columns for outcome in column.outcomes_G)
            told = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
            zeros = any(value is not None for column in columns for value in column.values_G)
            mean = "only has the zeros of rewards.on_error" if zeros else "is absent"
            warnings.append(
                f"WARNING: reward {name} gave no number for any of the {outcomes.total()} completions of {where} ({told}), so "
                f"rewards/{name}/mean {mean}. Later steps are only counted, as rewards/{name}/<outcome>; try the reward with `rollcast score`"
            )
        return warnings


def _judges(column: Grades) -> bool:
    """Tell whether a reward itself gave a number to any completion of a group. Under `on_error: zero` failures have one, too."""
    return any(
        value is not None and outcome not in FAILED_OUTCOMES for value, outcome in zip(column.values_G, column.outcomes_G, strict=True)
    )


def _groups(count: int) -> str:
    return f"{count} group{'' if count == 1 else 's'}"
