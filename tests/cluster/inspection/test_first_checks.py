"""What is compared and looked for before a run makes anything: the real commands on this machine, whose GPUs a fake nvidia-smi lists."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.inspection.first_checks import refuse_serving_first, require_rewards
from cluster.train.grpo import run_training
from configs.contracts.errors import ConfigError, DataError, PlacementError, RewardError, RollcastError
from configs.loading import load_config
from rewards.grading.trial import OwnColumns

CORES = f"this machine: {os.cpu_count()} CPUs, "


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def with_gpus(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {gpu}: H100'\n" for gpu in range(count)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def refused(command: str, *settings: str) -> RollcastError:
    error = CliRunner().invoke(app, [command, f"configs/quickstart{'_sft' * (command == 'sft')}.yaml", *settings]).exception
    assert isinstance(error, RollcastError), error
    return error


@pytest.mark.parametrize(
    ("gpus", "visible", "told"),
    [
        (0, None, "0 GPUs: not enough for 1 rollout of 1 GPU + 7 learners of 1 GPU"),
        (8, None, "8 GPUs: enough for 1 rollout of 1 GPU + 7 learners of 1 GPU"),
        (8, "0,1", "2 GPUs: not enough for"),
        (8, "", "0 GPUs: not enough for"),
    ],
)
def test_a_dry_run_compares_with_this_machine(
    gpus: int, visible: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(gpus, tmp_path, monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = ["actors.gpus_per_worker=1", "learner.gpus_per_rank=1", "learner.ranks=7", "rewards.num_workers=1", "--dry-run"]
    result = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", *settings])
    assert result.exit_code == 0 and CORES + told in result.output, result.output


def test_a_cluster_compares_itself_and_a_crowd_on_the_cores_is_told() -> None:
    shown = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", "--dry-run", "--address", "head:6379"]).output
    assert "the cluster at head:6379 is asked for 1 rollout" in shown
    shown = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", "--dry-run", "actors.num_workers=16"]).output
    assert f"18 processes on the CPU share {os.cpu_count()} cores" in shown


@pytest.mark.parametrize(
    ("free", "told"),
    [
        (
            {"/dev/shm": 100 << 20, "/var/tmp": 1 << 40},
            r"/dev/shm has 104,857,600 bytes free for cluster.object_store_memory_bytes 134,217,728",
        ),
        (
            {"/dev/shm": 130 << 20, "/var/tmp": 1000},
            r"/dev/shm has 136,314,880 bytes free and /var/tmp 1,000, for .* and 4 adapters of 1,\d+,",
        ),
    ],
)
def test_shared_memory_is_compared_before_anything_starts(
    free: dict[str, int], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage

    def usage(path: str | Path) -> object:
        return SimpleNamespace(free=free[str(path)]) if str(path) in free else real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    settings = ["cluster.object_store_memory_bytes=134217728", f"out_dir={tmp_path}/run", "--address", "local"]
    error = refused("train", *settings)
    assert isinstance(error, PlacementError) and re.search(told, str(error)) and not (tmp_path / "run").exists()
    shown = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", *settings, "--dry-run"])
    assert shown.exit_code == 0 and re.search(told, shown.output)
    free["/var/tmp"] = free["/dev/shm"] = 130 << 20
    assert (
        "adapters are going to be loaded from /var/tmp"
        in CliRunner().invoke(app, ["train", "configs/quickstart.yaml", *settings, "--dry-run"]).output
    )


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_run_that_has_no_room_or_no_data_makes_nothing(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(1, tmp_path, monkeypatch)
    here = f"out_dir={tmp_path}/run"
    error = refused(command, here, "learner.gpus_per_rank=1", "learner.ranks=8", "--address", "local")
    assert isinstance(error, PlacementError) and "1 GPU) has 1" in str(error) and "in a recipe: --num_processes" in str(error)
    for setting in ("data.path", "data.eval_path"):
        error = refused(command, here, f"{setting}={tmp_path}/nowhere.jsonl", "--address", "local")
        assert isinstance(error, DataError) and "nowhere.jsonl does not exist" in str(error)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_of_missing_data_and_goes_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", f"data.path={tmp_path}/no.jsonl", "--dry-run"])
    assert result.exit_code == 0 and "no.jsonl does not exist" in result.output and "memory estimate" in result.output


MINE = """
import os
print("imported by", os.getpid())
def positional(completions, /, x=1): ...
def of_two(x, y): ...
def of_columns(completions, solution, prompts, z=1): ...
def of_nothing(): ...
"""


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        (["rewards.functions=[{name: accuracy, weight: 0}]"], ConfigError, "the weight of every reward is 0 .accuracy."),
        (["rewards.functions=[mine.py:positional]"], RewardError, "reward mine.py:positional cannot be called by keywords"),
        (["rewards.functions=[mine.py:of_two]"], DataError, "mine.py:of_two cannot be called without x, y, and the data have .*solution"),
        (["rewards.functions=[broken.py:f]"], RewardError, "^reward broken.py:f cannot be loaded: .*broken.py, line 1: .*no_such_library"),
        (["rewards.functions=[acuracy]"], ConfigError, "'acuracy' is unknown; did you mean 'accuracy'"),
        (["rewards.functions=[mine.py]"], ConfigError, "names a file and no function"),
        (["rewards.functions=[{name: accuracy, params: {foo: 1}}]"], ConfigError, "accuracy has no parameter 'foo'"),
        (["rewards.functions=[{name: accuracy, params: {gold_column: nosuch}}]"], DataError, "needs the column nosuch"),
        (["rewards.functions=[{name: 'mine.py:of_columns', params: {foo: 2}}]"], RewardError, "mine.py:of_columns has no argument foo"),
        (["rewards.functions=[mine.py:of_nothing]"], RewardError, "mine.py:of_nothing takes nothing that a call gives"),
        (
            ["rewards.functions=[mine.py:of_columns]", "data.eval_path=others.jsonl"],
            DataError,
            "data.eval_path others.jsonl: reward mine.py:of_columns cannot be called without solution, and the data have the columns level",
        ),
        (["rewards.functions=[accuracy]", "data.eval_path=others.jsonl"], DataError, "data.eval_path others.jsonl: .*accuracy needs"),
        (
            ["rewards.functions=[mine.py:of_columns]", "evaluation.data=[others.jsonl]", "evaluation.steps=1"],
            DataError,
            "evaluation.data others.jsonl: reward mine.py:of_columns cannot be called without solution",
        ),
        (
            ["rewards.functions=[mine.py:of_columns]", "learner.max_steps=-1", "learner.num_train_epochs=1", "data.eval_samples=0"],
            DataError,
            "make no step of",
        ),
    ],
)
def test_what_was_seen_only_by_the_workers_is_refused_before_them(
    settings: list[str], kind: type[RollcastError], told: str, dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart = Path("configs/quickstart.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("broken.py").write_text("import no_such_library\ndef f(completions): ...\n")
    Path("rows.jsonl").write_text('{"prompt": "1+1?", "solution": "2"}\n')
    Path("others.jsonl").write_text('{"prompt": "1+1?", "level": 2}\n')
    given = ["data.path=rows.jsonl", "out_dir=run", "--address", "local", *["--dry-run"] * dry, *settings]
    error = CliRunner().invoke(app, ["train", str(quickstart), *given]).exception
    assert isinstance(error, kind) and re.search(told, str(error)), error
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["evaluation.data=[others.jsonl]"], "evaluation.data others.jsonl: reward mine.py:of_columns cannot be called without solution"),
        (["data.eval_path=others.jsonl"], "data.eval_path others.jsonl: reward mine.py:of_columns cannot be called without solution"),
        (["data.path=others.jsonl"], "^reward mine.py:of_columns cannot be called without solution"),
    ],
)
def test_an_evaluation_of_data_without_a_column_is_refused(
    settings: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart = Path("configs/quickstart.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("others.jsonl").write_text('{"prompt": "1+1?", "level": 2}\n')
    with pytest.raises(DataError, match=told):
        refuse_serving_first(load_config(str(quickstart), ["rewards.functions=[mine.py:of_columns]", *settings]))


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("command", "settings", "told"),
    [
        ("train", ["data.prompt_column=question"], "data.prompt_column 'question' is not in the data"),
        ("train", ["data.eval_samples=40"], "has 40 rows, of which 40 are held out .data.eval_samples. and 1 are wanted for training"),
        (
            "train",
            ["learner.max_steps=-1", "learner.num_train_epochs=1", "data.eval_samples=36"],
            "of 4 prompts make no step of 16 prompts",
        ),
        ("train", ["data.eval_path=other.jsonl"], "data.prompt_column 'prompt' is not in the data; the columns there are text"),
        ("sft", ["data.prompt_column=question"], "data.prompt_column 'question' is not in the data"),
        ("sft", ["data.completion_column=text"], "data.completion_column 'text' is not in the data"),
        ("sft", ["data.messages_column=talk"], "data.messages_column 'talk' is not in the data"),
        ("sft", ["data.eval_samples=40"], "has 40 rows, of which 40 are held out"),
        ("sft", ["data.eval_path=other.jsonl"], "data.prompt_column 'prompt' is not in the data; the columns there are text"),
    ],
)
def test_what_small_data_show_is_refused_before_anything_is_made(
    command: str, settings: list[str], told: str, dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(f"configs/quickstart{'_sft' * (command == 'sft')}.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "1+1?", "completion": "2", "solution": "2"}\n' * 40)
    Path("other.jsonl").write_text('{"text": "1"}\n')
    # The last of a key wins.
    given = ["data.path=rows.jsonl", "data.eval_samples=4", "out_dir=run", "learner.train_batch_size=64", *settings, "--address", "local"]
    ours = ["actors.num_generations=4", "learner.warm_start=null"] if command == "train" else ["data.completion_column=completion"]
    error = CliRunner().invoke(app, [command, str(file), *ours, *given, *["--dry-run"] * dry]).exception
    assert isinstance(error, DataError) and re.search(told, str(error)), error
    assert not Path("run").exists()


def test_a_reward_of_ones_own_is_never_imported_in_the_driver(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    config = load_config("configs/quickstart.yaml", [f"rewards.functions=[{tmp_path}/mine.py:of_columns]"])
    with redirect_stdout(StringIO()) as output:
        assert require_rewards(config) == {f"{tmp_path}/mine.py:of_columns": OwnColumns(["solution"], ["solution", "z"])}
    assert "imported by " in output.getvalue() and f"imported by {os.getpid()}" not in output.getvalue()


def test_a_dry_run_counts_the_rows_of_each_local_data_set(tmp_path: Path) -> None:
    for name, rows in (("a", 10), ("b", 4)):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "1?", "completion": "1", "solution": "1"}\n' * rows)
    mixture = f"[{{path: {tmp_path}/a.jsonl, weight: 0.35}}, {{path: {tmp_path}/b.jsonl}}]"
    for command, settings in (
        ("train", ["configs/quickstart.yaml", "learner.warm_start=null"]),
        ("sft", ["configs/quickstart_sft.yaml", "data.completion_column=completion"]),
    ):
        given = [command, *settings, "data.path=null", "data.eval_samples=0", f"data.mixture.datasets={mixture}", "--dry-run"]
        shown = CliRunner().invoke(app, given)
        assert shown.exit_code == 0, shown.output
        assert f"data: {tmp_path}/a.jsonl: 10 rows, 3 taken by its weight\n" in shown.output
        assert f"data: {tmp_path}/b.jsonl: 4 rows, all taken\ndata: 7 rows in the mixture\n" in shown.output
    hub = CliRunner().invoke(app, ["sft", "configs/quickstart_sft.yaml", "data.path=nobody/nothing", "--dry-run"]).output
    assert "data: the rows of nobody/nothing are counted when the run reads them\n" in hub


def test_a_run_that_is_refused_for_its_data_leaves_the_earlier_run_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?"}\n')
    run = tmp_path / "run"
    settings = [f"data.path={tmp_path}/rows.jsonl", "learner.warm_start=null", "data.prompt_column=question", f"out_dir={run}"]
    config = load_config("configs/quickstart.yaml", settings)
    with pytest.raises(DataError, match="'question' is not in the data"):
        run_training(config)
    assert not run.exists()
    run.mkdir()
    (run / "summary.json").write_text(json.dumps({"exit_reason": "finished"}))
    with pytest.raises(DataError):
        run_training(config)
    assert [path.name for path in run.iterdir()] == ["summary.json"] and sorted(path.name for path in tmp_path.iterdir()) == [
        "rows.jsonl",
        "run",
    ]
