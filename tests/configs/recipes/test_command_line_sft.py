"""`rollcast sft` of a recipe and `rollcast convert --sft`, as a user runs them. Nothing starts: every `sft` is a dry run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.demonstrations.indexed import DemonstrationSource
from cluster.__main__ import app
from configs.contracts.errors import ConfigError, DataError
from configs.loading import load_sft_config
from learner.model.tiny_model import build_tokenizer, create_tiny_model
from tests import REPOSITORY
from tests.configs.recipes.test_sft_conversion import MEDICAL_LINE, OPEN_R1

ZERO2 = OPEN_R1.parents[1] / "zero2.yaml"


OF_OPEN_R1 = f"--config {OPEN_R1} --config_file {ZERO2} --model_name_or_path qwen_tiny --dataset_name talks --dataset_config None"
OF_MEDICALGPT = MEDICAL_LINE.replace("Qwen/Qwen2.5-0.5B-Instruct", "qwen_tiny").replace("./data/finetune", "finetune")
LINES = pytest.mark.parametrize("line", [OF_OPEN_R1, OF_MEDICALGPT], ids=["open_r1", "medical_gpt"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and conversations of both layouts."""
    folder = tmp_path_factory.mktemp("sft")
    create_tiny_model(folder / "qwen_tiny", seed=0)
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    talk = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    for name, row in (("talks", {"messages": turns}), ("finetune", {"conversations": talk})):
        (folder / name).mkdir()
        (folder / name / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture(autouse=True)
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "200")


def rollcast(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shown(*arguments: str) -> str:
    result = rollcast(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*arguments: str) -> str:
    error = rollcast(*arguments).exception
    assert isinstance(error, ConfigError), error
    return str(error)


def test_an_open_r1_recipe_dry_runs() -> None:
    output = shown("sft", *shlex.split(OF_OPEN_R1), "--dry-run")
    assert re.search(r"GPU 0 +│ learner 0 +│", output) and re.search(r"GPU 6 +│ learner 6 +│", output) and "GPU 7" not in output
    assert "batch: 112 sequences a step; about 16 a rank on 7 ranks; 10 epochs" in output  # 2 x 8 x 7
    assert re.search(r"use_liger_kernel: true +log-probabilities are always computed in chunks", output)
    assert re.search(r"learner.use_peft: false +the default of TRL", output)
    assert "learner rank: optimizer state (ZeRO-2 share)" in output


def test_the_shell_line_of_medicalgpt_dry_runs() -> None:
    output = shown("sft", *shlex.split(OF_MEDICALGPT), "learner.learning_rate=1e-4", "--dry-run")
    assert re.search(r"GPU 1 +│ learner 1 +│", output) and "batch: 64 sequences a step" in output
    assert re.search(r"lora_rank: 8 +model.lora.r: 8", output)
    assert re.search(r"learning_rate: 2e-05 +learner.learning_rate: 1e-4 +learner.learning_rate=1e-4 wins", output)
    assert "learning_rate: 0.0001" in output


@LINES
def test_what_is_written_is_what_runs(line: str, tmp_path: Path) -> None:
    written = tmp_path / "sft.yaml"
    assert f"train it with: rollcast sft {written}" in shown("convert", "--sft", *shlex.split(line), "-o", str(written))
    resolved = shown("sft", str(written), "--dry-run")
    assert shown("sft", *shlex.split(line), "--dry-run").endswith(resolved)


@LINES
def test_the_rows_are_found_and_imitated(line: str, tmp_path: Path) -> None:
    shown("convert", "--sft", *shlex.split(line), "-o", str(tmp_path / "sft.yaml"))
    here = ["data.eval_samples=0", "data.train_samples=-1"]  # of one row none can be spared
    config = load_sft_config(tmp_path / "sft.yaml", here)
    written = DemonstrationSource(config.data, build_tokenizer(), config.seed, tmp_path / "data").write()
    train = written.train
    assert train.counts.sequences == 1 and 0 < train.counts.trained_tokens < train.counts.tokens


def test_a_file_of_rollcast_runs_as_before() -> None:
    file = OPEN_R1.parents[3] / "configs" / "quickstart_sft.yaml"
    assert "address: head:6379" in shown("sft", str(file), "--dry-run", "--address", "head:6379", "out_dir=x")
    assert "rollcast sft --help" in refused("sft", str(file), "--bogus", "3", "--dry-run")
    assert "is a run of rollcast already" in refused("convert", "--sft", str(file))


def test_a_recipe_of_the_other_kind_names_its_command() -> None:
    grpo = str(ZERO2.parent / "openr1_distill_1.5b.yaml")
    assert "use rollcast train, or rollcast convert" in refused("sft", grpo, "--dry-run")
    assert "use rollcast train, or rollcast convert" in refused("convert", "--sft", grpo)
    assert "use rollcast sft, or rollcast convert --sft" in refused("train", str(OPEN_R1), "--dry-run")
    assert "use rollcast sft, or rollcast convert --sft" in refused("convert", str(OPEN_R1))


def test_help_tells_of_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = " ".join(shown("sft", "--help").split())
    assert "recipe of TRL, Open-R1 or MedicalGPT" in told and "--accelerate" in told
    assert "--sft" in shown("convert", "--help")


MODEL = ("--model_name_or_path", "builtin:tiny_qwen2")


def test_medicalgpts_own_script_dry_runs_with_a_model_that_can_be_trained(scripts: Path) -> None:
    """The model that the script names has linear attention, which packed rows do not support."""
    for name in ("run_sft.sh", "run_sft_accelerate.sh"):
        output = shown("sft", str(scripts / name), *MODEL, "--dry-run")
        assert "batch: 32 sequences a step; about 16 a rank on 2 ranks" in output and "messages_column: conversations" in output
    output = shown("sft", str(scripts / "run_sft.sh"), *MODEL, "--dry-run")
    assert re.search(r"tool_format: default +the model's own chat template renders tools", output)


def test_a_dry_run_refuses_a_template_that_a_folders_tokenizer_cannot_write(tmp_path: Path) -> None:
    settings = (
        f"{REPOSITORY}/configs/quickstart_sft.yaml",
        "data.path=talks",
        "data.messages_column=messages",
        "data.eval_samples=0",
        "--dry-run",
    )
    llama = rollcast("sft", *settings, "model.path=qwen_tiny", "model.chat_template=configs/templates/llama3.jinja").exception
    assert isinstance(
        llama, DataError
    ) and "the chat template writes <|start_header_id|>, <|end_header_id|>, <|eot_id|>, which qwen_tiny" in str(llama)
    gone = rollcast("sft", *settings, "model.chat_template=gone.jinja").exception
    assert isinstance(gone, DataError) and "'gone.jinja' is neither a Jinja template nor a readable file" in str(gone)
    shutil.copytree("qwen_tiny", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    bare = rollcast("sft", *settings, f"model.path={tmp_path / 'bare'}").exception
    assert isinstance(bare, DataError) and "the conversations in data.messages_column 'messages' need a chat template" in str(bare)
    assert "batch: " in shown("sft", *settings, "model.path=qwen_tiny")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "1+1?", "demonstration": "2"}\n')
    pairs = (f"data.path={tmp_path / 'pairs.jsonl'}", "data.messages_column=null")
    assert "batch: " in shown("sft", *settings, f"model.path={tmp_path / 'bare'}", *pairs)
