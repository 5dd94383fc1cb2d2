"""A card names the base that the adapter was trained on, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from cluster.models.base_record import BaseRecord
from cluster.publish.model_card import CardFacts, model_card, sft_card
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

HUB = "Qwen/Qwen2.5-0.5B"
RECORD = BaseRecord("d" * 64, commit="c" * 40)
FACTS = CardFacts(steps=3, base=RECORD)


def config(warm_start: bool = False, **model: Any) -> RunConfig:
    learner = {"warm_start": {}} if warm_start else {}
    return RunConfig.model_validate({"model": {"path": HUB, **model}, "data": {"path": "builtin:addition"}, "learner": learner})


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_an_adapter_of_a_hub_model() -> None:
    card = model_card(config(), FACTS)
    assert (front_matter(card)["base_model"], front_matter(card)["base_model_relation"]) == (HUB, "adapter")
    assert (
        f"# LoRA adapter of {HUB}" in card and f"Base: {HUB}, commit `{RECORD.commit}`, weights of the digest `{RECORD.weights}`." in card
    )
    assert f"vllm serve {HUB} --revision {RECORD.commit} --enable-lora" in card and "AutoPeftModelForCausalLM" in card
    older = model_card(config(), replace(FACTS, base=None))
    assert f"Base: {HUB}. On any other base" in older and f"vllm serve {HUB} --enable-lora" in older


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({"adapter": "a", "merge_adapter": True}, "merging an adapter into it"),
        ({"warm_start": True}, "a supervised warm start of all its weights"),
    ],
)
def test_an_adapter_of_a_model_that_the_run_made(settings: dict[str, Any], way: str) -> None:
    """On the model of the hub it would be one that nobody trained."""
    card = model_card(config(**settings), FACTS)
    assert "base_model" not in front_matter(card) and "# LoRA adapter of a local model" in card
    assert f"Base: a model that the run made of {HUB} by {way}" in card and "`rollcast push --merged`" in card
    assert "vllm serve BASE_MODEL --enable-lora" in card and "AutoPeftModelForCausalLM" not in card and "--revision" not in card
    merged = model_card(config(**settings), replace(FACTS, merged=True, base=None))
    assert front_matter(merged)["base_model"] == HUB and "Base:" not in merged, "of a whole model it is the origin"


@pytest.mark.parametrize(
    ("path", "settings", "base"), [(HUB, {}, HUB), ("/models/mine", {}, None), (HUB, {"adapter": "a", "merge_adapter": True}, None)]
)
def test_a_fine_tuning_names_a_model_of_the_hub_only_where_its_adapter_is_one_of_it(
    path: str, settings: dict[str, Any], base: str | None
) -> None:
    run = SftConfig.model_validate({"model": {"path": path, **settings}, "data": {"path": "d"}})
    card = sft_card(run, {"steps": 1, "num_tokens": 2, "eval_loss_before": None, "eval_loss_after": None})
    assert front_matter(card).get("base_model") == base and f"# LoRA adapter of {base or 'a local model'}\n" in card
