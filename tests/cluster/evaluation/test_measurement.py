"""What is made of scored completions: every one counts, and what is left out is said."""

from __future__ import annotations

import pytest

from cluster.comparison.differences import compare_set
from cluster.evaluation.measurement import metrics_of
from cluster.evaluation.plan import WEIGHTED_SUM, judge_of
from cluster.evaluation.statistics import mean_interval
from cluster.evaluation.table import measures, remarks
from configs.schema.run import RunConfig
from tests.cluster.evaluations import answers, measured, sampled


def run_config(rewards: list[str], **evaluation: object) -> RunConfig:
    return RunConfig.model_validate(
        {"model": {"path": "m"}, "data": {"path": "d"}, "rewards": {"functions": rewards}, "evaluation": evaluation}
    )


def test_means_are_over_prompts_not_completions() -> None:
    found = measured("set", [sampled(0, [1, 1, 1, 0]), sampled(1, [0, 0, 0, 0]), sampled(2, [1, 0, 0, 0])], "accuracy", ks=(1, 2, 4))
    assert found.accuracy == pytest.approx((0.75 + 0 + 0.25) / 3)
    assert {k: estimate.value for k, estimate in found.pass_at.items()} == pytest.approx({1: 1 / 3, 2: (1 + 0 + 1 / 2) / 3, 4: 2 / 3})
    assert (found.prompts, found.num_generations) == (3, 4)
    assert found.interval == mean_interval([0.75, 0.0, 0.25], seed=0), "three prompts, not twelve completions"


def test_a_failed_or_unreadable_completion_counts_as_wrong() -> None:
    """None of a timeout, or of an answer that cannot be read, would otherwise make a model better by failing."""
    failing = sampled(0, [1, None, None, 0.0], outcomes_G=["scored", "timeout", "unparsable_answer", "unparsable_answer"])
    found = measured("set", [failing, sampled(1, [1, 1, 1, 1])], "accuracy")
    assert found.accuracy == pytest.approx((0.25 + 1) / 2)
    assert (found.prompts, found.unjudged) == (2, 0)
    assert found.outcomes == {"accuracy": {"scored": 5, "unparsable_answer": 2, "timeout": 1}}
    assert "set: on 1 completions accuracy failed (timeout, crash or invalid value); they count as 0" in list(remarks([found]))


def test_a_prompt_that_cannot_be_judged_is_left_out_and_said() -> None:
    unknown = sampled(0, [None, None], outcomes_G=["unparsable_gold"] * 2)
    found = measured("set", [unknown, sampled(1, [1, 0])], "accuracy", ks=(2,), too_long=4, refused=3)
    assert (found.accuracy, found.prompts, found.unjudged) == (0.5, 1, 1)
    told = " ".join(remarks([found], "grpo"))
    assert (
        "grpo, set: 1 prompts cannot be judged by accuracy" in told and "4 prompts are longer" in told and "3 prompts were refused" in told
    )


def test_where_nothing_can_be_judged_there_is_no_number() -> None:
    found = measured("set", [sampled(0, [None, None], outcomes_G=["unparsable_gold"] * 2)], "accuracy", ks=(2,))
    assert (found.prompts, found.interval, found.pass_at, found.majority) == (0, None, {}, None)
    assert found.accuracy is None and not [name for name in metrics_of(found) if "accuracy" in name]
    assert next(iter(measures(found))) == ("accuracy, avg@2", "-", "")
    assert [name for name, _, _ in measures(found)] == ["accuracy, avg@2", "tokens a completion", "cut off at the limit"]
    assert not any(name.endswith(("/accuracy", "@2")) for name in metrics_of(found))


def test_votes_are_counted_by_answer() -> None:
    right = "\0right"
    split = sampled(0, [1, 1, 0, 0], answers_G=[right, right, "3", "4"])
    tied = sampled(1, [1, 0, 0, 0], answers_G=[right, "3", None, None])
    assert measured("set", [split, tied], "accuracy").majority.value == pytest.approx((1 + 0.5) / 2)  # type: ignore[union-attr]
    assert measured("set", [sampled(0, [1]), sampled(1, [0])], "accuracy").majority is None, "one completion is no vote"


def test_lengths_and_versions() -> None:
    found = measured("set", [sampled(0, [1, 0], lengths_G=[2, 10], version=3), sampled(1, [1, 0], lengths_G=[4, 4], version=5)], "accuracy")
    assert (found.mean_length, found.truncated) == (5.0, 0.25)
    assert (found.min_policy_version, found.max_policy_version, found.version) == (3, 5, "3 to 5")
    assert any("25% of the completions were cut off" in line for line in remarks([found]))


def test_metrics_have_the_names_of_the_docs() -> None:
    found = measured("math_500", [sampled(0, [1, 0]), sampled(1, [1, 1])], "accuracy", ks=(1, 2))
    names = {name.removeprefix("eval/math_500/") for name in metrics_of(found)}
    assert names == {
        "accuracy", "accuracy_low", "accuracy_high", "pass@1", "pass@2", "maj@2", "rewards/accuracy/mean", "mean_length", "clipped_ratio",
        "prompts", "min_policy_version", "max_policy_version",
    }  # fmt: skip


def test_without_a_judge_the_weighted_sum_is_given_and_nothing_passes() -> None:
    config = run_config(["format", "tag_count"])
    assert judge_of(config) == WEIGHTED_SUM
    found = measured("set", [sampled(0, [0.5, 1.5], reward="format")], WEIGHTED_SUM, ks=(2,))
    assert (found.accuracy, found.pass_at, found.majority) == (1.0, {}, None)
    assert "eval/set/reward" in metrics_of(found) and "eval/set/accuracy" not in metrics_of(found)


@pytest.mark.parametrize(
    ("judge", "reward", "measure", "metric"),
    [
        ("accuracy", "accuracy", "accuracy", "accuracy"),
        ("reasoning_accuracy", "reasoning_accuracy", "accuracy", "accuracy"),
        ("code", "code", "reward (code)", "reward"),
        (WEIGHTED_SUM, "mixed_reward", "reward (mixed_reward)", "reward"),
    ],
)
def test_only_the_mean_of_an_accuracy_reward_is_called_accuracy(judge: str, reward: str, measure: str, metric: str) -> None:
    found = measured("set", [sampled(0, [1.0, 0.0], reward=reward)], judge)
    assert found.measure == measure
    assert [name for name in metrics_of(found) if name in ("eval/set/accuracy", "eval/set/reward")] == [f"eval/set/{metric}"]


@pytest.mark.parametrize(
    ("rewards", "asked", "judge"),
    [
        (["format", "accuracy"], {}, "accuracy"),
        (["code_format", "cf_code"], {}, "cf_code"),
        (["format", "accuracy"], {"reward": "format"}, "format"),
        (["examples/one_number.py:one_number"], {"reward": "one_number"}, "one_number"),
    ],
)
def test_the_judge_is_a_reward_that_says_what_is_right(rewards: list[str], asked: dict[str, str], judge: str) -> None:
    assert judge_of(run_config(rewards, **asked)) == judge


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ({"num_generations": 4, "temperature": 0}, "greedy completions of a prompt are all equal"),
        ({"num_generations": 4, "pass_at": [1, 8]}, "pass_at 8 is more than num_generations 4"),
        ({"data": ["gsm8k", "gsm8k"]}, "data lists gsm8k twice"),
        ({"reward": "accuracy"}, "evaluation.reward accuracy is not among the rewards format"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(evaluation: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        run_config(["format"], **evaluation)


def test_steps_go_with_syncs_and_with_data() -> None:
    tree = {"model": {"path": "m"}, "data": {"path": "d", "eval_samples": 0}, "evaluation": {"steps": 3}}
    with pytest.raises(ValueError, match="there is nothing to evaluate on"):
        RunConfig.model_validate(tree)
    tree["cluster"] = {"sync_every_steps": 2, "max_staleness": 2}
    with pytest.raises(ValueError, match="evaluation.steps 3 is not divisible by cluster.sync_every_steps 2"):
        RunConfig.model_validate(tree)


def test_models_are_compared_on_the_prompts_that_count_for_both() -> None:
    base = answers("set", [sampled(0, [0, 0]), sampled(1, [1, 0]), sampled(2, [1, 1])])
    unknown = sampled(2, [None, None], outcomes_G=["unparsable_gold"] * 2)
    other = answers("set", [unknown, sampled(1, [0, 0]), sampled(0, [1, 1])])
    difference = compare_set({"base": base, "other": other}, seed=0).differences["other"]
    assert difference.mean == pytest.approx((1 - 0.5) / 2) and (difference.better, difference.worse) == (1, 1)
    swapped = compare_set({"other": other, "base": base}, seed=0).differences["base"]
    assert swapped.mean == -difference.mean and (swapped.better, swapped.worse) == (1, 1)


def test_one_model_alone_has_no_difference() -> None:
    assert compare_set({"base": answers("set", [sampled(0, [1, 0])])}, seed=0).differences == {}
