"""Every built-in reward names all columns that it may read: a notice of unused columns relies on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from configs.contracts.errors import DataError
from configs.schema.rewards import RewardsSection
from rewards.convention.group_input import GroupInput
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import BUILTINS, load, validate
from rewards.grading.golds import check_golds
from rewards.grading.trial import columns_read

CODE = '{"language": "python", "test_cases": [{"input": "1", "output": "1", "type": "stdin_stdout"}]}'
ROW = {
    "solution": "4", "answer": "4", "verification_info": CODE, "language": "python", "id": "1/A", "input_mode": "stdio",
    "official_tests": [{"input": "1", "output": "1"}], "generated_tests": 1, "time_limit": 1.0, "memory_limit": 256.0, "generated_checker": None,
    "grader_files": [], "test_cases": [["1", "1"]], "test_names": ["1"], "score_precision": 2, "task_type": "Batch", "reasoning_gym": "", "other": "x",
}  # fmt: skip


class Recorded(Mapping[str, object]):
    """A row that remembers which of its columns were read."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.read.add(name)
        return ROW[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ROW)

    def __contains__(self, name: object) -> bool:
        return name in ROW

    def __len__(self) -> int:
        return len(ROW)


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_a_builtin_reads_no_column_that_it_does_not_name(name: str) -> None:
    params = {"max_completion_len": 100, "soft_punish_cache": 10} if name == "soft_overlong_punishment" else {}
    reward = load(name, **params)
    assert isinstance(reward, PerCompletionReward)
    row = Recorded()
    text = "<think>\nx\n</think>\n<answer>\n```python\nprint(1)\n```\n```cpp\nint main(){}\n```\n\\boxed{4}\n</answer>"
    reward.deadline_s(row)
    reward.check_row(row)
    try:
        reward.grade(GroupInput("", [text], [[1, 2]], row, 0), 0)
    except Exception:  # where no jail can be made: the columns were read before
        assert "code" in name
    assert row.read <= set(reward.columns_read(ROW))


@pytest.mark.parametrize("name", ["accuracy", "reasoning_accuracy", "length", "cosine", "text_f1", "rouge_l", "contains_gold", "choice"])
def test_the_gold_column_may_lead_into_a_column(name: str) -> None:
    section = RewardsSection.model_validate({"functions": [{"name": name, "params": {"gold_column": "reward_model.ground_truth"}}]})
    rows = [
        {"data_source": "x", "reward_model": {"ground_truth": "$A$" if name != "choice" else "A"}},
        {"data_source": "y", "reward_model": {}},
    ]
    validate(section, list(rows[0]))
    with pytest.raises(DataError, match=r"reward_model\.ground_truth"):
        validate(section, ["data_source"])
    (check,) = check_golds(section, rows)
    assert check.columns == ("reward_model.ground_truth",)
    assert check.unreadable == (1,)
    assert "reward_model.ground_truth" in columns_read(section, {}, rows[0])
