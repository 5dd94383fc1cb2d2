"""text_f1, rouge_l, contains_gold and choice."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load
from rewards.convention.group_input import GroupInput
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import load as load_in_this_process
from rewards.functions.text_answer import answers_of
from rewards.grading.golds import check_golds


def score(name: str, text: str, gold: object, **params: Any) -> float | None:
    return load(name, **params)(completions=[text], solution=[gold])[0]


def outcome(name: str, text: str, gold: object, **columns: object) -> str:
    reward = load_in_this_process(name)
    assert isinstance(reward, PerCompletionReward)
    return reward.grade(GroupInput("", [text], [], {"solution": gold, **columns}, 0), 0).outcome


# The reference: SQuAD's evaluate-v2.0.py, and the longest common subsequence by its recurrence, as in rouge-score.


def squad_words(text: str) -> list[str]:
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(answer: str, gold: str) -> float:
    answers, golds = squad_words(answer), squad_words(gold)
    same = sum((Counter(answers) & Counter(golds)).values())
    if not same:
        return 0.0
    precision, recall = same / len(answers), same / len(golds)
    return 2 * precision * recall / (precision + recall)


def rouge_l_of(answer: Sequence[str], gold: Sequence[str]) -> float:
    table = [[0] * (len(gold) + 1) for _ in range(len(answer) + 1)]
    for i, one in enumerate(answer):
        for j, other in enumerate(gold):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    if not table[-1][-1]:
        return 0.0
    precision, recall = table[-1][-1] / len(answer), table[-1][-1] / len(gold)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.lists(
    st.sampled_from(["the", "a", "cat", "dog", "sat", "on", "mat.", "an", "It's", "cat,", "(dog)", "mg", "500", "The"]),
    min_size=1,
    max_size=12,
).map(" ".join)
CHINESE = st.text(alphabet="肺炎患者发热咳嗽的是。，", min_size=1, max_size=14)


@given(answer=TEXTS, gold=TEXTS)
@settings(deadline=None)
def test_english_values_are_those_of_squad_and_rouge_score(answer: str, gold: str) -> None:
    if squad_words(gold):
        assert score("text_f1", answer, gold) == pytest.approx(squad_f1(answer, gold), abs=1e-12)
    words = [re.findall("[a-z0-9]+", text.lower()) for text in (answer, gold)]
    assert score("rouge_l", answer, gold) == pytest.approx(rouge_l_of(*words), abs=1e-12)


@given(answer=CHINESE, gold=CHINESE)
@settings(deadline=None)
def test_chinese_values_are_those_of_characters(answer: str, gold: str) -> None:
    characters = [re.findall(r"[一-鿿]", text) for text in (answer, gold)]
    if not all(characters):
        return
    same = sum((Counter(characters[0]) & Counter(characters[1])).values())
    assert score("text_f1", answer, gold) == pytest.approx(2 * same / (len(characters[0]) + len(characters[1])), abs=1e-12)
    assert score("rouge_l", answer, gold) == pytest.approx(rouge_l_of(*characters), abs=1e-12)


@given(gold=st.one_of(TEXTS, CHINESE, st.text(min_size=1, max_size=20)))
@settings(deadline=None)
@pytest.mark.parametrize("name", ["text_f1", "rouge_l", "contains_gold"])
def test_a_gold_answers_itself(name: str, gold: str) -> None:
    assert score(name, gold, gold, answer_style="text") in (1.0, None)
    if outcome(name, "", gold) != "unparsable_gold" and "answer>" not in gold and "think>" not in gold:
        assert score(name, f"<think>x</think><answer>{gold}</answer>", gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("amoxicillin 500 mg three times a day", "Amoxicillin, 500 mg, three times a day.", 1.0),
        ("ibuprofen 500 mg once a day", "amoxicillin 500 mg three times a day", 6 / 11),
        ("cat cat cat", "cat", 0.5),  # a repeated word counts once
        ("孕期营养指导。", "孕期营养指导", 1.0),
        ("营养指导", "孕期营养指导", 0.8),
        ("维生素 A", "维生素A", 1.0),  # no English article
        ("ＣＴ 检查", "CT检查", 1.0),
        ("1.5 mg", "15 mg", 0.5),
        ("-5", "5", 0.0),
        ("2-3 days", "23 days", 1.0),  # as SQuAD's script: a hyphen is no sign
    ],
)
def test_token_f1(answer: str, gold: str, f1: float) -> None:
    assert score("text_f1", f"<answer>{answer}</answer>", gold) == pytest.approx(f1)


def test_rouge_l_heeds_the_order() -> None:
    assert score("text_f1", "dog bites man", "man bites dog") == 1.0
    assert score("rouge_l", "dog bites man", "man bites dog") == pytest.approx(1 / 3)
    assert score("rouge_l", "police kill the gunman", "police killed the gunman") == pytest.approx(0.75)  # an example of Lin (2004)


def test_the_unit_of_a_token_is_a_parameter() -> None:
    answer, gold = "南京市长江大桥", "南京市长江"
    assert score("text_f1", answer, gold) == score("text_f1", answer, gold, language="characters") == pytest.approx(10 / 12)
    assert score("text_f1", answer, gold, language="en") == 0.0
    assert 0 < (score("text_f1", answer, gold, language="zh") or 0) < 1 and 0 < (score("rouge_l", answer, gold, language="zh") or 0) < 1
    assert score("text_f1", "abc", "acb", language="characters") == 1.0
    with pytest.raises(ConfigError, match="text_f1: language 'de' is unknown; use one of auto, en, zh, characters"):
        load("text_f1", language="de")
    with pytest.raises(ConfigError, match="rouge_l: answer_style 'latex' is unknown; use one of answer_tag, text"):
        load("rouge_l", answer_style="latex")


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("The patient has pneumonia.", "Pneumonia", 1.0),
        ("heart", "art", 0.0),
        ("15", "5", 0.0),
        ("1.5", "5", 0.0),
        ("5.5", "5", 0.0),
        ("5,000", "5", 0.0),
        ("-5", "5", 0.0),
        ("5-6", "5", 1.0),
        ("It is 5.", "5", 1.0),
        ("x=5, y=6", "5", 1.0),
        ("B12", "B1", 0.0),
        ("支气管肺炎", "肺炎", 1.0),
        ("患者服用5mg药物", "5mg", 1.0),
        ("患者服用15mg药物", "5mg", 0.0),
        ("孕期 营养指导", "孕期营养指导。", 1.0),
        ("it\nis  New\tYork", "new york", 1.0),
        ("Ｃｏｖｉｄ", "covid", 1.0),
        ("C++ and C", "C++", 1.0),
        ("(a+b)", "a+b", 1.0),
        ("nothing", "something", 0.0),
        ("don't know", "don", 1.0),
    ],
)
def test_a_gold_is_contained_as_whole_words_and_numbers(answer: str, gold: str, value: float) -> None:
    assert score("contains_gold", answer, gold) == value


@given(number=st.integers(0, 9999), other=st.integers(0, 9999))
@settings(deadline=None)
def test_no_number_is_found_in_another(number: int, other: int) -> None:
    for text in (f"it is {other} mg", f"答案是{other}。", f"-{other}.{other}", f"{other},{other}x"):
        read = re.findall(r"-?[\d.,]*\d\w*", text)
        assert score("contains_gold", text, str(number)) == float(str(number) in read)


def test_the_best_of_several_golds_counts() -> None:
    assert score("text_f1", "New York City", ["NYC", "New York"]) == pytest.approx(0.8)
    assert score("contains_gold", "in NYC", ["New York", "NYC"]) == 1.0
    assert score("rouge_l", "42", 42) == 1.0
    with pytest.raises(RewardError, match="text_f1: the gold answer {'a': 1} is neither text nor a list of texts"):
        score("text_f1", "x", {"a": 1})


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("<think>no <answer>x</answer></think><answer> y </answer>", ["y"]),
        ("<think>x</think>\n y", ["y"]),
        ("<answer>x</answer> and <answer>y</answer>", ["x", "y"]),
        ("plain", ["plain"]),
        (r"So \boxed{\text{New York}}.", ["So New York."]),
        ("<think>cut off", []),
        ("<think>x</think>", []),
        ("<think>x</think><answer></answer>", []),
        ("<think>x</think><answer>cut of", ["cut of"]),
        ("reasoning that the template opened</think>y", ["y"]),
        ("", []),
    ],
)
def test_the_answer_stands_behind_the_reasoning(text: str, answers: list[str]) -> None:
    assert answers_of(text, "answer_tag") == answers


def test_a_whole_text_may_be_the_answer() -> None:
    assert answers_of("<think>x</think>so <answer>y</answer>", "text") == ["so <answer>y</answer>"]


@pytest.mark.parametrize("name", ["text_f1", "rouge_l", "contains_gold", "choice"])
def test_outcomes(name: str) -> None:
    assert outcome(name, "", "A") == outcome(name, "<think>A", "A") == "unparsable_answer"
    assert score(name, "", "A") == 0.0
    assert [outcome(name, "A", gold) for gold in (None, "", "  ", "。", [], [None])] == ["unparsable_gold"] * 6
    assert score(name, "A", None) is None
    with pytest.raises(RewardError, match=f"{name} needs the column solution or answer, but the data has text; set gold_column"):
        load(name)(completions=["A"], text=["A"])
    assert load(name, gold_column="text")(completions=["A"], text=["A"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("<think>A or B?</think><answer>B</answer>", "B", 1.0),
        ("<answer>B. Pneumonia</answer>", "(B)", 1.0),
        ("答案是A", "A", 1.0),
        ("**B**", "B", 1.0),
        ("A.", "B", 0.0),
        ("The answer is A, C and D.", "ACD", 1.0),
        ("The answer is A and C.", "ACD", 0.0),
        ("ACD", ["D", "A", "C"], 1.0),
        ("A", "A. Pneumonia", 1.0),
        ("故选：A。", "答案：A", 1.0),
        ("<answer>A</answer><answer>B</answer>", "A", 0.0),
        ("<answer>A</answer><answer>A</answer>", "A", 1.0),
        ("A patient has it.", "A", 0.0),
        ("E", "E", 1.0),
        ("A", "阴道炎", None),
    ],
)
def test_choice(text: str, gold: object, value: float | None) -> None:
    assert score("choice", text, gold) == value


@pytest.mark.parametrize(
    "options",
    [
        ["Asthma", "Pneumonia", "Flu"],
        ["A. Asthma", "B. Pneumonia", "C. Flu"],
        {"A": "Asthma", "B": "Pneumonia", "C": "Flu"},
        {"label": ["A", "B", "C"], "text": ["Asthma", "Pneumonia", "Flu"]},
    ],
)
@pytest.mark.parametrize("gold", ["B", "Pneumonia", 1, "B. Pneumonia", "1"])
def test_the_options_of_a_row_are_read(options: object, gold: object) -> None:
    texts = ["B", "pneumonia", "C", "B. Asthma", "The answer is D."]
    columns = {"solution": [gold] * len(texts), "options": [options] * len(texts)}
    assert load("choice")(completions=texts, **columns) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert load("choice", options_column="options")(completions=texts, **columns) == [1.0, 1.0, 0.0, 0.0, 0.0]
    with pytest.raises(RewardError, match="choice needs the column choices, its options_column, but the data has options, solution"):
        reward = load("choice", options_column="choices")
        assert isinstance(reward, PerCompletionReward)
        reward.check_columns(columns)


def test_graders_read_the_golds_before_a_run() -> None:
    section = RewardsSection.model_validate({"functions": ["text_f1", "rouge_l", "contains_gold", "choice"]})
    checks = check_golds(section, [{"solution": "A. 肺炎"}, {"solution": "肺炎"}, {"solution": None}])
    assert {check.reward: check.unreadable for check in checks} == {
        "text_f1": (2,),
        "rouge_l": (2,),
        "contains_gold": (2,),
        "choice": (1, 2),
    }
