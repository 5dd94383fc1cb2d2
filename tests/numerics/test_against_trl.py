"""Our loss on packed rows against the loss of TRL's own GRPOTrainer on padded ones: one model, the same completions.

A real trainer is made on the CPU and its `_compute_loss` called on a batch such as it makes itself. What it makes of samples from vLLM
(the importance weights) it computes while it samples, so that part of the batch is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.contracts.metrics import merge, values
from configs.schema.learner import ObjectiveSection
from learner.grpo.importance import Completions, importance_weights
from learner.grpo.loss import TokenLogprobs, grpo_loss
from learner.model.policy import Policy
from learner.model.tiny_model import TinyShape, create_tiny_model
from learner.packing import Denominators, MicroBatch, TrainedCompletion, TrainedGroup, pack

trl = pytest.importorskip("trl")

PROMPTS, GENERATIONS, LONGEST, TEMPERATURE = 2, 3, 9, 0.8
# Both are float32: a model of two layers gives log-probabilities good to 2e-5 (test_logprobs), differently rounded by padding and packing;
# losses average them. A gradient of the adapter sums such errors over 30 tokens, with weights of size 1 / 30.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 2e-5


@dataclass
class Sample:
    """One completion, and what is known of its tokens."""

    prompt_ids: list[int]
    completion_ids: list[int]
    advantage: float
    behaviour_T: Tensor
    old_T: Tensor
    reference_T: Tensor
    masked: bool = False


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_model(tmp_path_factory.mktemp("tiny"), 5, TinyShape(32, 2, 4, 2, 64))


def trainer_of(model_folder: Path, out_dir: Path, **objective: Any) -> Any:
    """A trainer whose adapter does something: a fresh B is 0."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    trainer = trl.GRPOTrainer(
        model=str(model_folder),
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=trl.GRPOConfig(
            output_dir=str(out_dir),
            per_device_train_batch_size=PROMPTS * GENERATIONS,
            num_generations=GENERATIONS,
            max_completion_length=LONGEST,
            temperature=TEMPERATURE,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            **objective,
        ),
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * PROMPTS),
        processing_class=AutoTokenizer.from_pretrained(model_folder, padding_side="left"),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # set by `train`, which is not called
    return trainer


def samples_of(policy: Policy) -> list[Sample]:
    """Completions of 1 to `LONGEST` tokens, whose old policy is near enough the present one that some tokens are clipped and some are not."""
    generator = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 100, (count,), generator=generator).tolist()

    samples = []
    for prompt_length in (4, 7):
        prompt_ids = tokens(prompt_length)
        for length in (1, LONGEST, 5):
            ids = tokens(length)
            logits_TV = policy.model(input_ids=torch.tensor([prompt_ids + ids])).logits[0, prompt_length - 1 : -1] / TEMPERATURE
            logprobs_T = torch.log_softmax(logits_TV.detach(), -1)[range(length), ids]
            behaviour_T, old_T, reference_T = (logprobs_T + 0.3 * torch.randn(length, generator=generator) for _ in range(3))
            advantage = float(torch.randn(1, generator=generator))
            samples.append(Sample(prompt_ids, ids, advantage, behaviour_T, old_T, reference_T))
    return samples


def padded(parts: list[Tensor], *, left: bool = False) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side="left" if left else "right")


def theirs(trainer: Any, samples: list[Sample], mode: Any) -> Tensor:
    """TRL's loss. Its masked completions keep their row, with an empty mask, as `_generate_and_score_completions` does."""
    mask = padded([torch.full((len(s.completion_ids),), int(not s.masked)) for s in samples])
    inputs = {
        "prompt_ids": padded([torch.tensor(s.prompt_ids) for s in samples], left=True),
        "prompt_mask": padded([torch.ones(len(s.prompt_ids), dtype=torch.long) for s in samples], left=True),
        "completion_ids": padded([torch.tensor(s.completion_ids) for s in samples]),
        "completion_mask": mask,
        "advantages": torch.tensor([s.advantage for s in samples]),
        "old_per_token_logps": padded([s.old_T for s in samples]),
        "ref_per_token_logps": padded([s.reference_T for s in samples]),
        "num_items_in_batch": mask.sum(),
    }
    if mode != "none":
        trainer.use_vllm = True  # so that it multiplies by the weights
        inputs["importance_sampling_ratio"] = padded([weights_of([s], mode) for s in samples])
    return trainer._compute_loss(trainer.model, inputs)


def weights_of(samples: list[Sample], mode: Any) -> Tensor:
    lengths_C = torch.tensor([len(s.completion_ids) for s in samples])
    completion_N = torch.repeat_interleave(torch.arange(len(samples)), lengths_C)
    old_N, behaviour_N = torch.cat([s.old_T for s in samples]), torch.cat([s.behaviour_T for s in samples])
    return importance_weights(old_N, behaviour_N, Completions(completion_N, lengths_C), mode=mode, cap=1.3, floor=0.8)


def packed(samples: list[Sample]) -> list[MicroBatch]:
    groups = []
    for start in range(0, len(samples), GENERATIONS):
        kept = [
            TrainedCompletion(torch.tensor(s.completion_ids).numpy(), s.behaviour_T.numpy(), s.advantage, start + i)
            for i, s in enumerate(samples[start : start + GENERATIONS])
            if not s.masked
        ]
        groups.append(TrainedGroup(torch.tensor(samples[start].prompt_ids).numpy(), tuple(kept)))
    return pack(groups, token_budget=24, attention_width=100.0)


def ours(policy: Policy, samples: list[Sample], objective: ObjectiveSection) -> tuple[Tensor, dict[str, float]]:
    lengths_PG = [[len(s.completion_ids) for s in samples]]
    denominators = Denominators.of(lengths_PG, [[s.advantage for s in samples]], [[s.masked for s in samples]], LONGEST)
    total, metrics = torch.zeros(()), []
    batches = packed(samples)
    assert len(batches) > 1
    for batch in batches:
        tensors = policy.tensors(batch)
        predicted = policy(tensors, TEMPERATURE, objective.entropy_coef > 0)
        here = [samples[index] for index in batch.index_C]
        loss, parts = grpo_loss(
            TokenLogprobs(
                predicted.logprobs_N,
                tensors.behaviour_logprobs_N,
                old_N=torch.cat([s.old_T for s in here]),
                reference_N=torch.cat([s.reference_T for s in here]),
            ),
            Completions(tensors.completion_N, tensors.lengths_C),
            tensors.advantages_C,
            objective,
            denominators,
            predicted.entropies_N,
        )
        total = total + loss
        metrics.append(parts)
    return total, values(merge(metrics))


NO_CORRECTION = {"importance_sampling_mode": "none"}
CASES: list[dict[str, Any]] = [
    *({"loss_type": loss_type} | NO_CORRECTION for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo")),
    {"loss_type": "cispo", "epsilon_high": 1.1} | NO_CORRECTION,
    {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1} | NO_CORRECTION,
    {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": True} | NO_CORRECTION,
    {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03} | NO_CORRECTION,
    {"loss_type": "cispo", "epsilon_high": 1.02, "importance_sampling_level": "sequence"} | NO_CORRECTION,
    {"loss_type": "dr_grpo", "entropy_coef": 0.2} | NO_CORRECTION,
    {"loss_type": "grpo", "entropy_coef": 0.2} | NO_CORRECTION,
    *({"loss_type": "bnpo", "importance_sampling_mode": mode} for mode in ("token_truncate", "token_mask")),
    *({"loss_type": "grpo", "importance_sampling_mode": mode} for mode in ("sequence_truncate", "sequence_mask")),
]


@pytest.mark.parametrize("masked", [False, True], ids=["all", "one masked"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_loss_gradients_and_metrics_are_trls(case: dict[str, Any], masked: bool, model_folder: Path, tmp_path: Path) -> None:
    mode = case["importance_sampling_mode"]
    trl_names = {name: value for name, value in case.items() if name != "importance_sampling_mode"}
    trainer = trainer_of(model_folder, tmp_path, **({"use_bias_correction_kl": False} | trl_names))
    policy = Policy(trainer.model, adapted=True, base_model="tiny")
    parameters = policy.trainable()
    samples = samples_of(policy)
    samples[1].masked = masked
    expected = theirs(trainer, samples, mode)
    expected_gradients = torch.autograd.grad(expected, list(parameters.values()))
    loss, metrics = ours(policy, samples, ObjectiveSection(**case, importance_sampling_cap=1.3, importance_sampling_floor=0.8))
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    assert abs(loss.item() - expected.item()) < LOSS_TOLERANCE
    assert max(float(gradient.abs().max()) for gradient in expected_gradients) > 100 * GRADIENT_TOLERANCE
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient - wanted).abs().max() < GRADIENT_TOLERANCE
    # TRL's means over completions divide by 0 tokens where one is masked.
    theirs_by_name = {name: parts[-1] for name, parts in trainer._metrics["train"].items()}
    shared = theirs_by_name.keys() & metrics.keys()
    assert {"entropy", "cispo_clip_ratio" if case["loss_type"] == "cispo" else "clip_ratio/region_mean"} <= shared
    assert ("kl" in shared) == ("beta" in case) and ("policy_loss" in shared) == ("entropy_coef" in case)
    if not (masked and case.get("importance_sampling_level") == "sequence"):
        for name in shared:
            assert metrics[name] == pytest.approx(theirs_by_name[name], abs=1e-4), name  # means of 30 values, each good to 2e-5
