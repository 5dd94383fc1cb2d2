"""Accuracy: every rule of its specification, and that the short cuts give what math-verify gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError, RewardError
from rewards import load
from rewards.answers import expressions
from rewards.functions import math_answer
from rewards.functions.math_answer import Accuracy, ReasoningAccuracy


def score(gold: Any, text: str, **params: Any) -> float | None:
    return load("accuracy", **params)(completions=[text], solution=[gold])[0]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("1/2", "0.5"),
        ("50%", "0.5"),
        ("0.5", "50\\%"),
        ("3", "3.0"),
        ("1,000", "1000"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("1,2,3", "3,2,1"),
        ("(1,2)", "(1,2)"),
        ("x=5", "5"),
        ("5", "x=5"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
        ("\\text{Blue}", "\\text{blue}"),
        ("$B$", "\\text{(B)}"),
        ("\\text{(B)}", "B"),
        ("90^\\circ", "90"),
        ("2\\sqrt{3}", "2\\sqrt{3}"),
        ("$2\\sqrt{3}$", "\\sqrt{12}"),
        ("3 \\text{ cm}", "3"),
        ("x^2+1", "1+x^2"),
        ("\\frac12", "\\frac{1}{2}"),
        ("\\text{高血压}", "高血压"),
    ],
)
def test_equal_answers_are_right(gold: str, answer: str) -> None:
    assert score(gold, f"So it is $\\boxed{{{answer}}}$.") == 1.0
    assert score(gold, f"So it is \\boxed{{{answer}}}.") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(1,2)", "(2,1)"),
        ("[0,1)", "[0,1]"),
        ("1/3", "0.333"),
        ("\\frac{\\pi}{2}", "90^\\circ"),
        ("2\\sqrt{3}", "2"),
        ("42", "-42"),
        ("\\frac12", "\\frac12"),
        ("2\\sqrt2", "2\\sqrt2"),
    ],
)
def test_other_answers_are_wrong(gold: str, answer: str) -> None:
    assert score(gold, f"So it is $\\boxed{{{answer}}}$.") == 0.0


def test_text_after_the_first_hashes_is_the_gold() -> None:
    assert score("He has 48/2 = 24. 48+24 = 72\n#### 72", "\\boxed{72}") == 1.0
    assert score("He has 24\n#### 72", "\\boxed{24}") == 0.0


def test_a_gold_may_be_a_number() -> None:
    assert score(42, "\\boxed{42}") == 1.0
    assert score(0.5, "\\boxed{\\frac{1}{2}}") == 1.0


@pytest.mark.parametrize("gold", ["", None, "$$", "   "])
def test_an_unparsable_gold_does_not_apply(gold: str | None) -> None:
    assert score(gold, "\\boxed{1}") is None
    assert Accuracy().grade_text("\\boxed{1}", {"solution": gold}).outcome == "unparsable_gold"


def test_latex_needs_an_anchor_and_ignores_tags() -> None:
    assert score("42", "it is 42") == 0.0
    assert score("42", "<answer>42</answer>") == 0.0
    assert score("42", "<think>\\boxed{42}</think> dunno") == 1.0


def test_the_box_comes_before_a_final_answer() -> None:
    assert score("2", "\\boxed{2}. The final answer is $3$.") == 1.0


def test_all_boxes_count() -> None:
    assert score("\\{1,2\\}", "$\\boxed{1}$ and $\\boxed{2}$") == 1.0
    assert score("2", "$\\boxed{1}$ and $\\boxed{2}$") == 0.0


def test_an_unparsable_answer_scores_zero_or_is_skipped() -> None:
    assert Accuracy().grade_text("no idea", {"solution": "1"}) == (0.0, "unparsable_answer")
    assert Accuracy(on_unparsable_answer="skip").grade_text("no idea", {"solution": "1"}) == (None, "unparsable_answer")
    assert Accuracy(on_unparsable_answer="skip").grade_text("\\boxed{2}", {"solution": "1"}) == (0.0, "scored")


@pytest.mark.parametrize(
    ("gold", "text", "reward"),
    [
        ("72", "<answer>72</answer>", 1.0),
        ("72", "<answer>The answer is 72.</answer>", 1.0),
        ("so 24+48 #### 72", "<think>24</think><answer>\n72\n</answer>", 1.0),
        ("72", "<answer>71</answer><answer>72</answer>", 0.0),
        ("72", "it must be 72", 1.0),
        ("2\\sqrt{3}", "<answer>2\\sqrt{3}</answer>", 1.0),
        ("2\\sqrt{3}", "<answer>2</answer>", 0.0),
        ("高血压", "<answer>高血压</answer>", 1.0),
        ("高血压", "<answer>低血压</answer>", 0.0),
        ("Ｔype　II diabetes", "<answer>type  ii\nDiabetes</answer>", 1.0),
        ("B", "<answer>(B)</answer>", 1.0),
        ("blue", "<answer>5</answer>", 0.0),
        ("5", "<answer>blue</answer>", 0.0),
        ("", "<answer>5</answer>", None),
    ],
)
def test_answer_tag(gold: str, text: str, reward: float | None) -> None:
    assert score(gold, text, answer_style="answer_tag") == reward


def test_auto_tries_latex_and_then_the_tag() -> None:
    assert score("42", "\\boxed{42} <answer>7</answer>", answer_style="auto") == 1.0
    assert score("42", "<answer>42</answer>", answer_style="auto") == 1.0
    assert score("高血压", "<answer>高血压</answer>", answer_style="auto") == 1.0
    assert Accuracy("auto").grade_text("", {"solution": "1"}).outcome == "unparsable_answer"


def test_the_gold_column_is_solution_then_answer_or_as_told() -> None:
    reward = Accuracy()
    assert reward.grade_text("\\boxed{1}", {"solution": "1", "answer": "2"}).value == 1.0
    assert reward.grade_text("\\boxed{2}", {"answer": "2"}).value == 1.0
    assert Accuracy(gold_column="key").grade_text("\\boxed{3}", {"key": "3", "solution": "1"}).value == 1.0
    with pytest.raises(RewardError, match="needs the column solution or answer, but the data has label, prompt_lang"):
        reward.grade_text("\\boxed{1}", {"label": "1", "prompt_lang": "en"})


def test_a_gold_of_another_type_is_refused() -> None:
    with pytest.raises(RewardError, match="is a list, not text or a number"):
        score(["1"], "\\boxed{1}")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"answer_style": "xml"}, "answer_style 'xml' is unknown; use one of latex"),
        ({"on_unparsable_answer": "one"}, "use one of zero, skip"),
    ],
)
def test_unknown_parameter_values_are_refused(params: dict[str, Any], message: str) -> None:
    for name in ("accuracy", "reasoning_accuracy"):
        with pytest.raises(ConfigError, match=f"{name}: .*{message}"):
            load(name, **params)


def after_reasoning(gold: str, text: str, **params: Any) -> float | None:
    return load("reasoning_accuracy", **params)(completions=[text], solution=[gold])[0]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>\\boxed{4}</think> \\boxed{4}", 1.0),
        ("<think>\\boxed{5}</think> \\boxed{4}", 1.0),
        ("<think>\\boxed{4}</think> \\boxed{5}", 0.0),
        ("<think>\\boxed{4}</think>", 0.0),
        ("<think>\\boxed{4}</think> dunno", 0.0),
        ("a</think>\\boxed{4}</think>\\boxed{5}", 0.0),
        ("a</think>\\boxed{5}</think>\\boxed{4}", 1.0),
        ("\\boxed{4}", 0.0),
        ("<think>\\boxed{4}", 0.0),
        ("", 0.0),
    ],
)
def test_only_what_follows_the_reasoning_is_judged(text: str, reward: float) -> None:
    assert after_reasoning("4", text) == reward


def test_the_last_of_any_delimiter_counts() -> None:
    delimiters = ["</think>", "<|end_of_thought|>"]
    assert after_reasoning("4", "</think>\\boxed{5}<|end_of_thought|>\\boxed{4}", reasoning_delimiters=delimiters) == 1.0
    assert after_reasoning("4", "<|end_of_thought|>\\boxed{5}</think>\\boxed{4}", reasoning_delimiters=delimiters) == 1.0
    assert after_reasoning("4", "</think>\\boxed{4}<|end_of_thought|>\\boxed{5}", reasoning_delimiters=delimiters) == 0.0
    assert after_reasoning("4", "</think>\\boxed{4}", reasoning_delimiters=["<|end_of_thought|>"]) == 0.0


def test_reasoning_accuracy_takes_what_accuracy_takes() -> None:
    text = "<answer>5</answer></think><answer>4</answer>"
    assert after_reasoning("4", text) == 0.0
    assert after_reasoning("4", text, answer_style="answer_tag") == 1.0
    assert ReasoningAccuracy(gold_column="key").grade_text("</think>\\boxed{3}", {"key": "3", "solution": "1"}).value == 1.0
    assert ReasoningAccuracy().grade_text("</think>", {"solution": ""}) == (None, "unparsable_gold")
    assert ReasoningAccuracy(on_unparsable_answer="skip").grade_text("</think> 4", {"solution": "4"}) == (None, "unparsable_answer")
    assert ReasoningAccuracy(on_unparsable_answer="skip").grade_text("4", {"solution": "4"}) == (0.0, "unparsable_answer")
    with pytest.raises(RewardError, match="reasoning_accuracy needs the column key, but the data has solution"):
        ReasoningAccuracy(gold_column="key").check_columns(["solution"])


@pytest.mark.parametrize("delimiters", ["</think>", [], [""], ["</think>", 3], None])
def test_delimiters_that_are_no_list_of_texts_are_refused(delimiters: Any) -> None:
    with pytest.raises(ConfigError, match=r"reasoning_delimiters .* must be a list of texts; write it as \[</think>\]"):
        load("reasoning_accuracy", reasoning_delimiters=delimiters)


def test_chat_messages_and_columns_as_lists() -> None:
    completions = [[{"role": "assistant", "content": "\\boxed{1}"}], [{"role": "assistant", "content": "\\boxed{2}"}]]
    assert load("accuracy")(completions=completions, prompts=["p"] * 2, solution=["1", "1"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="'solution' has 1 values for 2 completions"):
        load("accuracy")(completions=completions, solution=["1"])


integers = st.integers(-(10**14), 10**14).map(str)


@settings(max_examples=150, deadline=None)
@given(integers, integers)
def test_the_short_cut_for_integers_gives_what_math_verify_gives(gold: str, answer: str) -> None:
    for said in (answer, gold):
        box = f"\\boxed{{{said}}}"
        gold_parsed = expressions.parse(gold)
        equal = expressions.equal_expressions(gold_parsed, expressions.parse(box, latex_only=True))
        assert (math_answer._verify_latex(gold, "auto", box) == math_answer.RIGHT) is equal
        equal = expressions.equal_expressions(gold_parsed, expressions.parse(said))
        assert (math_answer._verify_tagged(gold, "auto", said) == math_answer.RIGHT) is equal


fragments = st.sampled_from(
    [
        "\\boxed{",
        "\\boxed{3}",
        "{",
        "}",
        "}",
        "1",
        "x",
        "\\frac{1}{2}",
        " and ",
        "final answer is ",
        ". I hope",
        "$",
        "[",
        "] ",
        " ",
        "\n",
        ",",
        "\\fbox{2}",
        "\\text{cm}",
        "answer: ",
        "%",
        "<answer>",
        "so it is ",
    ]
)


prose = st.lists(fragments, max_size=5).map("".join)


@settings(max_examples=400, deadline=None)
@given(prose, prose)
def test_cutting_to_the_only_box_changes_nothing(before: str, after: str) -> None:
    text = f"{before}\\boxed{{7}}{after}"
    box = math_answer._lone_box(text)
    if box is not None:
        assert expressions.parse(box, latex_only=True) == expressions.parse(text, latex_only=True)


@pytest.mark.parametrize(
    "text",
    [
        "$\\boxed{7}$ %",
        "\\(\\boxed{7}\\) %",
        "it is [\\boxed{7}] % so",
        "\\boxed{7} \\fbox{8}",
        "\\boxed{7} \\boxed{8}",
        "\\boxed{7} final answer is: \\frac{1}{2}. I hope",
    ],
)
def test_what_else_math_verify_reads_keeps_the_whole_text(text: str) -> None:
    """In each of these the text around the box changes what is read."""
    assert expressions.parse(text, latex_only=True) != expressions.parse("\\boxed{7}", latex_only=True)
    assert math_answer._lone_box(text) is None


def test_long_completions_are_cut_to_the_box() -> None:
    assert math_answer._lone_box("x " * 9000 + "\\boxed{\\frac{1}{2}}. {so}") == "\\boxed{\\frac{1}{2}}"
