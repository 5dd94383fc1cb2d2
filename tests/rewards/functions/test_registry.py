"""Names to functions, and what is refused before anything starts."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, DataError
from configs.schema.reward_names import _NEAREST, other_reward
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import BUILTINS
from tests import REPOSITORY

USER_FILE = """
import functools
from helper_beside import BONUS

def length(completions, scale=1.0, **kwargs):
    return [scale * len(completion) + BONUS for completion in completions]

class Constant:
    def __init__(self, value=1.0):
        self.value = value
        self.__name__ = "constant"
    def __call__(self, completions, **kwargs):
        return [self.value] * len(completions)

half = functools.partial(length, scale=0.5)
number = 3
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside.py").write_text("BONUS = 10.0\n")
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


def section(*functions: object) -> RewardsSection:
    return RewardsSection.model_validate({"functions": functions})


def test_functions_classes_and_partials_of_a_file(user_file: Path) -> None:
    assert load(f"{user_file}:length")(completions=["ab"]) == [12.0]
    assert load(f"{user_file}:length", scale=2.0)(completions=["ab"]) == [14.0]
    assert load(f"{user_file}:half")(completions=["ab"]) == [11.0]
    assert load(f"{user_file}:Constant", value=7.0)(completions=["ab"]) == [7.0]


def test_a_callable_and_a_module() -> None:
    assert load(functools.partial(max, default=1.0))([3, 4]) == 4
    assert load("statistics:fmean")([1, 2]) == 1.5


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("acuracy", {}, "reward 'acuracy' is unknown; did you mean 'accuracy'"),
        ("accuracy", {"answer_stile": "auto"}, "no parameter 'answer_stile'; did you mean 'answer_style'"),
        ("tag_count", {"x": 1}, "no parameter 'x'; it has none"),
        ("fluency", {"language": "de"}, "fluency: language 'de' is unknown"),
        ("soft_overlong_punishment", {"max_completion_len": 8, "soft_punish_cache": 9}, "soft_punish_cache 9 is more than"),
        ("nowhere.py:f", {}, "reward file nowhere.py is not there"),
        ("no_such_module_x.y:f", {}, "no module 'no_such_module_x'"),
        (":f", {}, "has no module"),
        ("statistics:", {}, "has no function"),
        ("some/folder:f", {}, "neither a module nor a .py file"),
    ],
)
def test_wrong_names_and_parameters_are_refused_at_once(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(section({"name": name, "params": params}))


@pytest.mark.parametrize(
    ("elsewhere", "ours"),
    [
        ("len", "length"),
        ("len_reward", "length"),
        ("accuracy_reward", "accuracy"),
        ("reasoning_accuracy_reward", "reasoning_accuracy"),
        ("format_reward", "format"),
        ("think_format_reward", "think_format"),
        ("tag_count_reward", "tag_count"),
        ("reasoning_steps_reward", "reasoning_steps"),
        ("cosine_scaled", "cosine"),
        ("cosine_scaled_reward", "cosine"),
        ("get_cosine_scaled_reward", "cosine"),
        ("repetition_penalty_reward", "repetition_penalty"),
        ("get_repetition_penalty_reward", "repetition_penalty"),
        ("get_code_format_reward", "code_format"),
        ("get_soft_overlong_punishment", "soft_overlong_punishment"),
        ("soft_overlong_punishment_reward", "soft_overlong_punishment"),
        ("soft_overlong", "soft_overlong_punishment"),
        ("AccuracyReward", "accuracy"),
        ("acc", "accuracy"),
        ("math_accuracy", "accuracy"),
        ("MathAccuracy", "accuracy"),
        ("rouge", "rouge_l"),
        ("rougeL", "rouge_l"),
        ("ROUGE-L", "rouge_l"),
        ("rouge_l_reward", "rouge_l"),
        ("f1", "text_f1"),
        ("F1_score", "text_f1"),
        ("token-f1", "text_f1"),
        ("mcq", "choice"),
        ("mcq_reward_func", "choice"),
        ("multiple_choice", "choice"),
        ("contains", "contains_gold"),
        ("xmlcount_reward_func", "tag_count"),
        ("soft_format_reward_func", "format"),
        ("strict_format_reward_func", "format"),
        ("repetition", "repetition_penalty"),
        ("cosine_scaled_reward_func", "cosine"),
        ("RepetitionPenalty", "repetition_penalty"),
        ("external_code_reward", "code"),
        ("multiple_choise", "choice"),
    ],
)
def test_names_of_other_systems_are_suggested_and_not_accepted(elsewhere: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"reward '{elsewhere}' is unknown; did you mean '{ours}'?"):
        load(elsewhere)


@pytest.mark.parametrize(
    ("elsewhere", "sentence"),
    [
        ("exact_match", "use accuracy, which compares a gold that is text as text"),
        ("EM", "use accuracy, which compares a gold that is text as text"),
        ("correctness_reward_func", "use accuracy with params: {answer_style: answer_tag}"),
        ("int_reward_func", "use accuracy with params: {answer_style: answer_tag}"),
        ("bleu", "there is no BLEU: use rouge_l or text_f1"),
        ("rouge2", "only ROUGE-L is built in: use rouge_l"),
        ("reward_model", "write a function that calls it, and list it as path/to/file.py:function"),
    ],
)
def test_what_other_systems_have_and_rollcast_has_not_is_answered_with_what_there_is(elsewhere: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load(elsewhere)


def test_names_of_other_systems_lead_to_rewards_that_exist() -> None:
    for name in _NEAREST:
        answer = other_reward(name, BUILTINS)
        assert name not in BUILTINS and (
            answer.startswith("; did you mean") or any(f"{ours}" in answer for ours in BUILTINS) or ".py:function" in answer
        )


@pytest.mark.parametrize("name", BUILTINS)
def test_every_builtin_has_its_name_and_can_be_made_of_nothing(name: str) -> None:
    assert load(name).__name__ == name


OVER_TEXT = (
    *("accuracy", "reasoning_accuracy", "format", "think_format", "tag_count", "reasoning_steps", "code_format"),
    *("length", "cosine", "soft_overlong_punishment", "repetition_penalty", "fluency"),
    *("text_f1", "rouge_l", "contains_gold"),
)


@pytest.mark.parametrize("name", OVER_TEXT)
def test_chat_messages_score_as_plain_text_does(name: str) -> None:
    texts = ["<think>\n1. a b c a b c\n</think>\n<answer>\n\\boxed{4}\n```python\n```\n</answer>", "<think>First, \\boxed{5}", ""]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    reward = load(name, **({"max_completion_len": 8} if name == "soft_overlong_punishment" else {}))
    columns = {"solution": ["4"] * 3, "completion_ids": [[1] * 7, [2] * 3, []]}
    plain = reward(completions=texts, prompts=["p"] * 3, **columns)
    assert reward(completions=chats, prompts=[[{"role": "user", "content": "p"}]] * 3, **columns) == plain
    assert len(set(plain)) > 1, "else the completions are not told apart"


def test_what_a_reward_takes_from_the_run_is_filled_in_where_it_is_absent() -> None:
    rewards = section("accuracy", "soft_overlong_punishment")
    resolved = rewards.resolved(2048)
    assert [spec.params for spec in resolved.functions] == [{}, {"max_completion_len": 2048}]
    assert [spec.params for spec in rewards.functions] == [{}, {}]
    cache = {"max_completion_len": None, "soft_punish_cache": 16}
    (spec,) = section({"name": "soft_overlong_punishment", "weight": 0.5, "params": cache}).resolved(64).functions
    assert (spec.weight, spec.params) == (0.5, {"max_completion_len": 64, "soft_punish_cache": 16})
    own = section({"name": "soft_overlong_punishment", "params": {"max_completion_len": 100}}, "format")
    assert own.resolved(2048) == own


def test_which_rewards_need_token_ids() -> None:
    def need(name: str, **params: Any) -> bool:
        reward = load(name, **params)
        assert isinstance(reward, PerCompletionReward)
        return reward.needs_token_ids

    assert [name for name in BUILTINS if need(name)] == ["soft_overlong_punishment"]
    assert need("length", unit="tokens") and need("cosine", unit="tokens")
    assert need("repetition_penalty", language="tokens") and need("fluency", language="tokens")


def test_a_missing_function_is_found_without_running_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def length(completions): ...\nraise SystemExit\n")
    validate(section(f"{path}:length"))
    with pytest.raises(ConfigError, match="defines no 'lenght'; did you mean 'length'"):
        validate(section(f"{path}:lenght"))
    path.write_text("def length(:\n")
    with pytest.raises(ConfigError, match="is not Python"):
        validate(section(f"{path}:length"))


@pytest.mark.parametrize(
    "content",
    [
        "globals()['dyn'] = len\n",
        "import sys\nsetattr(sys.modules[__name__], 'dyn', len)\n",
        "exec('def dyn(completions): ...')\n",
        "def __getattr__(name):\n    return len\n",
        "# -*- coding: latin-1 -*-\nname = '\u00e9'\ndef dyn(completions): ...\n",
    ],
)
def test_a_name_that_the_import_finds_is_not_refused_before_it(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content, encoding="latin-1")
    validate(section(f"{path}:dyn"))
    assert callable(load(f"{path}:dyn"))


def test_a_parameter_that_a_function_does_not_take_is_named(user_file: Path) -> None:
    user_file.write_text("import functools\ndef ok(completions, scale=1.0): ...\nhalf = functools.partial(ok, scale=0.5)\n")
    for name in ("ok", "half"):
        with pytest.raises(
            ConfigError, match=f"mine.py:{name} has no argument foo .its arguments: completions, scale.; remove it from params"
        ):
            load(f"{user_file}:{name}", foo=2)
    with pytest.raises(ConfigError, match="mine.py:ok has no argument scael .*; did you mean 'scale'"):
        load(f"{user_file}:ok", scael=2)


def test_a_missing_gold_column_is_refused_when_columns_are_known() -> None:
    validate(section("accuracy", "format"), columns=["solution"])
    with pytest.raises(DataError, match="accuracy needs the column key, but the data has solution"):
        validate(section({"name": "accuracy", "params": {"gold_column": "key"}}), columns=["solution"])


def test_loading_reports_what_a_module_lacks(user_file: Path) -> None:
    with pytest.raises(ConfigError, match="has no 'lenght'; did you mean 'length'"):
        load(f"{user_file}:lenght")
    with pytest.raises(ConfigError, match="3 is not callable"):
        load(f"{user_file}:number")


def test_the_driver_can_validate_without_heavy_imports() -> None:
    code = (
        "import sys, rewards, rewards.pool\n"
        "from configs.schema.rewards import RewardsSection\n"
        "rewards.validate(RewardsSection())\n"
        "rewards.validate(RewardsSection(functions=('length', 'cosine', 'reasoning_accuracy', 'fluency', 'code_format')))\n"
        "heavy = {'torch', 'vllm', 'deepspeed', 'transformers', 'math_verify', 'sympy', 'jieba', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_a_grader_imports_no_heavy_library() -> None:
    code = (
        "import sys, rewards.grading.warden, rewards.functions.math_answer\n"
        "rewards.functions.math_answer.preload()\n"
        "heavy = {'torch', 'vllm', 'ray', 'numpy', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
