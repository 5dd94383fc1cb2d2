"""The reward reasoning_gym: the package's own verifiers, and what of an answer they may run."""

from __future__ import annotations

import ast
import importlib.util
import json
import warnings
from pathlib import Path

import pytest

from configs.contracts.errors import ConfigError, RewardError
from configs.contracts.reasoning_entry import entry_text
from configs.schema.rewards import RewardsSection
from rewards import load
from rewards.convention.group_input import GroupInput
from rewards.functions.reasoning_task import EVALUATED, PARSED_BY_SYMPY, ReasoningGym
from rewards.grading.golds import check_golds
from tests import REPOSITORY

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from reasoning_gym.factory import DATASETS, create_dataset

SLOW = frozenset({"knight_swap"})
"""Tasks whose rows take a second each."""


def problem(task: str, index: int = 0, **settings: object) -> tuple[str, dict[str, object]]:
    """A row of a task as the data have it, and its entry as reasoning-gym made it."""
    entry = create_dataset(task, size=index + 1, seed=3, **settings)[index]
    return json.loads(json.dumps(entry_text(task, settings, entry))), entry


def value(text: str, row: str) -> tuple[float | None, str]:
    reward = ReasoningGym()
    grade = reward.grade(GroupInput("", [text], [], {"reasoning_gym": row}, 0), 0)
    return grade.value, grade.outcome


@pytest.mark.parametrize("task", sorted(set(DATASETS) - {"composite"} - SLOW))
def test_every_task_judges_its_own_answer_as_reasoning_gym_does(task: str) -> None:
    for row, entry in (problem(task, 0), problem(task, 1)):
        answer = entry["answer"]
        if answer is None:
            assert value("<answer>no idea</answer>", row)[0] is not None
            continue
        assert value(f"<think>x</think><answer>{answer}</answer>", row) == (1.0, "scored")
        assert (value("<answer>no idea</answer>", row)[0] or 0.0) < 1.0 or task == "game_of_life_halting"
        assert value("", row) == value("<think>", row) == (0.0, "unparsable_answer")


def test_values_between_0_and_1_are_the_verifiers() -> None:
    row, _ = problem("countdown")
    assert value("<answer>1+1</answer>", row) == (0.05, "scored")
    row, entry = problem("chain_sum")
    assert value(f"It is {entry['answer']}.", row)[0] == pytest.approx(len(str(entry["answer"])) / len(f"It is {entry['answer']}."))


def test_an_answer_that_the_verifier_cannot_read_is_wrong_and_no_failure() -> None:
    row, _ = problem("prime_factorization")
    assert value("<answer>foo</answer>", row) == (0.0, "unparsable_answer")
    broken = json.loads(row)
    broken["entry"]["metadata"], broken["entry"]["answer"] = {}, "2 x x"
    with pytest.raises(ValueError):  # here the row is at fault: the grade is `crashed`
        value("<answer>foo</answer>", json.dumps(broken))


ATTACKS = (
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w')",
    "[].__class__.__base__.__subclasses__()",
    "(lambda: open('{file}', 'w'))()",
    "[open('{file}', 'w') for _ in '1']",
    "sqrt(\"open('{file}', 'w')\")",
    "Integer(\"open('{file}', 'w')\")",
    "sqrt(x=\"open('{file}', 'w')\")",
    "(open('{file}', 'w'))!",
    "exec(\"open('{file}', 'w')\")",
    "f\"{{open('{file}', 'w')}}\"",
    "(y := open('{file}', 'w'))",
    "1 + sympify(\"open('{file}', 'w')\")",
    "\"open('{file}', 'w')\"",
    "[\"open('{file}', 'w')\"]",
    "abs(*[open('{file}', 'w')])",
    "open('{file}', 'w') if 1 else 2",
    "{{'a': open('{file}', 'w')}}",
    "  \n open('{file}', 'w')",
    "ｏｐｅｎ('{file}', 'w')",
)


@pytest.mark.parametrize("task", sorted(EVALUATED | PARSED_BY_SYMPY))
def test_no_answer_runs_as_a_program(task: str, tmp_path: Path) -> None:
    row, _ = problem(task)
    for number, attack in enumerate(ATTACKS):
        file = tmp_path / str(number)
        given = value(f"<answer>{attack.format(file=file)}</answer>", row)
        assert not file.exists() and (given[0] or 0.0) < 0.1, attack


@pytest.mark.parametrize(
    ("task", "key"), [("number_sorting", "answer"), ("polynomial_multiplication", "answer"), ("simple_integration", "integrand")]
)
def test_no_row_runs_as_a_program(task: str, key: str, tmp_path: Path) -> None:
    row, entry = problem(task)
    poisoned = json.loads(row)
    place = poisoned["entry"] if key == "answer" else poisoned["entry"]["metadata"]
    assert key in place
    place[key] = f"open({str(tmp_path / 'file')!r}, 'w')"
    with pytest.raises(RewardError, match="the column reasoning_gym holds a program"):
        value(f"<answer>{entry['answer']}</answer>", json.dumps(poisoned))
    assert not list(tmp_path.iterdir())


def test_the_verifiers_would_run_them(tmp_path: Path) -> None:
    """Without our guard these files are written: the attacks of the test above are real."""
    for task in ("string_insertion", "countdown"):
        file = tmp_path / task
        dataset = create_dataset(task, size=1, seed=3)
        dataset.score_answer(f"open({str(file)!r}, 'w')", dataset[0])
        assert file.exists()


def test_arithmetic_and_lists_are_still_judged() -> None:
    row, entry = problem("string_insertion")
    assert value(f"<answer>{list(str(entry['answer']))}</answer>", row) == (0.1, "scored")
    row, entry = problem("spiral_matrix")
    assert value(f"<answer>{entry['answer']}</answer>", row) == (1.0, "scored")  # no Python: "1 2 3"
    row, entry = problem("simple_integration")
    assert value(f"<answer>{entry['answer']}</answer>", row)[0] == 1.0


def test_the_tables_of_verifiers_that_run_answers_are_complete() -> None:
    """A new version of the package may have another one."""
    spec = importlib.util.find_spec("reasoning_gym")
    assert spec is not None and spec.origin is not None
    found = set()
    for task, (kind, _) in DATASETS.items():
        module = importlib.util.find_spec(kind.__module__)
        assert module is not None and module.origin is not None
        for node in ast.walk(ast.parse(Path(module.origin).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "score_answer":
                calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
                names = {called.id if isinstance(called, ast.Name) else getattr(called, "attr", "") for called in calls}
                if names & {"eval", "exec", "compile", "parse_expr", "sympify", "S", "literal_eval", "lambdify", "loads_pickle"}:
                    found.add(task)
    assert found == EVALUATED | PARSED_BY_SYMPY


def test_a_loaded_reward_has_a_deadline_and_reads_columns_of_rows() -> None:
    row, entry = problem("chain_sum")
    reward = load("reasoning_gym", grading_timeout_s=5)
    assert reward(completions=[str(entry["answer"]), "x"], reasoning_gym=[row, row]) == [1.0, 0.0]
    bomb, _ = problem("countdown")
    assert load("reasoning_gym", grading_timeout_s=2)(completions=["9**9**9**9"], reasoning_gym=[bomb]) in ([None], [0.01], [0.05])


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(RewardError, match="reasoning_gym needs the column reasoning_gym, but the data has solution"):
        load("reasoning_gym")(completions=["x"], solution=["x"])
    with pytest.raises(RewardError, match="the column reasoning_gym holds 'x', which data.path: reasoning_gym:TASK did not write"):
        load("reasoning_gym")(completions=["x"], reasoning_gym=["x"])
    with pytest.raises(ConfigError, match="answer_style 'latex' is unknown"):
        load("reasoning_gym", answer_style="latex")
    assert value("x", "") == (None, "unparsable_gold")


def test_graders_check_the_problems_before_a_run() -> None:
    row, _ = problem("chain_sum")
    section = RewardsSection.model_validate({"functions": ["reasoning_gym"]})
    (check,) = check_golds(section, [{"reasoning_gym": row}, {"reasoning_gym": None}])
    assert check.columns == ("reasoning_gym",) and check.unreadable == (1,)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'rollcast\[reasoning-gym\]'"):
        ReasoningGym().check_host()


def test_the_extra_pins_the_version_whose_verifiers_were_read() -> None:
    assert '"reasoning-gym==0.1.25"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
