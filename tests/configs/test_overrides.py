"""Settings arrive as they are typed: on the command line, in options of a recipe, and in YAML files, whatever YAML would make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from configs.contracts.errors import ConfigError
from configs.key_types import KeyType, key_type
from configs.launch.shell_lines import launch_in, launch_of
from configs.loading import load_config, load_sft_config
from configs.overrides import apply_overrides, value_of
from configs.recipes.command_line import read_recipe, sort_arguments
from configs.recipes.kinds import GRPO
from configs.schema.rewards import RewardSpec
from configs.schema.run import RunConfig
from configs.yaml_files import YamlValue

SMALL = "model: {path: builtin:tiny_qwen2}\ndata: {path: builtin:addition}\n"

TEXTS = (
    "End with a line like #### 42",
    "# a heading",
    "Answer: yes",
    "a: b: c",
    "- item",
    "@here",
    "`code`",
    "%percent",
    "*star",
    "&anchor",
    "!bang",
    "!!str x",
    "[a, b]",
    "[draft] a.jsonl",
    "{a: b}",
    "{{ bos_token }}{# a comment #}",
    "it's",
    'say "yes" now',
    "yes",
    "No",
    "on",
    "true",
    "1e-5",
    "007",
    "0x10",
    "0o17",
    "1_000",
    "12",
    "1.50",
    "2024-01-05",
    "1:30",
    ".inf",
    "<<",
    "=",
    "| block",
    "> folded",
    "? key",
    "line one\nline two # 3\n",
    "\ttab",
    "C:\\data\\a #1.jsonl",
    "https://host/a?b=c#part: d",
    "s3://bucket/a b #2/x.parquet",
    "中文：#标题",
    "a, b",
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    return path


def written(folder: Path, text: str) -> Path:
    path = folder / "other.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("text", TEXTS)
def test_an_override_of_a_text_is_that_text(small: Path, text: str) -> None:
    config = load_config(small, [f"data.system_prompt={text}", f"data.path={text}", f"out_dir={text}", f"data.columns.a={text}"])
    assert (config.data.system_prompt, config.data.path, config.data.columns) == (text, text, {"a": text})
    assert config.out_dir == Path(text)


@settings(deadline=None, max_examples=100)
@given(text=st.text(min_size=1).filter(lambda text: text.strip().lower() not in ("", "~", "null", "none")))
def test_any_text_arrives(text: str) -> None:
    tree: dict[str, YamlValue] = {"data": {"path": "x"}}
    apply_overrides(tree, [f"data.system_prompt={text}"], RunConfig)
    assert tree["data"] == {"path": "x", "system_prompt": text}


@pytest.mark.parametrize("text", TEXTS)
def test_an_option_of_a_recipe_and_a_word_of_a_shell_is_that_text(tmp_path: Path, text: str) -> None:
    options = [
        "--model_name_or_path",
        "m",
        "--train_file_dir",
        text,
        "--system_prompt",
        text,
        "--wandb_project",
        text,
        "--report_to",
        "wandb",
    ]
    if not text.startswith("|") and text != "<<":
        assert launch_of(["torchrun", "x.py", *options]).arguments == tuple(options)
    config = read_recipe(GRPO, {}, sort_arguments(options)).config
    assert (config.data.system_prompt, config.data.path, config.cluster.wandb_project) == (text, text, text)


def test_a_shell_line_keeps_what_is_quoted_and_what_only_looks_like_the_shells(tmp_path: Path) -> None:
    line = (
        "torchrun x.py --eos_token '<|im_end|>' --train_file_dir data/v1#2 --system_prompt 'a # b <think> > c' --run_name '' --beta 1 # end"
    )
    kept = ("--eos_token", "<|im_end|>", "--train_file_dir", "data/v1#2", "--system_prompt", "a # b <think> > c", "--run_name", "")
    assert launch_of([line]).arguments == (*kept, "--beta", "1")
    assert launch_of(["torchrun", "x.py", *kept, "--beta", "1"]).arguments == (*kept, "--beta", "1")
    script = tmp_path / "run.sh"
    script.write_text(f'PROMPT="a #b"  # a comment\n{line} --prompt "$PROMPT"\n'.replace("--beta 1 # end", "--beta 1"))
    assert launch_in(script).arguments == (*kept, "--beta", "1", "--prompt", "a #b")


@pytest.mark.parametrize("null", ["", "null", "NULL", "~", "None", "none"])
def test_a_key_that_may_be_empty_takes_null(small: Path, null: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(small, ["data.system_prompt=x", f"data.system_prompt={null}", f"learner.warmup_steps={null}"])
    assert config.data.system_prompt is None and config.learner.warmup_steps is None
    assert ("is read as null" in capsys.readouterr().err) == bool(null)


def test_a_key_that_may_not_be_empty_takes_the_word_and_refuses_nothing(small: Path) -> None:
    assert load_config(small, ["data.prompt_column=null"]).data.prompt_column == "null"
    assert "data.prompt_column: is empty; give a value" in refusal(small, "data.prompt_column=")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.system_prompt='quoted'", "the quotes belong to the text"),
        ('data.system_prompt="quoted"', "the quotes belong to the text"),
        ("data.path= x", "the blanks around the text belong to it, ' x'"),
        ("evaluation.data=gsm8k,math_500", "is one entry of the list; write evaluation.data=[a, b] for several"),
    ],
)
def test_what_could_be_meant_otherwise_is_told(small: Path, override: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    load_config(small, [override])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "entries"),
    [
        ("evaluation.data=[gsm8k, a #1.jsonl]", ("gsm8k", "a #1.jsonl")),
        ("evaluation.data=[007, no, 2024-01-05, 1e-5, 'x, y']", ("007", "no", "2024-01-05", "1e-5", "x, y")),
        ("evaluation.data=a #1.jsonl", ("a #1.jsonl",)),
        ("evaluation.data=- a", ("- a",)),
        ("evaluation.data=[]", ()),
    ],
)
def test_a_list_of_texts_takes_brackets_or_one_bare_entry(small: Path, override: str, entries: tuple[str, ...]) -> None:
    assert load_config(small, [override]).evaluation.data == entries


def test_mappings_and_nested_values_are_read_by_the_types_inside(small: Path) -> None:
    config = load_config(
        small,
        [
            "data.columns={a #1: b, no: yes, 1: 007}",
            "rewards.functions=[accuracy, {name: my #1/f.py:g, weight: 1e-1, params: {a: 1e-5, b: 'no', c: [true, x#y], d: 2024-01-05}}]",
            "stages=[{name: 1e3, data: {system_prompt: 007, name: no}}]",
        ],
    )
    assert config.data.columns == {"a #1": "b", "no": "yes", "1": "007"}
    params = {"a": 1e-5, "b": "no", "c": [True, "x#y"], "d": "2024-01-05"}
    assert config.rewards.functions[1] == RewardSpec(name="my #1/f.py:g", weight=0.1, params=params)
    assert (config.stages[0].name, config.stages[0].data) == ("1e3", {"system_prompt": "007", "name": "no"})


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.shuffle=no", False),
        ("data.shuffle=on", True),
        ("learner.max_steps=1_000", 1000),
        ("learner.max_steps=1e3", 1000),
        ("learner.max_steps=0x10", 16),
        ("learner.max_steps=0o17", 15),
        ("learner.learning_rate=1e-5", 1e-5),
        ("learner.learning_rate=.5", 0.5),
    ],
)
def test_numbers_and_switches_are_read_as_such(small: Path, override: str, value: object) -> None:
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(load_config(small, [override]), section), name) == value


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("learner.max_steps=007", "learner.max_steps: 007 begins with 0, which makes it octal in YAML 1.1 and decimal in 1.2; write 7"),
        ("learner.max_steps=1:30", "learner.max_steps: '1:30' is not a whole number"),
        ("learner.max_steps=12 # steps", "learner.max_steps: '12 # steps' is not a whole number"),
        (
            "rewards.functions=[{name: f, params: {x: no}}]",
            "rewards.functions[0].params.x: no is false in YAML 1.1 and text in 1.2; write false",
        ),
        ("rewards.functions=[{name: f, params: {x: 1:30}}]", "x: 1:30 is a number in YAML 1.1 and text in 1.2"),
        ("rewards.functions=[{name: f, params: {x: 1_000}}]", "x: 1_000 is a number in YAML 1.1 and text in 1.2"),
    ],
)
def test_a_value_with_two_readings_is_refused_with_both(small: Path, override: str, wanted: str) -> None:
    assert wanted in refusal(small, override)


def test_every_bad_override_is_named_at_once(small: Path) -> None:
    told = refusal(small, "learner.max_steps=[", "nonsense", "learner.ranks=010", "data.system_prompt=fine")
    assert all(part in told for part in ("learner.max_steps=[", "'nonsense'", "learner.ranks: 010")) and "system_prompt" not in told
    told = refusal(small, "actors.temprature=[", "lerner.max_steps=3", "data.promt_column=: x")
    assert all(part in told for part in ("did you mean actors.temperature?", "did you mean learner?", "did you mean data.prompt_column?"))


def test_a_file_gives_texts_as_they_are_written(tmp_path: Path) -> None:
    text = (
        "{path: 007, name: no, split: 1e-5, system_prompt: 1:30, columns: {on: yes, 2: 010}, pass_rate_column: 0x1F, eval_path: 2024-01-05}"
    )
    data = load_config(written(tmp_path, f"model: {{path: 1_000, revision: 12e4567}}\ndata: {text}\n")).data
    assert (data.path, data.name, data.split, data.system_prompt, data.eval_path) == ("007", "no", "1e-5", "1:30", "2024-01-05")
    assert (data.columns, data.pass_rate_column) == ({"on": "yes", "2": "010"}, "0x1F")
    sft = "model: {path: x, revision: 0123}\ndata: {path: y, completion_column: no, messages_column: null}\n"
    config = load_sft_config(written(tmp_path, sft))
    assert (config.model.revision, config.data.completion_column, config.data.messages_column) == ("0123", "no", None)


def test_a_file_with_values_of_two_readings_names_all_of_them_with_their_lines(tmp_path: Path) -> None:
    tail = "learner:\n  max_steps: 0123\n  ranks: 1\nrewards:\n  functions:\n  - {name: f, params: {x: off}}\n"
    told = refusal(written(tmp_path, SMALL + tail))
    assert "line 4: learner.max_steps: 0123 begins with 0" in told and "write 123 for a number" in told
    assert "line 8: rewards.functions[0].params.x: off is false in YAML 1.1" in told
    assert load_config(written(tmp_path, SMALL + "cluster: {dashboard: on}\n")).cluster.dashboard


def _keys(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, field in section.model_fields.items():
        found.append((*prefix, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys(field.annotation, (*prefix, name))
    return found


@pytest.mark.parametrize("text", [text for text in TEXTS if text[0] not in "[{"])
def test_a_bare_value_of_a_key_of_texts_lists_and_mappings_is_that_text(text: str) -> None:
    kind = KeyType.of(str | tuple[str, ...] | dict[str, str] | None)
    assert value_of(text, kind, "k") == text
    assert value_of(f"[007, 'a, b', c #{len(text)}]", kind, "k") == ["007", "a, b", f"c #{len(text)}"]
    assert value_of("{train: 007, test: a #1}", kind, "k") == {"train": "007", "test": "a #1"} and value_of("null", kind, "k") is None


def test_every_key_of_text_is_known_as_such() -> None:
    texts = [names for names in _keys(RunConfig) if key_type(names, RunConfig).texts]
    assert {("out_dir",), ("data", "path"), ("model", "chat_template"), ("evaluation", "reward")} <= set(texts)
    for names in texts:
        assert value_of("007 # x: [", key_type(names, RunConfig), ".".join(names)) == "007 # x: ["
