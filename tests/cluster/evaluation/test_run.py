"""`rollcast evaluate` and `rollcast data pass-rate` decide the base of an adapter. They end at data without prompts, before an engine starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.__main__ import app
from cluster.evaluation.run import names_its_model
from cluster.models.adapter_base import Base, record_of
from cluster.models.base_record import write_record
from configs.contracts.errors import ConfigError, DataError, PlacementError, RewardError, RollcastError
from configs.loading import dump_config
from configs.schema.run import RunConfig
from learner.model.tiny_model import create_tiny_model
from tests.cluster.evaluation.test_serving import run_config
from tests.cluster.models.test_merge import make_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, and an adapter of the first with its record."""
    folder = tmp_path_factory.mktemp("evaluated")
    found = {name: create_tiny_model(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    adapter = make_adapter(folder / "adapter", found["one"])
    write_record(adapter, record_of(Base(str(found["one"])), str(found["one"])))
    return found | {"adapter": adapter}


def without_data(config: RunConfig, folder: Path) -> str:
    """Settings whose data are there with all columns, and have no prompt that is short enough."""
    (folder / "rows.jsonl").write_text('{"prompt": "What is 1+1?", "solution": "2"}\n')
    unusable = config.data.model_copy(update={"path": str(folder / "rows.jsonl"), "max_prompt_length": 1})
    return dump_config(config.model_copy(update={"data": unusable, "out_dir": folder / "run"}))


@pytest.fixture
def merged_run(made: dict[str, Path], tmp_path: Path) -> Path:
    """A run that merged `adapter` into the first model and trained an adapter on the result, which is the second model here."""
    run = tmp_path / "run"
    shutil.copytree(made["two"], run / "merged_model")
    adapter = shutil.copytree(made["adapter"], run / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(run / "merged_model")}))
    write_record(adapter, record_of(Base(str(run / "merged_model")), str(run / "merged_model")))
    config = run_config(made["one"], adapter=str(made["adapter"]), merge_adapter=True)
    (run / "config.yaml").write_text(without_data(config, tmp_path))
    return run


def rollcast(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is not None
    return result


def told(*arguments: object) -> str:
    """What a command says that gets as far as its data."""
    result = rollcast(*arguments)
    assert isinstance(result.exception, DataError), (result.output, result.exception)
    return result.output


def test_each_adapter_is_evaluated_on_its_own_base(made: dict[str, Path], merged_run: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "out")
    run, one = merged_run, made["one"]
    assert f"evaluating {run}/adapter on its base {run}/merged_model\n" in told("evaluate", run, *output)
    assert f"evaluating {made['adapter']} on its base {one}\n" in told("evaluate", run, "--adapter", made["adapter"], *output)
    assert f"evaluating the base model {one}\n" in told("evaluate", run, "--adapter", "none", *output)
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copytree(run / "adapter", whole / "adapter")
    (whole / "config.yaml").write_text((run / "config.yaml").read_text())
    assert f"on its base {run}/merged_model" in told("evaluate", whole, *output), "of a run of stages: the base lies in another folder"


def test_a_model_that_is_named_expressly_must_be_the_base(made: dict[str, Path], merged_run: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "out")
    refused = rollcast("evaluate", merged_run, f"model.path={made['two']}", "--adapter", made["adapter"], *output)
    assert f"adapter {made['adapter']} was trained on {made['one']} with the weights" in str(refused.exception)
    (tmp_path / "run.yaml").write_text(without_data(run_config(made["two"]), tmp_path))
    refused = rollcast("evaluate", tmp_path / "run.yaml", "--adapter", made["adapter"], *output)
    assert f"set model.path to {made['one']}, or leave it out" in str(refused.exception)
    copy = shutil.copytree(made["one"], tmp_path / "copy")
    assert f"on its base {copy}\n" in told("evaluate", tmp_path / "run.yaml", f"model.path={copy}", "--adapter", made["adapter"], *output)


@pytest.mark.parametrize("command", [("evaluate",), ("data", "pass-rate")])
@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        (["data.path=nowhere.jsonl"], DataError, "nowhere.jsonl does not exist"),
        (["actors.gpus_per_worker=1", "actors.num_workers=99"], PlacementError, "99 x 1 for rollout) but this machine ("),
        (["rewards.functions=[broken.py:f]"], RewardError, "no_such_library"),
        (["model.path=empty"], ConfigError, "has no config.json, so that no engine can load it"),
    ],
)
def test_what_cannot_work_is_refused_as_a_run_is(
    command: tuple[str, ...],
    settings: list[str],
    kind: type[RollcastError],
    says: str,
    made: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "run.yaml").write_text(without_data(run_config(made["one"]), tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("import no_such_library\ndef f(completions): ...\n")
    Path("empty").mkdir()
    refused = rollcast(*command, "run.yaml", *settings, "--address", "local", "-o", f"out{'.parquet' * (len(command) > 1)}")
    assert isinstance(refused.exception, kind) and says in str(refused.exception), refused.exception
    assert not list(tmp_path.glob("out*")), "nothing is left"


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "run.yaml"],
        ["evaluate", "run.yaml", "-o", "deep/out"],
        ["evaluate", "run.yaml", "--data", "rows.jsonl"],
        ["evaluate", "run.yaml", "--adapter", "absent"],
        ["evaluate", "run.yaml", "model.path=absent/model"],
        ["data", "pass-rate", "run.yaml", "-o", "deep/out.parquet"],
        ["data", "pass-rate", "run.yaml", "model.path=absent/model", "-o", "deep/out.parquet"],
        ["compare", "run.yaml", "base", "mine=absent"],
        ["compare", "run.yaml", "base", "-o", "deep/out"],
    ],
)
def test_a_refusal_before_the_engines_leaves_nothing(
    arguments: list[str], made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("run.yaml").write_text(without_data(run_config(made["one"]), tmp_path))
    assert isinstance(rollcast(*arguments).exception, RollcastError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "run.yaml"]


def test_a_refusal_keeps_what_was_there(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(without_data(run_config(made["one"]), tmp_path))
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "config.yaml").write_text("of an earlier evaluation")
    told("evaluate", tmp_path / "run.yaml", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "logs").is_dir() and (tmp_path / "out" / "config.yaml").read_text() == "of an earlier evaluation"


def test_an_evaluation_looks_for_its_own_sets_alone(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(without_data(run_config(made["one"]), tmp_path))
    missing = f"data.path={tmp_path}/nowhere.jsonl"
    for spec in ("absent.jsonl", "absent.jsonl@train"):
        refused = rollcast("evaluate", tmp_path / "run.yaml", missing, "--data", tmp_path / spec, "-o", tmp_path / "out")
        assert isinstance(refused.exception, DataError) and "absent.jsonl does not exist" in str(refused.exception)
    assert "evaluating the base model" in told(
        "evaluate", tmp_path / "run.yaml", missing, "--data", tmp_path / "rows.jsonl", "-o", tmp_path / "out"
    )


def test_a_path_or_a_revision_names_a_model(tmp_path: Path) -> None:
    config = run_config(Path("some/model"), revision="v1")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert names_its_model(config, None) and not names_its_model(config, tmp_path)
    for change in ({"path": "some/other"}, {"revision": "v2"}, {"revision": None}):
        assert names_its_model(config.model_copy(update={"model": config.model.model_copy(update=change)}), tmp_path)


def test_the_pass_rate_of_an_adapter_is_that_on_its_base(made: dict[str, Path], merged_run: Path, tmp_path: Path) -> None:
    """The run's merged model lies in `out_dir` already, and has the adapter in it."""
    output = ("-o", tmp_path / "rates.parquet")
    said = told("data", "pass-rate", merged_run / "config.yaml", *output)
    assert f"measuring {made['adapter']} on its base {made['one']}\n" in said
    refused = rollcast("data", "pass-rate", merged_run / "config.yaml", f"model.path={made['two']}", *output)
    assert f"adapter {made['adapter']} was trained on {made['one']} with the weights" in str(refused.exception)
