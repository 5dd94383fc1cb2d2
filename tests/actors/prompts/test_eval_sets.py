"""Data sets to evaluate on, by name or path, rendered as the run's own prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.prompts.eval_sets import load_eval_sets
from actors.prompts.indexed import EVAL_EPOCH
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from learner.model.tiny_model import build_tokenizer


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def section(**settings: Any) -> DataSection:
    return DataSection(path="d", **{"max_prompt_length": 64, **settings})


def test_prompts_are_rendered_as_in_training_and_keep_their_columns(tmp_path: Path) -> None:
    file = written(tmp_path, "my sums.jsonl", [{"problem": "1+1", "solution": "2"}, {"problem": "2+2", "solution": "4"}])
    other = written(tmp_path, "other.jsonl", [{"question": "3+3", "solution": "6"}])
    first, second = load_eval_sets([file, other], section(system_prompt="Add."), build_tokenizer(), max_prompts=None, seed=0)
    assert (first.name, second.name) == ("my_sums", "other")
    assert [prompt.columns["solution"] for prompt in first.prompts] == ["2", "4"]
    assert first.prompts[0].text == "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    ids = [prompt.id for each in (first, second) for prompt in each.prompts]
    assert len(set(ids)) == 3 and all(prompt_id.epoch < EVAL_EPOCH for prompt_id in ids), "never those of training or of held-out prompts"


def test_the_runs_own_prompt_column_is_looked_for_first(tmp_path: Path) -> None:
    file = written(tmp_path, "set.jsonl", [{"problem": "no", "ask": "yes"}])
    [found] = load_eval_sets([file], section(prompt_column="ask"), build_tokenizer(), max_prompts=None, seed=0)
    assert "yes" in found.prompts[0].text


def test_a_subset_is_seeded(tmp_path: Path) -> None:
    file = written(tmp_path, "set.jsonl", [{"prompt": f"{number}+1"} for number in range(50)])

    def subset(seed: int, limit: int = 8) -> list[int]:
        [found] = load_eval_sets([file], section(), build_tokenizer(), max_prompts=limit, seed=seed)
        return [prompt.id.index for prompt in found.prompts]

    assert subset(0) == subset(0) == sorted(subset(0)) != subset(1)
    assert len(subset(0)) == 8 and subset(0, limit=1000) == list(range(50))


def test_long_prompts_are_left_out_and_counted(tmp_path: Path) -> None:
    file = written(tmp_path, "set.jsonl", [{"prompt": "1+1"}, {"prompt": "9" * 100}])
    [found] = load_eval_sets([file], section(), build_tokenizer(), max_prompts=None, seed=0)
    assert (len(found.prompts), found.too_long) == (1, 1)
    with pytest.raises(DataError, match="every one of the 2 prompts .* is longer than data.max_prompt_length 8; the shortest has"):
        load_eval_sets([file], section(max_prompt_length=8), build_tokenizer(), max_prompts=None, seed=0)


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [written(folder, "set.jsonl", [{"prompt": "1"}]) for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(DataError, match="are both called set; rename a file"):
        load_eval_sets(files, section(), build_tokenizer(), max_prompts=None, seed=0)


def test_a_row_that_is_no_prompt_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, "set.jsonl", [{"prompt": "1+1"}, {"prompt": 7}])
    with pytest.raises(DataError, match=r"set.jsonl:2: column 'prompt' holds 7"):
        load_eval_sets([file], section(), build_tokenizer(), max_prompts=None, seed=0)
