"""`rollcast score`, as a user runs it: real files, real graders, the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.inspection.rescoring import settings_beside
from cluster.output.completions import completion_rows, table_of, write_completions
from configs.contracts.records import Grades, GroupSummary, PromptId, ScoredGroup, Scores
from tests import REPOSITORY
from tests.bodies import NO_BODY
from tests.rewards.groups import rollout_group

ATTACKS = "tests/rewards/attacks.py"


def rollcast_score(*arguments: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "cluster", "score", *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def cells(output: str, reward: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.strip("│┃ ").startswith(reward)]
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


@pytest.fixture
def of_a_run(tmp_path: Path) -> Path:
    """Completions as a run writes them: two groups, of which the recorded accuracy of one completion is wrong."""
    groups, bodies = [], []
    for index, (solution, texts_G) in enumerate(
        [("4", ["<answer>4</answer>", "<answer>5</answer>"]), ("9", ["<answer>9</answer>", "nine"])]
    ):
        body = rollout_group(texts_G, index=index, conversational=True, solution=solution, step="a column of the data of that name")
        column = Grades((1.0, 1.0), ("scored", "scored"))
        scores = Scores(PromptId(0, index), 0, (1.0, 1.0), {"accuracy": column}, 0.1)
        summary = GroupSummary(PromptId(0, index), 0, 2, (2, 2), (False, False), 0, 0, "rollout-0", 0.1)
        groups.append(ScoredGroup(NO_BODY, summary, scores))
        bodies.append(body.table)
    return write_completions(tmp_path, 3, completion_rows(3, groups, bodies, {}))


def test_the_completions_of_a_run_are_scored_again(of_a_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "scored.parquet"
    said = rollcast_score(
        "accuracy", "tag_count", "--completions", str(of_a_run), "--param", "accuracy.answer_style=answer_tag", "--output", str(output)
    )
    assert cells(said, "accuracy")[1:4] == ["1", "0.5000", "0.5000"]
    assert cells(said, "accuracy")[-1] == "2", "the file records 1.0 for all four"
    assert "4 completions in" in said
    rows = pq.read_table(output).to_pylist()
    assert [row["rewards/accuracy"] for row in rows] == [1.0, 0.0, 1.0, 0.0]
    assert [row["outcomes/accuracy"] for row in rows] == ["scored", "scored", "scored", "unparsable_answer"]
    assert [row["reward"] for row in rows] == [1.0, 0.0, 1.0, 0.0]
    assert rows[0]["completion"] == "<answer>4</answer>"


def test_a_function_sees_what_it_saw_in_the_run(of_a_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\n"
        "def seen(completions, prompts, solution, step, completion_ids, trainer_state, **rest):\n"
        "    print('SEEN', json.dumps([completions[0], prompts[0], solution, step, completion_ids, trainer_state.global_step, sorted(rest)]))\n"
        "    return [1.0, None]\n"
    )
    said = rollcast_score(f"{file}:seen", "--completions", str(of_a_run), "--graders", "1")
    (first, *_) = [json.loads(line.removeprefix("SEEN ")) for line in said.splitlines() if line.startswith("SEEN ")]
    assert first == [
        [{"role": "assistant", "content": "<answer>4</answer>"}],
        [{"role": "user", "content": "2+2?"}],
        ["4", "4"],
        ["a column of the data of that name"] * 2,
        [[5, 6], [5, 6]],
        3,
        ["log_extra", "log_metric"],
    ]
    assert "skipped" in said


def test_failures_are_counted_shown_and_are_the_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": prompt, "text": text}) + "\n" for prompt, text in [("p", "attack"), ("p", "b"), ("q", "c")])
    )
    said = rollcast_score(f"{ATTACKS}:exit_now", "format", "--completions", str(file), "--completion-column", "text", expect=1)
    assert cells(said, "exit_now")[4:6] == ["1", "2"], "q's completion is scored; p's group crashed"
    assert "its process exited with code 3" in said
    assert cells(said, "format")[4:6] == ["3", "0"]


def test_a_runs_configuration_gives_weights_and_parameters(of_a_run: Path) -> None:
    said = rollcast_score("--completions", str(of_a_run), "--config", "configs/quickstart.yaml")
    assert [cells(said, name)[1] for name in ("accuracy", "format", "tag_count")] == ["1", "0.5", "0.5"]
    assert cells(said, "accuracy")[2] == "0.5000"


def test_completions_of_a_run_are_scored_as_the_run_scored_them(of_a_run: Path) -> None:
    """The gold is in another column than the default, and the answer in tags: with default parameters nothing could be judged."""
    functions = "[{name: accuracy, weight: 2, params: {answer_style: answer_tag}}, tag_count]"
    (of_a_run.parent / "config.yaml").write_text(f"model: {{path: m}}\ndata: {{path: d}}\nrewards: {{functions: {functions}}}\n")
    said = rollcast_score("accuracy", "--completions", str(of_a_run))
    assert cells(said, "accuracy")[1:3] == ["2", "0.5000"]
    assert said.count(f"are those of {of_a_run.parent / 'config.yaml'}; --param and --config overrule them") == 1
    assert cells(rollcast_score("--completions", str(of_a_run.parent / of_a_run.name)), "tag_count")[1] == "1", "no name: those of the run"
    other = rollcast_score("accuracy", "--completions", str(of_a_run), "--param", "accuracy.answer_style=latex")
    assert cells(other, "accuracy")[1:3] == ["2", "0.0000"]
    assert "are those of" not in rollcast_score("--completions", str(of_a_run), "--config", "configs/quickstart.yaml")


def test_settings_that_cannot_be_read_are_said(of_a_run: Path) -> None:
    (of_a_run.parent / "config.yaml").write_text("rewards: {fnuctions: []}\n")
    said = rollcast_score("tag_count", "--completions", str(of_a_run))
    assert "WARNING: the rewards get default parameters, not those of the run" in said and cells(said, "tag_count")[1] == "1"


@pytest.mark.parametrize(
    ("folder", "found"), [("completions", True), ("evaluations/step-000050", True), ("a/b/c/d", False)]
)  # fmt: skip
def test_the_settings_are_found_in_the_folders_above(tmp_path: Path, folder: str, found: bool) -> None:
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / folder).mkdir(parents=True)
    for path in (tmp_path / folder, tmp_path / folder / "step-000001.parquet"):
        assert settings_beside(path) == (tmp_path / "config.yaml" if found else None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["accuracy"], "no column 'completion'; it has prompt, text: name the column of the completions with --completion-column"),
        (["acuracy"], "did you mean 'accuracy'"),
        (["accuracy", "--completion-column", "text"], "accuracy needs the column solution or answer, but the data has no columns"),
        ([], "no reward is named"),
        (["format", "--param", "accuracy.answer_style=latex"], "is not reward.parameter=value for one of the rewards format"),
        (["format", "--param", "format.layuot=inline"], "did you mean 'layout'"),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"prompt": "p", "text": "t"}\n')
    assert message in rollcast_score(*arguments, "--completions", str(file), expect=2)


def test_columns_without_a_common_type_are_kept_as_json() -> None:
    table = table_of([{"a": 1, "b": [1]}, {"a": "x", "b": None}])
    assert table.to_pylist() == [{"a": "1", "b": [1]}, {"a": '"x"', "b": None}]


def test_each_row_has_its_own_gold_though_prompts_are_equal(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2+2?", "solution": gold, "completion": f"\\boxed{{{answer}}}"} for gold, answer in [("4", "4"), ("5", "5"), ("6", "4")]
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def mine(completions, solution, **kwargs):\n    return [float(gold in said) for gold, said in zip(solution, completions)]\n"
    )
    said = rollcast_score("accuracy", f"{tmp_path}/mine.py:mine", "--completions", str(tmp_path / "rows.jsonl"))
    assert cells(said, "accuracy")[2] == cells(said, "mine")[2] == "0.6667"


def test_completions_of_one_prompt_are_one_group_though_columns_differ_that_no_reward_reads(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2?", "solution": "4", "id": number, "completion": "x" * number + "\\boxed{4}"} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cells(rollcast_score("length", "--completions", str(tmp_path / "rows.jsonl")), "length")[2:4] == ["0.0000", "0.4082"]
