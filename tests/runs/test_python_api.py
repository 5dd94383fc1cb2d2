"""`import rollcast` in a notebook: the example runs in a thread that has an event loop, and outside the main thread no signal is handled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from datasets import Dataset

import rollcast
from cluster.api.inputs import load_config, with_inputs
from cluster.api.running import _outside_a_loop
from cluster.session import RaySession
from configs.contracts.errors import ConfigError, PlacementError
from rewards.functions.registry import load
from tests import REPOSITORY
from tests.cluster.models.test_merge import make_adapter
from tests.runs.training import SMALL

QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"

NOTEBOOK = """
import asyncio, json, runpy

async def cells():
    return runpy.run_path(EXAMPLE)["result"]

result = asyncio.run(cells())
print(json.dumps([result.exit_reason, str(result.adapter), str(result.report), result.metrics.num_rows, result.metrics.column_names]))
"""


@pytest.mark.slow
def test_the_example_runs_as_in_a_notebook(tmp_path: Path) -> None:
    code = NOTEBOOK.replace("EXAMPLE", repr(str(REPOSITORY / "examples" / "python_api.py")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    reason, adapter, report, rows, columns = json.loads(done.stdout.strip().splitlines()[-1])
    assert reason == "stopped by watch" and rows >= 2
    assert Path(adapter).is_dir() and Path(report).is_file()
    assert {"train/reward", "rewards/digits/mean"} <= set(columns)
    (evaluation,) = Path(adapter).parent.glob("evaluations/*/summary.json")
    (held_out,) = json.loads(evaluation.read_text())["sets"]
    assert held_out["prompts"] == 8 and held_out["outcomes"]["digits"] == {"scored": 32} and held_out["rewards"]["digits"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_ray")
def test_a_callback_sees_the_stages_and_its_stop_ends_them(tmp_path: Path) -> None:
    """From a mapping and a `datasets.Dataset`; the second stage never starts."""
    seen: list[str] = []

    def watch(step: rollcast.FinishedStep) -> str:
        seen.append(f"{step.out_dir.name} {step.step} of {step.total_steps}")
        return rollcast.STOP

    tree = rollcast.load_config(QUICKSTART, SMALL).model_dump(mode="json", exclude_unset=True) | {
        "stages": [{"name": "one"}, {"name": "two"}]
    }
    sums = Dataset.from_list([{"prompt": f"{a}+1?", "solution": str(a + 1)} for a in range(40)])
    result = rollcast.train(tree, overrides=[f"out_dir={tmp_path / 'run'}", "learner.max_steps=60"], data=sums, callbacks=[watch])
    assert seen[0] == "1-one 1 of 60" and len(seen) < 60 and result.exit_reason == "stopped by watch"
    assert not (tmp_path / "run" / "2-two").exists()


@pytest.mark.usefixtures("ray_local")
def test_a_process_that_is_connected_to_ray_is_refused_and_keeps_its_ray(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"exit_reason": "finished"}')
    config = rollcast.load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"])
    for start in (lambda: rollcast.train(config, data=[{"prompt": "p"}]), lambda: RaySession(config, tmp_path, "n").__enter__()):
        with pytest.raises(PlacementError, match=r"connected to Ray already \(node .*call ray\.shutdown\(\) before"):
            start()
    assert ray.is_initialized() and [path.name for path in tmp_path.iterdir()] == ["run"], "nothing was moved aside"


def test_settings_are_a_path_a_mapping_or_settings(tmp_path: Path) -> None:
    from_file = rollcast.load_config(QUICKSTART, ["learner.max_steps=3"])
    tree = from_file.model_dump(mode="json", exclude_unset=True)
    assert rollcast.load_config(tree) == from_file == rollcast.load_config(from_file)
    assert rollcast.load_config(from_file, ["learner.max_steps=4"]).learner.max_steps == 4
    assert tree["learner"]["max_steps"] == 3, "the caller's mapping stays"


def test_rows_and_callables_are_written_into_the_run_directory(tmp_path: Path) -> None:
    factor = 3.0
    config = load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"])
    rows = [{"prompt": "1+1?", "solution": "2"}]
    run, resume = with_inputs(config, rows, [lambda completions, **_: [factor for _ in completions], "tag_count"], "none")
    assert resume == "auto", "the run would move its own inputs aside"
    assert run.data.path is not None
    assert [json.loads(line) for line in Path(run.data.path).read_text().splitlines()] == rows
    assert load(run.rewards.functions[0].name)(completions=["a", "b"]) == [3.0, 3.0]
    assert run.rewards.functions[1].name == "tag_count"


def test_a_finished_run_is_moved_aside_before_the_inputs_are_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"exit_reason": "finished"}')
    run, _ = with_inputs(load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"]), [{"prompt": "p"}], None, "auto")
    assert (tmp_path / "run.1" / "summary.json").exists() and not (tmp_path / "run" / "summary.json").exists()
    assert run.data.path is not None and Path(run.data.path).is_file()


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data is dict; give a path"):
        with_inputs(load_config(QUICKSTART, [f"out_dir={tmp_path}"]), {"prompt": "p"}, None, "auto")  # pyright: ignore[reportArgumentType]


def test_a_row_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\[1\] has \{1\} in column .*set"):
        with_inputs(load_config(QUICKSTART, [f"out_dir={tmp_path}"]), [{"prompt": "p"}, {"prompt": {1}}], None, "auto")


def test_a_dataset_keeps_its_types(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1?", "solution": "2", "weights": [0.5, 1.0]}]
    run, _ = with_inputs(load_config(QUICKSTART, [f"out_dir={tmp_path / 'run'}"]), Dataset.from_list(rows), None, "auto")
    assert run.data.path is not None and pq.read_table(run.data.path).to_pylist() == rows


def test_merge_takes_paths_as_text(tmp_path: Path, tiny_model: Path) -> None:
    folder = rollcast.merge(str(make_adapter(tmp_path / "adapter", tiny_model)), str(tmp_path / "merged"))
    assert folder == tmp_path / "merged" and (folder / "model.safetensors").is_file()


async def test_errors_come_out_of_the_thread() -> None:
    def fail() -> None:
        raise ConfigError("told")

    with pytest.raises(ConfigError, match="told"):
        _outside_a_loop(fail)


def test_a_reward_that_is_called_directly_has_a_time_out() -> None:
    accuracy = rollcast.load_reward("accuracy", grading_timeout_s=1.0)
    assert accuracy(completions=["\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}", "\\boxed{5}"], solution=["5", "5"]) == [None, 1.0]


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = rollcast.tarin  # pyright: ignore[reportAttributeAccessIssue]
