"""`rollcast data` and `rollcast data pass-rate`, as a person runs them: processes, files, a real tokenizer, and for pass rates real Ray and vLLM.

Protected here:
1. The counts add up to the rows, prompts are shown as the model reads them, and what a run would be refused for is said with exit code 1.
2. A run whose golds can never be read ends before Ray starts.
3. A pass rate is the mean of the reward over the completions to which it applies; what was measured is not measured again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.inspection.pass_rate import Measured
from cluster.inspection.show_data import show_data
from cluster.train.grpo import run_training
from configs.contracts.errors import DataError
from configs.recipes.command_line import load_run
from learner.model.tiny_model import create_tiny_model
from rewards.convention.per_completion import ARGUMENTS
from tests import REPOSITORY

ROWS = [{"question": f"What is {n}+{n}?", "answer": str(2 * n), "level": 9 - n, "rate": n / 10} for n in range(10)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_model(tmp_path_factory.mktemp("data") / "model", seed=0)


def write_rows(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_run(folder: Path, base: Path, rows: list[dict] = ROWS, **sections: dict[str, Any]) -> Path:
    """A run on the CPU over these rows."""
    tree: dict[str, Any] = {
        "model": {"path": str(base), "dtype": "float32", "lora": {"r": 8}},
        "data": {"path": write_rows(folder, rows), "prompt_column": "question", "max_prompt_length": 64, "eval_samples": 2},
        "actors": {"gpus_per_worker": 0, "num_generations": 2, "max_completion_length": 8, "max_num_seqs": 8},
        "learner": {"gpus_per_rank": 0, "train_batch_size": 4},
        "out_dir": str(folder / "run"),
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def rollcast(*arguments: str | Path, code: int = 0, timeout: float = 120) -> str:
    """What a command prints, on one line with single spaces."""
    command = [sys.executable, "-m", "cluster", *map(str, arguments)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return re.sub(r"\s+", " ", ran.stdout + ran.stderr)


def shown_of(run: Path, *overrides: str, examples: int = 1, refused: bool = False) -> str:
    """What `rollcast data` shows on a wide terminal, on one line with single spaces."""
    written = StringIO()
    fine = show_data(load_run([str(run), *overrides], None, Console(file=written)), examples, 1000, Console(file=written, width=400))
    assert fine != refused, written.getvalue()
    return re.sub(r"\s+", " ", written.getvalue())


def refused(run: Path, *overrides: str) -> str:
    """Train, and return the error that refused the run before Ray was started: such a run leaves no folder."""
    with pytest.raises(DataError) as caught:
        run_training(load_run([str(run), *overrides], None, Console(file=StringIO())))
    assert not (run.parent / "run").exists()
    return str(caught.value)


def test_the_data_of_a_run_are_shown(tmp_path: Path, model: Path):
    tainted = write_rows(tmp_path, [{"question": "one two three four five six seven eight"}], "tainted.jsonl")
    rows = [
        *ROWS,
        {"question": "one two three four five six seven eight nine", "answer": "1", "level": 0, "rate": 0.5},
        {"question": "1" * 100, "answer": "1", "level": 0, "rate": 0.5},
        {"question": "What?", "answer": "", "level": 0, "rate": 0.5},
    ]
    choice = {
        "eval_samples": 0,
        "pass_rate_column": "rate",
        "min_pass_rate": 0.05,
        "decontaminate": [tainted],
        "curriculum_column": "level",
    }
    shown = shown_of(write_run(tmp_path, model, rows, data=choice))
    assert "there 13 pass rate not in (0.05, any) -1 8 words in a row with" in shown
    assert "longer than 64 tokens -1 trained on 10" in shown
    assert "prompt 24 31 31 31 31 31 10 answer 0 1 2 2 2 2 10" in shown, "lengths in tokens; a character is a token here"
    assert "a step takes 2 prompts; an epoch has 5 steps, the run 5" in shown
    assert "rows.jsonl:11: " in shown and "has 'one two three four five six seven eight' too" in shown
    assert "ordered by level, ascending: 0 (0:12), 0 (0:9), 1 (0:8), 2 (0:7), 3 (0:6), ..." in shown
    assert (
        'accuracy reads the gold answer in answer: 1 of the first 10 cannot be read (9 number, 1 unreadable), and their groups would not be trained on: ""'
        in shown
    )
    assert "prompt 0:12, 24 tokens" in shown and "<|im_start|>user What?<|im_end|> <|im_start|>assistant" in shown
    assert "warning: 1 prompts have more than data.max_prompt_length 64 tokens and are left out" in shown


def test_a_prompt_has_a_panel_on_a_terminal_and_a_row_cannot_clear_it(tmp_path: Path, model: Path):
    rows = [{"question": f"How much is [red]{n} + {n}[/red]?", "answer": "2", "note": "\x1b[2J [/bold] :smile:"} for n in range(4)]
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None, emoji=False, soft_wrap=True)
    show_data(load_run([str(write_run(tmp_path, model, rows))], None, console), 1, 10, console)
    assert isinstance(console.file, StringIO)
    written = console.file.getvalue()
    (title,) = re.findall(r"^╭─ prompt 0:\d, \d+ tokens ─+╮$", written, re.MULTILINE)
    assert len(title) == 80 and re.search(r"│ How much is \[red\]\d \+ \d\[/red\]\?", written) and "\x1b" not in written
    assert re.search(r"│   note: ␛\[2J \[/bold\] :smile: +│", written)


def test_a_mixture_and_a_stream_are_shown(tmp_path: Path, model: Path):
    parts = [{"path": write_rows(tmp_path, ROWS, name), "weight": weight} for name, weight in (("a.jsonl", 0.5), ("b.jsonl", None))]
    mixture = {"datasets": parts, "test_split_size": 0.2}
    shown = shown_of(write_run(tmp_path, model, data={"path": None, "mixture": mixture}))
    assert "a.jsonl 10 5 33.3%" in shown and "b.jsonl 10 10 66.7%" in shown
    assert "there 15 held out -3" in shown
    streamed = write_run(tmp_path, model, data={"streaming": True, "shuffle_buffer_size": 4}, learner={"max_steps": 7})
    shown = shown_of(streamed)
    assert "the first 6 rows of" in shown and "read 6 held out -2 trained on 4" in shown
    assert "a step takes 2 prompts; 7 steps draw 14" in shown


def test_what_a_run_would_be_refused_for_ends_with_code_1(tmp_path: Path, model: Path):
    unreadable = [{**row, "answer": None} for row in ROWS]
    shown = shown_of(write_run(tmp_path, model, unreadable), refused=True)
    assert "warning: reward accuracy can read none of the first 8 gold answers (column answer)" in shown
    lacking = [{"question": "1+1?"} for _ in range(9)]
    shown = shown_of(write_run(tmp_path, model, lacking, data={"eval_samples": 0}), refused=True)
    assert "warning: accuracy needs the column solution or answer, but the data has no columns" in shown
    template = {"chat_template": "{{ messages[0].content }}<think>"}
    opened = write_run(tmp_path, model, model=template, rewards={"functions": ["accuracy", "format"]})
    assert "warning: the chat template ends the prompt with <think>, so that no completion can hold it" in shown_of(opened)
    assert "DataError: data.prompt_column 'prompt' is not in the data" in rollcast("data", opened, "data.prompt_column=prompt", code=2)


def test_a_recipe_is_looked_at_as_it_is(tmp_path: Path, model: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": str(model),
                "dataset_mixture": {"datasets": [{"id": write_rows(tmp_path, ROWS), "columns": ["question", "answer"], "weight": 0.5}]},
                "dataset_prompt_column": "question",
            }
        )
    )
    shown = rollcast("data", recipe, "--examples", "0", "--reward_funcs", "accuracy")
    assert "data.mixture.datasets" in shown
    assert "trained on 5" in shown


def test_prompts_that_begin_with_bos_twice_are_warned_about(tmp_path: Path, model: Path):
    template = "{{ '<|im_start|><|im_start|>' }}{{ messages[0].content }}"
    run = write_run(tmp_path, model, [{"question": f"{n}?", "answer": "1"} for n in range(9)], model={"chat_template": template})
    assert "begin with" not in shown_of(run), "a tokenizer without BOS"
    folder = tmp_path / "with_bos"
    from actors.prompts.rendering import load_tokenizer

    tokenizer = load_tokenizer(str(model))
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    assert "warning: prompts begin with <|im_start|> twice" in shown_of(run, f"model.path={folder}")


def test_a_run_whose_golds_can_never_be_read_ends_before_ray_starts(tmp_path: Path, model: Path):
    golds = [None, "", " ", *[None] * 7]
    run = write_run(tmp_path, model, [{**row, "answer": gold} for row, gold in zip(ROWS, golds, strict=True)], data={"shuffle": False})
    told = refused(run)
    assert told.startswith("reward accuracy can read none of the first 8 gold answers (column answer), so it would score nothing")
    assert told.count("\n  ") == 3 and "null" in told and "answer_style" in told


def test_columns_that_a_function_never_sees_are_named(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    shadowed = dict.fromkeys(ARGUMENTS, "own")
    run = write_run(tmp_path, model, [{**row, **shadowed, "answer": None} for row in ROWS])
    shown = shown_of(run, refused=True)
    refused(run)  # for its golds, before Ray starts
    started = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in ARGUMENTS:
        told = f"the data have a column '{name}', and rollcast gives rewards an argument of that name: a function of yours gets rollcast's"
        assert shown.count(f"warning: {told}") == 1 and started.count(f"WARNING: {told}") == 1
        assert f"data.columns={{{name}: my_{name}}}" in shown


def test_more_rows_than_there_are_end_before_ray_starts(tmp_path: Path, model: Path):
    told = refused(write_run(tmp_path, model), "data.train_samples=500")
    assert "has 10 rows, of which 2 are held out (data.eval_samples) and 500 are wanted for training" in told


def test_every_option_is_told():
    runner = CliRunner(env={"COLUMNS": "200"})
    help_text = "".join(runner.invoke(app, ["data", *command, "--help"]).output for command in ((), ("show",), ("pass-rate",)))
    for option in (
        "pass-rate",
        "--examples",
        "--golds",
        "--accelerate",
        "--output",
        "--num-generations",
        "--limit",
        "--reward",
        "--address",
    ):
        assert option in help_text


def test_pass_rates_are_kept_while_they_are_measured(tmp_path: Path):
    file = tmp_path / "rates.jsonl"
    measured = Measured(file, '"facts"')
    with measured.open() as log:
        measured.add(3, 0.5, log)
        measured.add(4, None, log)
    with file.open("a") as cut_off:
        cut_off.write("[5, 0.2")
    again = Measured(file, '"facts"')
    again.read()
    assert again.rates == {3: 0.5, 4: None}
    with again.open() as log:
        again.add(5, 1.0, log)
    third = Measured(file, '"facts"')
    third.read()
    assert third.rates == {3: 0.5, 4: None, 5: 1.0}
    others = Measured(file, '"other facts"')
    others.read()
    assert others.rates == {}


REWARD = """
def first_n(completions, level, **kwargs):
    \"\"\"The first `level` completions of a group pass; to level 9 it does not apply.\"\"\"
    assert len(completions) == 4
    return [None if level[0] == 9 else float(place < level[0]) for place in range(len(completions))]
"""


@pytest.mark.slow
def test_pass_rates_are_measured_and_filter_a_run(tmp_path: Path, model: Path):
    """The reward counts with the group, so that the rate of every row is known, whatever the model samples."""
    (tmp_path / "reward.py").write_text(REWARD)
    run = write_run(tmp_path, model, ROWS[:8], rewards={"functions": ["accuracy", f"{tmp_path}/reward.py:first_n"]})
    output = tmp_path / "rated.parquet"
    options = ("--num-generations", "4", "-o", output)
    assert "--reward secnd is not among the rewards" in rollcast("data", "pass-rate", run, "--reward", "secnd", *options, code=2)
    told = rollcast("data", "pass-rate", run, "--reward", "first_n", *options, timeout=400)
    assert "7 rows with pass_rate (mean of first_n over 4 completions)" in told
    assert "1 prompts are left out because first_n does not apply to them" in told
    import pyarrow.parquet as pq

    assert [(row["question"], row["pass_rate"]) for row in pq.read_table(output).to_pylist()] == [
        (row["question"], min(row["level"], 4) / 4) for row in ROWS[1:8]
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rated.parquet", "reward.py", "rows.jsonl", "run.yaml"]
    shown = shown_of(run, f"data.path={output}", "data.eval_samples=0", "data.min_pass_rate=0.1", "data.max_pass_rate=0.9")
    assert "pass rate not in (0.1, 0.9) -5 trained on 2" in shown


def test_columns_that_nothing_uses_are_told(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{**row, "id": f"r{row['level']}", "input": "an Alpaca half", "topic": "sums"} for row in ROWS]
    (tmp_path / "mine.py").write_text("def by_topic(completions, topic): return [1.0 for _ in completions]\n")
    (tmp_path / "other.py").write_text("def of_all(completions, **columns): return [1.0 for _ in completions]\n")

    def said(*functions: str) -> str:
        run = write_run(tmp_path, model, rows, rewards={"functions": list(functions)})
        show_data(load_run([str(run)], None, Console()), examples=0, golds=8, console=Console(width=400))
        return capsys.readouterr().out

    shown = said("accuracy", f"{tmp_path}/mine.py:by_topic")
    assert 'columns that nothing uses, with their first value: level (9), rate (0.0), id ("r9")\n' in shown
    assert "warning: column 'input' (first \"an Alpaca half\") is used by nothing; it is the second half of an Alpaca" in shown
    shown = said(f"{tmp_path}/other.py:of_all")
    assert "columns that nothing uses" not in shown
    assert "column 'input'" in shown
    (tmp_path / "mine.py").write_text("def by_topic(completions, topics): return [1.0 for _ in completions]\n")
    assert "warning: reward mine.py:by_topic cannot be called without topics" in said(f"{tmp_path}/mine.py:by_topic").replace(
        f"{tmp_path}/", ""
    )
