"""The arguments of `rollcast convert` and `rollcast train` are sorted into settings of a recipe and keys of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.contracts.errors import ConfigError
from configs.recipes.command_line import sort_arguments


def test_arguments_of_a_shell_line() -> None:
    options = ["--beta=0.01", "--reward_funcs", "accuracy", "format", "--max_steps", "-1", "--bf16", "--num-generations", "4"]
    more = ["--lr_scheduler_kwargs", "{min_lr_rate: 0.2}", "--system_prompt", "12", "learner.epsilon=0.3"]
    arguments = sort_arguments([*options, *more, "--config_file", "zero2.yaml", "out_dir=a=b"])
    assert arguments.settings == {
        "beta": 0.01,
        "reward_funcs": ["accuracy", "format"],
        "max_steps": -1,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.2},
        "bf16": True,
        "num_generations": 4,
        "system_prompt": "12",
    }
    assert (arguments.overrides, arguments.accelerate) == (("learner.epsilon=0.3", "out_dir=a=b"), Path("zero2.yaml"))


def test_a_value_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither --key value nor section.key=value"):
        sort_arguments(["0.1"])


def test_the_last_of_a_repeated_key_counts_and_the_key_is_named() -> None:
    """As argparse has it: people append what they change to a line that they keep."""
    arguments = sort_arguments(["--beta", "1", "--max-steps", "5", "--beta", "2", "--max_steps=6"])
    assert arguments.settings == {"beta": 2, "max_steps": 6} and arguments.repeated == ("beta", "max_steps")
