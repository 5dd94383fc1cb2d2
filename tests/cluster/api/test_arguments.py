"""Wrong arguments of the functions of `import rollcast`: each is refused with what to give, before anything is touched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rollcast
from cluster.api.arguments import checked_callbacks, checked_overrides, checked_path
from cluster.api.inputs import with_inputs
from cluster.output.run_dir import resume_of
from configs.contracts.errors import ConfigError
from rewards.functions.registry import load
from tests import REPOSITORY

QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
ROWS = [{"prompt": "1+1?", "solution": "2"}]


async def asynchronous(_step: rollcast.FinishedStep) -> None: ...


@pytest.mark.parametrize(
    ("check", "value", "told"),
    [
        (checked_overrides, "learner.max_steps=3", "give a list of texts"),
        (checked_overrides, {"learner.max_steps": 3}, "give a list of texts"),
        (checked_overrides, [3], "overrides holds 3"),
        (resume_of, None, "resume is None; give 'auto', 'none' or the path"),
        (resume_of, False, "resume is False"),
        (checked_callbacks, print, r"give a list of functions, such as \[print\]"),
        (checked_callbacks, [3], "callbacks holds 3"),
        (checked_callbacks, [lambda: 1], "cannot be called with a finished step"),
        (checked_callbacks, [asynchronous], "asynchronous is an async function"),
        (lambda path: checked_path(path, "source"), None, "source is None; give a path"),
        (
            lambda rewards: with_inputs(rollcast.load_config(QUICKSTART), None, rewards, "auto"),
            [],
            "rewards is an empty list; list at least",
        ),
        (rollcast.load_config, None, "the configuration is None; give the path"),
        (rollcast.load_config, {"seed": (each for each in ())}, "holds what is no setting"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_to_give(check: Callable[[Any], object], value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(value)


def test_right_arguments_pass(tmp_path: Path) -> None:
    assert resume_of("auto") == "auto" and resume_of("none") == "none" and resume_of(str(tmp_path)) == tmp_path
    assert checked_overrides(("seed=1",)) == ["seed=1"]
    checked_callbacks([print, lambda step: None, Path])


def finished_run(folder: Path) -> Path:
    (folder / "inputs").mkdir(parents=True)
    (folder / "summary.json").write_text('{"exit_reason": "finished"}')
    (folder / "inputs" / "train.jsonl").write_text("kept")
    return folder


@pytest.mark.parametrize(
    ("data", "rewards", "told"),
    [
        (iter(ROWS), None, "data is list_iterator; give a path"),
        ([], None, "data has no rows"),
        (["a"], None, r"data\[0\] is 'a'; give rows as dicts"),
        ([*ROWS, {"prompt": "\ud800"}], None, r"data\[1\] has .* in column 'prompt'"),
        (ROWS, [3], "rewards holds 3"),
        (ROWS, "accuracy", "rewards is 'accuracy'; give a list"),
        (ROWS, ["acuracy"], "accuracy"),
        (ROWS, [threading.Lock().acquire], "cannot be sent to the graders"),
    ],
)
def test_a_refused_call_touches_no_earlier_run(data: Any, rewards: Any, told: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=told):
        with_inputs(rollcast.load_config(QUICKSTART, [f"out_dir={run}"]), data, rewards, "auto")
    assert (run / "inputs" / "train.jsonl").read_text() == "kept" and not (tmp_path / "run.1").exists()


def test_a_callable_may_have_a_weight(tmp_path: Path) -> None:
    config = rollcast.load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"])
    run, _ = with_inputs(config, ROWS, [{"name": lambda completions, **_: [1.0 for _ in completions], "weight": 2}], "auto")
    (spec,) = run.rewards.functions
    assert spec.weight == 2 and load(spec.name)(completions=["a"]) == [1.0]


def test_a_name_with_a_slash_does_not_leave_the_folder(tmp_path: Path) -> None:
    def reward(completions: list[str], **_: object) -> list[float]:
        return [1.0 for _ in completions]

    reward.__name__ = "../../evil"
    with pytest.raises(ConfigError, match="without a slash"):
        with_inputs(rollcast.load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"]), None, [reward], "auto")
    assert not list(tmp_path.rglob("*.pkl"))


def test_rows_may_hold_what_pandas_puts_into_them_and_take_the_place_of_listed_files(tmp_path: Path) -> None:
    config = rollcast.load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}", "data.path=null", "data.data_files=none.jsonl"])
    rows = [{"prompt": np.array([{"role": "user", "content": "?"}]), "solution": np.int64(4), "score": np.float32(0.5)}]
    run, _ = with_inputs(config, rows, None, "auto")
    assert run.data.data_files is None
    row = json.loads((tmp_path / "run/inputs/train.jsonl").read_text())
    assert row == {"prompt": [{"role": "user", "content": "?"}], "solution": 4, "score": 0.5}
    with pytest.raises(ConfigError, match=r"data\[0\] has .* in column 'prompt' .*give JSON values"):
        with_inputs(config, [{"prompt": object()}], None, "auto")
