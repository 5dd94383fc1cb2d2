"""Options of `rollcast evaluate` as settings of a run."""

from __future__ import annotations

from cluster.commands.evaluate import SETTINGS, settings_of
from configs.loading import load_config


def test_options_become_settings_that_a_run_takes() -> None:
    options = {
        "data": ["gsm8k", "my.jsonl@test"],
        "num_generations": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "pass_at": "1,4",
        "limit": 7,
        "seed": 3,
    }
    run = load_config("configs/quickstart.yaml", settings_of(**options, address="head:6379"))
    asked = run.evaluation
    assert (list(asked.data), asked.num_generations, asked.temperature, asked.top_p) == (options["data"], 4, 0.5, 0.9)
    assert (asked.ks, asked.max_prompts, asked.seed, run.cluster.address) == ((1, 4), 7, 3, "head:6379")


def test_options_that_are_not_given_leave_the_run_as_it_is() -> None:
    assert settings_of(**dict.fromkeys(SETTINGS)) == []
    assert settings_of(temperature=0.0, data=[]) == ["evaluation.temperature=0.0"]
