"""Rows of reasoning-gym's tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.rows.named_sets import load_named_or_path, require_named_or_path
from actors.rows.sources import mix, open_held_out, open_rows, require_source
from configs.contracts.errors import DataError
from configs.contracts.reasoning_entry import entry_text, read_entry
from configs.schema.data import DataSection
from configs.schema.sources import MixtureSection
from tests import REPOSITORY

CHAIN_SUM = "reasoning_gym:chain_sum"


def section(path: str = CHAIN_SUM, task: Mapping[str, object] | None = None, **keys: object) -> DataSection:
    return DataSection.model_validate({"path": path, **({"task": task} if task is not None else {}), **keys})


def test_a_task_has_rows_with_prompt_solution_and_what_its_verifier_needs(tmp_path: Path) -> None:
    rows, parts = open_rows(section(task={"size": 30, "settings": {"min_terms": 2, "max_terms": 2, "max_digits": 1}}), tmp_path, seed=3)
    assert (rows.columns, len(rows), parts) == (("prompt", "solution", "task", "difficulty", "reasoning_gym"), 30, ())
    row = rows.row(7)
    problem = read_entry(str(row["reasoning_gym"]))
    assert (row["task"], row["difficulty"], row["solution"]) == ("chain_sum", 0, problem.entry["answer"])
    assert row["prompt"] == problem.entry["question"] and problem.entry["metadata"]["num_terms"] == 2
    assert problem.settings == {"min_terms": 2, "max_terms": 2, "max_digits": 1}


def test_the_same_seed_makes_the_same_rows_and_another_others(tmp_path: Path) -> None:
    one, again, other = (open_rows(section(), tmp_path / str(number), seed)[0] for number, seed in enumerate((3, 3, 4)))
    assert len(one) == 1000
    prompts = [[str(rows.row(index)["prompt"]) for index in range(50)] for rows in (one, again, other)]
    assert prompts[0] == prompts[1] and len(set(prompts[0]) & set(prompts[2])) < 10
    fixed = [open_rows(section(task={"seed": 5, "size": 4}), tmp_path / f"fixed{seed}", seed)[0].row(0) for seed in (3, 4)]
    assert fixed[0] == fixed[1]


def test_rows_of_a_run_are_kept_in_its_folder_and_not_made_again(tmp_path: Path) -> None:
    """Some tasks depend on the order of sets, which differs between processes: a resumed run must have the rows it began with."""
    data = section("reasoning_gym:word_ladder", task={"size": 3})
    made = open_rows(data, tmp_path, seed=1)[0]
    program = (
        "import sys; from pathlib import Path; from actors.rows.sources import open_rows; from configs.schema.data import DataSection\n"
        "data = DataSection.model_validate({'path': 'reasoning_gym:word_ladder', 'task': {'size': 3}})\n"
        "print([open_rows(data, Path(sys.argv[1]), 1)[0].row(index) for index in range(3)])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=REPOSITORY, env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str([made.row(index) for index in range(3)])
    assert [file.suffix for file in tmp_path.iterdir()] == [".jsonl"]


def test_levels_become_a_column_of_difficulty(tmp_path: Path) -> None:
    data = section(task={"size": 11, "levels": [0, 3], "settings": {"allow_negation": True}}, curriculum_column="difficulty")
    rows, _ = open_rows(data, tmp_path, seed=0)
    assert [rows.row(index)["difficulty"] for index in range(11)] == [0] * 6 + [3] * 5
    terms = [read_entry(str(rows.row(index)["reasoning_gym"])).entry["metadata"]["num_terms"] for index in range(11)]
    assert set(terms[:6]) == {2} and max(terms[6:]) > 2
    assert len({str(rows.row(index)["prompt"]) for index in range(11)}) == 11


def test_settings_win_over_those_of_a_level(tmp_path: Path) -> None:
    rows, _ = open_rows(section(task={"size": 20, "levels": [5], "settings": {"max_terms": 2}}), tmp_path, seed=0)
    assert {read_entry(str(rows.row(index)["reasoning_gym"])).entry["metadata"]["num_terms"] for index in range(20)} == {2}


def test_held_out_rows_of_the_same_task_are_others(tmp_path: Path) -> None:
    for task in ({"size": 20}, {"size": 20, "seed": 9}):
        data = section(task=task, eval_path=CHAIN_SUM)
        training, held_out = open_rows(data, tmp_path, seed=0)[0], open_held_out(data, tmp_path, seed=0)
        prompts = [{str(rows.row(index)["prompt"]) for index in range(20)} for rows in (training, held_out)]
        assert len(held_out) == 20 and len(prompts[0] & prompts[1]) < 5


def test_a_task_is_an_evaluation_set(tmp_path: Path) -> None:
    (rows, column), (again, _) = load_named_or_path(CHAIN_SUM), load_named_or_path(CHAIN_SUM)
    assert column == "prompt" and len(rows) == 1000 and rows.row(999) == again.row(999)
    training, _ = open_rows(section(), tmp_path, seed=0)
    prompts = [[str(each.row(index)["prompt"]) for index in range(1000)] for each in (rows, training)]
    assert prompts[0] != prompts[1] and require_named_or_path(CHAIN_SUM) is None
    with pytest.raises(DataError, match="did you mean reasoning_gym:chain_sum"):
        require_named_or_path("reasoning_gym:chain_sums")


def test_a_mixture_may_have_tasks(tmp_path: Path) -> None:
    parts = [{"path": CHAIN_SUM, "task": {"size": 5}}, {"path": "reasoning_gym:gcd", "task": {"size": 7}}]
    rows, counts = mix(MixtureSection.model_validate({"datasets": parts}), tmp_path, seed=0)
    assert [count.kept for count in counts] == [5, 7]
    assert sorted(str(rows.row(index)["task"]) for index in range(12)) == ["chain_sum"] * 5 + ["gcd"] * 7


@pytest.mark.parametrize(
    ("path", "task", "message"),
    [
        ("reasoning_gym:chain_sums", {}, r"reasoning-gym has no task 'chain_sums'; did you mean reasoning_gym:chain_sum\?"),
        ("reasoning_gym:composite", {}, "reasoning-gym has no task 'composite'"),
        ("reasoning_gym:", {}, "the tasks are ab, acre, "),
        (CHAIN_SUM, {"settings": {"max_term": 3}}, r"reasoning_gym:chain_sum has no setting 'max_term'; did you mean 'max_terms'\?"),
        (CHAIN_SUM, {"settings": {"colour": 3}}, "has no setting 'colour'; it has min_terms, max_terms"),
        (
            CHAIN_SUM,
            {"settings": {"size": 3}},
            "data.task.settings.size of reasoning_gym:chain_sum: this is a key of its own; write data.task.size",
        ),
        (CHAIN_SUM, {"settings": {"min_terms": 9, "max_terms": 3}}, "reasoning-gym refuses them: .*max_terms"),
        (CHAIN_SUM, {"settings": {"min_terms": "many"}}, "reasoning-gym refuses them"),
        (CHAIN_SUM, {"levels": [0, 99]}, "reasoning_gym:chain_sum has no level 99; the highest is 10"),
        (CHAIN_SUM, {"levels": [0, 1, 2], "size": 2}, "data.task.size 2 is less than the 3 levels"),
        ("reasoning_gym:word_ladderr", {}, "did you mean reasoning_gym:word_ladder"),
        ("reasoning_gym:acre", {"levels": [0]}, "reasoning_gym:acre has no levels"),
    ],
)
def test_wrong_tasks_and_settings_are_refused_before_rows_are_made(path: str, task: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_source(section(path, task=task).part, "data.split")


def test_settings_that_leave_nothing_to_choose_from_are_refused(tmp_path: Path) -> None:
    data = section("reasoning_gym:spell_backward", task={"size": 3, "settings": {"min_word_len": 2, "max_word_len": 2}})
    with pytest.raises(DataError, match="reasoning_gym:spell_backward: reasoning-gym cannot make row 0 with them: IndexError"):
        open_rows(data, tmp_path, seed=0)
    with pytest.raises(DataError, match="cannot make row 0"):  # also the second time: no half a file is left to be read
        open_rows(data, tmp_path, seed=0)


def test_a_task_without_its_path_is_refused() -> None:
    with pytest.raises(ValidationError, match="task with path openai/gsm8k: it makes the rows of reasoning_gym:TASK only"):
        section("openai/gsm8k", task={"size": 3})
    with pytest.raises(ValidationError, match="task with path a.jsonl"):
        MixtureSection.model_validate({"datasets": [{"path": "a.jsonl", "task": {"size": 3}}]})
    with pytest.raises(ValidationError, match="task with mixture"):
        DataSection.model_validate({"mixture": {"datasets": [{"path": CHAIN_SUM}]}, "task": {"size": 3}})


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DataError,
        match=r"reasoning_gym:chain_sum needs the package reasoning-gym, which is not installed; pip install 'rollcast\[reasoning-gym\]'",
    ):
        require_source(section().part, "data.split")


def test_problems_travel_as_text_that_tells_tuples_from_lists() -> None:
    entry = {"question": "q", "answer": None, "metadata": {"board": ((1, 2), [3, (4,)]), "n": 3, "text": "孕"}}
    problem = read_entry(entry_text("arc_agi", {"rotations": ["90"], "size_range": (1, 2)}, entry))
    assert problem.entry == entry and problem.settings == {"rotations": ["90"], "size_range": (1, 2)}
    for text in ("", "x", "[]", "{}", json.dumps({"task": 1, "settings": {}, "entry": {}})):
        with pytest.raises(ValueError):
            read_entry(text)
