"""The rows of other trainers, read with the settings that docs/data.md names: each row of its table gives the prompt, gold or answer that is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from actors.demonstrations.indexed import DemonstrationSource
from actors.prompts.streamed import open_prompts
from cluster.inspection.unused import unused_by_fine_tuning, unused_by_run
from configs.contracts.column_paths import RowColumns
from configs.loading import config_of, sft_config_of
from learner.model.tiny_model import build_tokenizer
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import load, validate
from rewards.grading.golds import check_golds
from tests import REPOSITORY
from tests.test_docs import table_after

TEMPLATE = (
    "{% if tools %}[tools: {% for tool in tools %}{{ (tool.function or tool).name }}{% endfor %}]{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}(calls {{ call.function.name }}){% endfor %}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TABLE = [(f"{cells[0]}: {cells[1]}", *cells[1:]) for cells in table_after(REPOSITORY / "docs" / "data.md", "Rows of other trainers")]

ASKED = "[user]1+1?[assistant]"
PROMPTS = {"verl, bare question": ASKED}
"""What the model reads where it is not `ASKED`, by the first cell of the table."""

GOLDS = {"Open-R1": r"It is \boxed{2}.", "GSM8K": "1+1=2 #### 2", "verl, bare question": "1+1=2 #### 2"}
"""Golds that are not "2"."""

EARLIER = "[user]Hi[assistant]Hello<|im_end|>"
CONVERSATIONS = {
    "LLaMA-Factory, alpaca": f"[system]Be brief.{EARLIER}[user]Add.\n1+1[assistant]",
    "LLaMA-Factory, sharegpt": f"[system]Be brief.{ASKED}",
    "LLaMA-Factory, sharegpt with tools": f"[tools: add]{ASKED}(calls add)<|im_end|>[tool]2[assistant]",
    "MedicalGPT, finetune": f"[system]Be brief.{ASKED}",
    "ms-swift": f"[system]Be brief.{ASKED}",
    "ms-swift, query": f"[system]Be brief.{EARLIER}[user]1+1?[assistant]",
}
"""What stands before the answer "2" where it is not `ASKED`."""

UNUSED = {
    "Open-R1": ["answer", "messages"],
    "verl": ["data_source", "ability", "extra_info"],
    "verl, bare question": ["prompt"],
    "DAPO": ["extra_info", "data_source", "ability"],
}
"""Columns that nothing uses."""


def written(folder: Path, row: str, kind: str) -> Path:
    """A file of this row."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(f"{json.dumps(json.loads(row))}\n")
    else:
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([json.loads(row)]), path)
    return path


def tokenizer_with_template():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def cells(row: str, settings: str) -> tuple[str, list[str]]:
    return row.strip("`"), [] if settings == "none" else _split(settings.strip("`"))


def _split(settings: str) -> list[str]:
    """`a=b c={d: e}` -> its overrides; a shell would need quotes around the second."""
    found: list[str] = []
    for word in settings.split(" "):
        if word.startswith(("data.", "rewards.")):
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def read_prompt(tree: dict, overrides: list[str], shape: str, folder: Path) -> None:
    """Open the prompts of a run and compare prompt, gold and unused columns."""
    config = config_of(tree, "the table", overrides)
    prompts = open_prompts(config.data, tokenizer_with_template(), seed=0, folder=folder)
    (prompt,) = prompts.first_prompts(1)
    assert prompt.text == PROMPTS.get(shape, ASKED)
    validate(config.rewards, prompt.columns)
    (spec,) = config.rewards.functions
    reward = load(spec.name, **spec.params)
    assert isinstance(reward, PerCompletionReward)
    columns = RowColumns(prompt.columns)
    assert [columns[name] for name in reward.gold_columns(columns)] == [GOLDS.get(shape, "2")]
    assert [check.unreadable for check in check_golds(config.rewards, [prompt.columns])] == [()]
    require_unused(unused_by_run(config, prompts, {}), shape)


def read_demonstration(tree: dict, overrides: list[str], shape: str, folder: Path) -> None:
    """Write the demonstrations of a fine-tuning and compare the conversation, its answer and unused columns."""
    config = sft_config_of(tree, "the table", overrides)
    tokenizer = tokenizer_with_template()
    found = DemonstrationSource(config.data, tokenizer, 0, folder / "out").write()
    (sequence,) = pa.ipc.open_file(str(found.train.path)).read_all().to_pylist()
    assert tokenizer.decode(sequence["token_ids"]) == f"{CONVERSATIONS.get(shape, ASKED)}2{tokenizer.eos_token}"
    trained = [token for token, is_trained in zip(sequence["token_ids"], sequence["trained"], strict=True) if is_trained]
    imitated = str(tokenizer.decode(trained))
    assert imitated.endswith(f"2{tokenizer.eos_token}") and "1+1" not in imitated
    require_unused(unused_by_fine_tuning(config.data, found), shape)


def require_unused(found: tuple[list[str], str], shape: str) -> None:
    """Compare the columns that are told to be used by nothing."""
    warnings, notice = found
    assert warnings == [], "a column that means something elsewhere is used"
    told = notice.partition(": ")[2]
    assert all(f"{column} (" in told for column in UNUSED.get(shape, [])), told
    assert bool(notice) == (shape in UNUSED)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(("name", "command", "row", "settings"), TABLE, ids=[line[0] for line in TABLE])
def test_a_row_is_read_with_the_settings_of_the_table(tmp_path: Path, kind: str, name: str, command: str, row: str, settings: str) -> None:
    text, overrides = cells(row, settings)
    tree = {"model": {"path": "builtin:tiny"}, "data": {"path": str(written(tmp_path, text, kind)), "eval_samples": 0}}
    shape = name.rpartition(": ")[0]
    (read_prompt if command == "train" else read_demonstration)(tree, overrides, shape, tmp_path)


def test_every_trainer_is_in_the_table() -> None:
    rows = {(name.partition(",")[0].partition(":")[0], command) for name, command, *_ in TABLE}
    for trainer in ("verl", "OpenRLHF", "ms-swift", "MedicalGPT", "Open-R1"):
        assert (trainer, "train") in rows
    assert {("LLaMA-Factory", "sft"), ("MedicalGPT", "sft"), ("ms-swift", "sft"), ("verl", "sft"), ("OpenRLHF", "sft")} <= rows
