"""Each objective against a float64 transcription of its paper, in values and gradients.

The transcription below loops over completions and tokens and shares no code with `learner.grpo.loss` and `learner.grpo.importance`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.contracts.metrics import values
from configs.schema.learner import ObjectiveSection
from learner.grpo.importance import Completions, importance_weights
from learner.grpo.loss import TokenLogprobs, grpo_loss, kl_estimates
from learner.packing import Denominators

LENGTHS = (3, 7, 1, 5)
MAX_LENGTH = 9
# Our sums are float32 of about 16 terms of size 1: 16 x 2^-24 = 1e-6, doubled for exp.
TOLERANCE = 2e-6


def made_up(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(LENGTHS)
    logprobs_N = -torch.rand(n, generator=generator, dtype=torch.float64) * 3
    return {
        "logprobs_N": logprobs_N,
        "old_N": logprobs_N + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64),
        "behaviour_N": logprobs_N + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64),
        "reference_N": logprobs_N + 0.4 * torch.randn(n, generator=generator, dtype=torch.float64),
        "advantages_C": torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64),
        "entropies_N": torch.rand(n, generator=generator, dtype=torch.float64),
    }


def completions() -> list[range]:
    """The tokens of each completion."""
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    return [range(start, start + length) for start, length in zip(starts, LENGTHS, strict=True)]


def correction(rhos: list[float], t: int, o: ObjectiveSection) -> float:
    """Truncated importance sampling, sequence masks and IcePop (arXiv:2510.18855) on pi_old / pi_behaviour of a completion's tokens."""
    if o.importance_sampling_mode == "none":
        return 1.0
    rho = rhos[t] if o.importance_sampling_mode.startswith("token") else math.prod(rhos)
    low, high = o.importance_sampling_floor, o.importance_sampling_cap
    if o.importance_sampling_mode.endswith("mask"):
        return rho if low <= rho <= high else 0.0
    return min(max(rho, low), high)


def divergence(logprob: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """http://joschu.net/blog/kl-approx.html: with r = pi_ref / pi, k1 = -log r, k2 = (log r)^2 / 2, k3 = (r - 1) - log r."""
    r = torch.exp(reference - logprob)
    return {"k1": -torch.log(r), "k2": torch.log(r) ** 2 / 2, "k3": (r - 1) - torch.log(r)}[estimator]


def from_the_paper(data: dict[str, Tensor], o: ObjectiveSection, *, one_update: bool) -> Tensor:
    """arXiv:2402.03300 eq. 3 and 4 (grpo), arXiv:2503.14476 eq. 8 (dapo; bnpo over one batch), arXiv:2503.20783 section 3.2 (dr_grpo),
    arXiv:2507.18071 eq. 5 and 7 (gspo), arXiv:2506.13585 eq. 4 (cispo)."""
    epsilon_high = o.epsilon if o.epsilon_high is None else o.epsilon_high
    per_completion = []
    for i, places in enumerate(completions()):
        logprobs = [data["logprobs_N"][t] for t in places]
        olds = [x.detach() for x in logprobs] if one_update else [data["old_N"][t] for t in places]
        rhos = [math.exp(float(old - data["behaviour_N"][t])) for old, t in zip(olds, places, strict=True)]
        # (pi(o) / pi_old(o))^(1 / |o|)
        whole = torch.exp((torch.stack(logprobs).sum() - torch.stack(olds).sum()) / len(places))
        advantage = data["advantages_C"][i]
        tokens = []
        for t, place in enumerate(places):
            ratio = whole if o.importance_sampling_level == "sequence" else torch.exp(logprobs[t] - olds[t])
            if o.loss_type == "cispo":
                objective = min(float(ratio.detach()), epsilon_high) * advantage * logprobs[t]
            else:
                objective = torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - o.epsilon, 1 + epsilon_high) * advantage)
            loss = -correction(rhos, t, o) * objective
            if o.beta > 0 and not o.kl_in_reward:
                factor = ratio if o.use_bias_correction_kl else 1.0
                loss = loss + o.beta * factor * divergence(logprobs[t], data["reference_N"][place], o.kl_estimator)
            tokens.append(loss)
        per_completion.append(torch.stack(tokens))
    bonus = o.entropy_coef * sum(data["entropies_N"]) / sum(LENGTHS)
    if o.loss_type == "grpo":
        return torch.stack([tokens.mean() for tokens in per_completion]).mean() - bonus
    total = torch.cat(per_completion).sum()
    return (total / (len(LENGTHS) * MAX_LENGTH) if o.loss_type == "dr_grpo" else total / sum(LENGTHS)) - bonus


def ours(
    data: dict[str, Tensor], objective: ObjectiveSection, *, one_update: bool, logprobs_N: Tensor, entropies_N: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    lengths_C = torch.tensor(LENGTHS)
    logprobs = TokenLogprobs(
        logprobs_N,
        data["behaviour_N"].float(),
        old_N=None if one_update else data["old_N"].float(),
        reference_N=data["reference_N"].float(),
    )
    loss, metrics = grpo_loss(
        logprobs,
        Completions(torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths_C), lengths_C),
        data["advantages_C"].float(),
        objective,
        Denominators(len(LENGTHS), sum(LENGTHS), MAX_LENGTH),
        data["entropies_N"].float() if entropies_N is None else entropies_N,
    )
    return loss, values(metrics)


AVERAGES = [{"loss_type": loss_type} for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo")] + [{"loss_type": "cispo", "epsilon_high": 1.1}]
RATIOS = [{}, {"importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.04}]
CORRECTIONS = [
    {"importance_sampling_mode": mode, "importance_sampling_cap": 1.2, "importance_sampling_floor": floor}
    for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    for floor in (0.0, 0.7)
] + [{"importance_sampling_mode": "none"}]
REGULARISERS = [
    *({"beta": 0.04, "kl_estimator": estimator, "use_bias_correction_kl": by} for estimator in ("k1", "k2", "k3") for by in (False, True)),
    {"entropy_coef": 0.3},
    {"beta": 0.04, "kl_estimator": "k1", "kl_in_reward": True},
]
# Every average with every ratio, and each of the rest with every average: what is multiplied and what is added do not know each other.
CASES: list[dict[str, Any]] = [
    {"epsilon": 0.1, "epsilon_high": 0.28} | ratio | average for average in AVERAGES for ratio in [*RATIOS, *CORRECTIONS, *REGULARISERS]
]


@pytest.mark.parametrize("one_update", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_loss_is_the_papers_in_value_and_gradient(case: dict[str, Any], one_update: bool) -> None:
    objective = ObjectiveSection(**case)
    data = made_up(3)
    for name in ("logprobs_N", "entropies_N"):
        data[name].requires_grad_()
    expected = from_the_paper(data, objective, one_update=one_update)
    expected.backward()
    logprobs_N = data["logprobs_N"].detach().float().requires_grad_()
    entropies_N = data["entropies_N"].detach().float().requires_grad_()
    loss, metrics = ours(data, objective, one_update=one_update, logprobs_N=logprobs_N, entropies_N=entropies_N)
    loss.backward()
    assert logprobs_N.grad is not None and data["logprobs_N"].grad is not None
    assert abs(loss.item() - expected.item()) < TOLERANCE
    assert (logprobs_N.grad.double() - data["logprobs_N"].grad).abs().max() < TOLERANCE
    if objective.entropy_coef:
        assert entropies_N.grad is not None and data["entropies_N"].grad is not None
        assert (entropies_N.grad.double() - data["entropies_N"].grad).abs().max() < TOLERANCE
    else:
        assert entropies_N.grad is None
    assert metrics["train/loss"] == pytest.approx(loss.item())
    assert ("kl" in metrics) == (objective.beta > 0 and not objective.kl_in_reward) and ("policy_loss" in metrics) == (
        objective.entropy_coef > 0
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_clip_metrics_count_what_the_paper_clips(level: Any) -> None:
    objective = ObjectiveSection(loss_type="grpo", epsilon=0.05, epsilon_high=0.08, importance_sampling_level=level)
    data = made_up(3)
    low_C, high_C = [], []
    for i, places in enumerate(completions()):
        gaps = [float(data["logprobs_N"][t] - data["old_N"][t]) for t in places]
        ratios = [math.exp(sum(gaps) / len(gaps))] * len(gaps) if level == "sequence" else [math.exp(gap) for gap in gaps]
        low_C.append([ratio < 0.95 and data["advantages_C"][i] < 0 for ratio in ratios])
        high_C.append([ratio > 1.08 and data["advantages_C"][i] > 0 for ratio in ratios])
    shares = {name: [sum(flags) / len(flags) for flags in flags_C] for name, flags_C in (("low", low_C), ("high", high_C))}
    _, metrics = ours(data, objective, one_update=False, logprobs_N=data["logprobs_N"].float())
    for name, flags_C in (("low", low_C), ("high", high_C)):
        mean = sum(shares[name]) / len(LENGTHS) if level == "sequence" else sum(map(sum, flags_C)) / sum(LENGTHS)
        assert metrics[f"clip_ratio/{name}_mean"] == pytest.approx(mean)
    assert metrics["clip_ratio/low_min"] == min(shares["low"]) and metrics["clip_ratio/high_max"] == pytest.approx(max(shares["high"]))
    assert metrics["clip_ratio/region_mean"] == pytest.approx(metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"])
    assert 0 < metrics["clip_ratio/region_mean"] < 1


def test_cispo_counts_what_it_bounds() -> None:
    data = made_up(3)
    bounded = [
        float(data["logprobs_N"][t] - data["old_N"][t]) > math.log(1.1) and bool(data["advantages_C"][i] > 0)
        for i, places in enumerate(completions())
        for t in places
    ]
    _, metrics = ours(data, ObjectiveSection(loss_type="cispo", epsilon_high=1.1), one_update=False, logprobs_N=data["logprobs_N"].float())
    assert 0 < metrics["cispo_clip_ratio"] == pytest.approx(sum(bounded) / len(bounded))
    assert not any(name.startswith("clip_ratio") for name in metrics)


def test_one_update_clips_nothing() -> None:
    data = made_up(3)
    _, metrics = ours(data, ObjectiveSection(loss_type="dapo", epsilon=0.01), one_update=True, logprobs_N=data["logprobs_N"].float())
    assert metrics["clip_ratio/region_mean"] == 0 and metrics["entropy"] == pytest.approx(data["entropies_N"].mean().item())
    assert metrics["sampling/importance_ratio/max"] <= 2 + TOLERANCE


def test_sequence_ratios_are_averaged_over_completions() -> None:
    data = made_up(3)
    rhos_C = [math.exp(sum(float(data["old_N"][t] - data["behaviour_N"][t]) for t in places)) for places in completions()]
    objective = ObjectiveSection(loss_type="grpo", importance_sampling_mode="sequence_truncate")
    _, metrics = ours(data, objective, one_update=False, logprobs_N=data["logprobs_N"].float())
    assert metrics["sampling/importance_ratio/mean"] == pytest.approx(sum(min(rho, 2.0) for rho in rhos_C) / len(rhos_C), rel=1e-5)
    objective = ObjectiveSection(loss_type="grpo", importance_sampling_mode="none")
    _, metrics = ours(data, objective, one_update=False, logprobs_N=data["logprobs_N"].float())
    assert [name for name in metrics if name.startswith("sampling")] == ["sampling/logp_difference/mean", "sampling/logp_difference/max"]


def test_split_into_micro_batches_the_parts_add_up() -> None:
    data = made_up(5)
    objective = ObjectiveSection(loss_type="grpo", beta=0.1)
    lengths_C = torch.tensor(LENGTHS)
    whole, _ = ours(data, objective, one_update=True, logprobs_N=data["logprobs_N"].float())
    total = torch.zeros(())
    for i, places in enumerate(completions()):
        here = slice(places.start, places.stop)
        logprobs_N, behaviour_N, reference_N = (data[name][here].float() for name in ("logprobs_N", "behaviour_N", "reference_N"))
        part, _ = grpo_loss(
            TokenLogprobs(logprobs_N, behaviour_N, reference_N=reference_N),
            Completions(torch.zeros(len(places), dtype=torch.long), lengths_C[i : i + 1]),
            data["advantages_C"][i : i + 1].float(),
            objective,
            Denominators(len(LENGTHS), sum(LENGTHS), MAX_LENGTH),
        )
        total = total + part
    assert abs(total - whole) < TOLERANCE


@pytest.mark.parametrize(("mode", "expected"), [("token_truncate", [2.0, 0.0]), ("token_mask", [0.0, 0.0]), ("sequence_mask", [0.0, 0.0])])
def test_a_hopeless_sample_overflows_nothing(mode: Any, expected: list[float]) -> None:
    weights_N = importance_weights(
        torch.tensor([0.0, -200.0]),
        torch.tensor([-300.0, 0.0]),
        Completions(torch.tensor([0, 1]), torch.tensor([1, 1])),
        mode=mode,
        cap=2.0,
        floor=1e-9 if mode == "token_mask" else 0.0,
    )
    assert weights_N.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_a_log_probability_that_is_not_finite_is_not_masked_away(mode: Any) -> None:
    broken = torch.tensor([float("nan")])
    assert (
        importance_weights(torch.zeros(1), broken, Completions(torch.tensor([0]), torch.tensor([1])), mode=mode, cap=2.0, floor=0.5)
        .isnan()
        .all()
    )


def test_gradients_of_the_divergence_are_what_the_docstring_says() -> None:
    """Over all of a small vocabulary, weighted by its probabilities, expectations are exact."""
    logits_V = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reference_V = torch.log_softmax(torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0)
    logprobs_V = torch.log_softmax(logits_V, 0)

    def gradient(scalar: Tensor) -> Tensor:
        return torch.autograd.grad(scalar, logits_V, retain_graph=True)[0]

    forward = gradient((logprobs_V.exp() * (logprobs_V - reference_V)).sum())
    backward = gradient((reference_V.exp() * (reference_V - logprobs_V)).sum())
    sampled = logprobs_V.exp().detach()  # what is sampled is not differentiated
    ratio = (logprobs_V - logprobs_V.detach()).exp()
    k1, k2, k3 = (kl_estimates(logprobs_V, reference_V, estimator) for estimator in ("k1", "k2", "k3"))
    # float64 sums of 7 terms of size 1: 1e-14 leaves a factor of ten.
    for estimate, expected in ((k1, 0 * forward), (k2, forward), (k3, backward), (k1 * ratio, forward), (k3 * ratio, forward)):
        torch.testing.assert_close(gradient((sampled * estimate).sum()), expected, rtol=0, atol=1e-14)
    for estimate in (k1, k3):
        torch.testing.assert_close((sampled * estimate).sum(), (logprobs_V.exp() * (logprobs_V - reference_V)).sum(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (ObjectiveSection(loss_type="grpo", beta=0.1), r"beta 0\.1 needs"),
        (ObjectiveSection(loss_type="grpo", entropy_coef=0.1), r"entropy_coef 0\.1 needs"),
    ],
)
def test_what_a_term_needs_is_asked_for(objective: ObjectiveSection, told: str) -> None:
    n = sum(LENGTHS)
    lengths_C = torch.tensor(LENGTHS)
    with pytest.raises(ValueError, match=told):
        grpo_loss(
            TokenLogprobs(torch.zeros(n), torch.zeros(n)),
            Completions(torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths_C), lengths_C),
            torch.zeros(len(LENGTHS)),
            objective,
            Denominators(4, n, MAX_LENGTH),
        )


def test_cispo_asks_for_its_bound() -> None:
    with pytest.raises(ValueError, match="epsilon_high None with loss_type cispo"):
        ObjectiveSection(loss_type="cispo")
