"""Warnings that a run learns nothing, or that a reward judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.loop.reward_watch import RewardWatch
from configs.contracts.records import Grades, GroupSummary, Outcome, PromptId, ScoredGroup, Scores
from tests.bodies import NO_BODY


def group(*rewards_G: float | None, outcomes_G: Sequence[Outcome] = (), truncated: bool = False) -> ScoredGroup:
    """Make a group under one reward, called mine."""
    size = len(rewards_G)
    summary = GroupSummary(PromptId(0, 1), 0, 3, (4,) * size, (truncated,) * size, 0, 0, "rollout 0", 0.0)
    outcomes: tuple[Outcome, ...] = tuple(outcomes_G) or ("scored",) * size
    return ScoredGroup(NO_BODY, summary, Scores(summary.prompt_id, 0, rewards_G, {"mine": Grades(rewards_G, outcomes)}, 0.0))


ZEROS, ONES, DIFFERENT = group(0.0, 0.0), group(1.0, 1.0), group(0.0, 1.0)
FAILED = group(None, None, outcomes_G=("crashed", "crashed"))
CUT_OFF = group(0.0, 1.0, truncated=True)


@pytest.mark.parametrize(
    ("found", "cause", "remedy"),
    [
        (ZEROS, "2 groups: 2 had only rewards of 0", "try the rewards on it with `rollcast score`"),
        (ONES, "2 had rewards that were all equal", "the prompts may be too easy"),
        (FAILED, "2 had fewer than two rewards, as rewards failed", "look at the first failure"),
        (CUT_OFF, "2 were cut off at the length limit", "actors.max_completion_length"),
    ],
)
def test_a_run_whose_groups_teach_nothing_says_why(found: ScoredGroup, cause: str, remedy: str) -> None:
    watch = RewardWatch(groups_per_step=2, masks_truncated=True)
    watch.trained(1, [found, found])
    told = watch.nothing_learned() or ""
    assert cause in told and remedy in told.replace("Look", "look").replace("Raise", "raise") and told.count(". ") == 1


def test_one_group_with_different_rewards_is_enough() -> None:
    watch = RewardWatch(groups_per_step=2)
    assert watch.trained(1, [ZEROS, DIFFERENT]) == [] and watch.nothing_learned() is None
    watch.trained(2, [ZEROS, FAILED])
    assert watch.nothing_learned() is None


def test_different_rewards_of_a_step_that_was_skipped_teach_nothing() -> None:
    watch = RewardWatch(groups_per_step=1)
    watch.trained(1, [DIFFERENT], skipped=True)
    assert "1 group: 1 were in steps that were skipped" in (watch.nothing_learned() or "")


def test_it_is_said_after_the_first_step_and_again_after_a_few() -> None:
    watch = RewardWatch(groups_per_step=2)
    warned = [step for step in range(1, 30) if watch.trained(step, [ZEROS, ZEROS])]
    assert warned == [1, 5, 25]
    learning = RewardWatch(groups_per_step=2)
    assert [step for step in range(1, 30) if learning.trained(step, [ZEROS, DIFFERENT] if step == 3 else [ZEROS, ZEROS])] == [1]


def test_groups_that_are_all_filtered_are_said_without_a_step() -> None:
    watch = RewardWatch(groups_per_step=2)
    assert watch.filter(ZEROS) == []
    (warning,) = watch.filter(ZEROS)
    assert warning.startswith("WARNING: so far nothing was learned") and "2 of them were filtered (learner.filter_zero_variance)" in warning


def test_a_resumed_run_knows_what_was_taught_before() -> None:
    before, after = RewardWatch(groups_per_step=1), RewardWatch(groups_per_step=1)
    before.trained(1, [DIFFERENT])
    after.restore(before.snapshot())
    assert after.trained(2, [ZEROS]) == [] and after.nothing_learned() is None
    barren, again = RewardWatch(groups_per_step=1), RewardWatch(groups_per_step=1)
    barren.filter(ZEROS)
    again.restore(barren.snapshot())
    assert again.nothing_learned() == barren.nothing_learned() is not None


def test_of_a_checkpoint_without_counts_nothing_is_claimed() -> None:
    watch = RewardWatch(groups_per_step=1)
    watch.restore(None)
    assert watch.trained(9, [ZEROS]) == [] and watch.nothing_learned() is None


@pytest.mark.parametrize("outcome", ["skipped", "invalid"])
def test_a_reward_that_judges_no_completion_of_a_step_is_named_once(outcome: Outcome) -> None:
    watch = RewardWatch(groups_per_step=2)
    silent = group(None, None, outcomes_G=(outcome, outcome))
    warnings = [line for line in watch.trained(1, [silent, silent]) if "reward mine" in line]
    assert len(warnings) == 1
    assert f"gave no number for any of the 4 completions of step 1 ({outcome} 4), so rewards/mine/mean is absent" in warnings[0]
    assert not [line for line in watch.trained(2, [silent, silent]) if "reward mine" in line]


def test_a_reward_that_judges_some_completions_is_not_named() -> None:
    partly = group(None, 1.0, outcomes_G=("skipped", "scored"))
    assert not [line for line in RewardWatch(groups_per_step=2).trained(1, [partly, FAILED]) if "reward mine" in line]


def test_completions_that_never_end_are_told_at_the_first_step_alone() -> None:
    told = RewardWatch(groups_per_step=2).trained(1, [CUT_OFF, CUT_OFF])
    assert told == [
        sentence for sentence in told if "4 of the 4 completions of the first step (100%) were cut off at the length limit" in sentence
    ]
    assert "model.eos_token" in told[0] and "model.chat_template" in told[0] and "actors.max_completion_length" in told[0]
    nine_of_ten = [*[CUT_OFF] * 9, DIFFERENT]
    assert RewardWatch(groups_per_step=10).trained(1, nine_of_ten) == [], "0.9 is not above 0.9"
    assert RewardWatch(groups_per_step=2).trained(2, [CUT_OFF, CUT_OFF]) == []


@pytest.mark.parametrize("outcome", ["invalid", "crashed", "timeout"])
def test_failures_that_count_as_zero_are_named_too(outcome: Outcome) -> None:
    """`rewards.on_error: zero` gives every failure a 0, and the mean of nothing but failures looks like a bad model."""
    failed = group(0.0, 0.0, outcomes_G=(outcome, outcome))
    (warning,) = [line for line in RewardWatch(groups_per_step=1).trained(1, [failed]) if "reward mine" in line]
    assert f"({outcome} 2), so rewards/mine/mean only has the zeros of rewards.on_error" in warning


def test_wrong_answers_of_a_reward_that_works_are_not_named() -> None:
    unparsable = group(0.0, 0.0, outcomes_G=("unparsable_answer", "unparsable_answer"))
    assert not [line for line in RewardWatch(groups_per_step=1).trained(1, [unparsable]) if "reward mine" in line]


def test_a_reward_that_falls_silent_later_is_named_then() -> None:
    watch, silent = RewardWatch(groups_per_step=1), group(None, None, outcomes_G=("skipped", "skipped"))
    told = {
        step: [line for line in watch.trained(step, [found]) if "reward mine" in line]
        for step, found in enumerate((DIFFERENT, silent, silent), 1)
    }
    assert [len(lines) for lines in told.values()] == [0, 1, 0] and "of step 2 (skipped 2)" in told[2][0]


def test_of_several_rewards_only_the_silent_one_is_named() -> None:
    judged = group(0.0, 1.0)
    columns = {**judged.scores.columns, "other": Grades((None, None), ("unparsable_gold", "unparsable_gold"))}
    both = replace(judged, scores=replace(judged.scores, columns=columns))
    (warning,) = RewardWatch(groups_per_step=1).trained(1, [both])
    assert warning.startswith("WARNING: reward other gave no number for any of the 2 completions of step 1 (unparsable_gold 2)")


def test_a_reward_that_keeps_every_group_from_training_is_named() -> None:
    """With `learner.filter_zero_variance`, groups without rewards are never trained: no step would come to warn."""
    watch, silent = RewardWatch(groups_per_step=2), group(None, None, outcomes_G=("invalid", "invalid"))
    assert not [line for line in watch.filter(silent) if "reward mine" in line]
    (warning,) = [line for line in watch.filter(silent) if "reward mine" in line]
    assert "of the 4 completions of the last 2 groups, which were filtered (invalid 4)" in warning
    assert not [line for _ in range(4) for line in watch.filter(silent) if "reward mine" in line]


def test_filtered_groups_between_good_steps_are_no_batch() -> None:
    watch, silent = RewardWatch(groups_per_step=2), group(None, None, outcomes_G=("skipped", "skipped"))
    for step in range(1, 4):
        assert not [line for line in [*watch.filter(silent), *watch.trained(step, [DIFFERENT])] if "reward mine" in line]
