"""Options that an answer names, in the ways people write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.answers.option_letters import LETTERS, read_option

ALONE = (
    *(
        "{}",
        "({})",
        "{}.",
        "{})",
        "[{}]",
        '"{}"',
        "「{}」",
        "**{}**",
        "**({})**",
        "<b>{}</b>",
        "`{}`",
        "{}。",
        "{} ",
        "\n{}\n",
        "Option {}",
        "option ({})",
    ),
    *(
        r"\boxed{{{}}}",
        r"$\boxed{{{}}}$",
        r"\boxed{{\text{{({})}}}}",
        r"\boxed{{\textbf{{{}}}}}",
        r"\text{{({})}}",
        r"\mathrm{{{}}}",
        r"\boxed{{{}. 5 cm}}",
    ),
)
SENTENCES = (
    *(
        "The answer is {}.",
        "The answer is ({}).",
        "The answer is: {}",
        "the answer is option {}",
        "Answer: {}",
        "ANSWER: {}",
        "**Answer:** {}",
        "Ans: {}",
    ),
    *(
        "Answer:\n{}",
        "Answer: **{}**",
        "Final Answer: The final answer is ({}). I hope it is correct.",
        "#### {}",
        "Correct: {}",
        "My answer is {}.",
    ),
    *(
        "The correct answer is {}) 5 mm",
        "The correct answer choice is ({})",
        "The best option is {}.",
        "Correct option: {}",
        "The answer should be {}.",
    ),
    *(
        "The answer is therefore ({}).",
        "The answer is {} because of the fever.",
        "The answer to this question is {}.",
        r"The answer is $\boxed{{{}}}$.",
    ),
    *(
        "{}. Pneumonia",
        "{}) Pneumonia",
        "({}) Pneumonia",
        "{}: Pneumonia",
        "{} - Pneumonia",
        "{}、肺炎",
        "{}：肺炎",
        "{} 肺炎",
        "{}. 45 years\nThat is all.",
    ),
    *("It has fever.\n{}. Pneumonia", "{}, because of the fever.", "{} because of the fever.", "Therefore, {}.", "So ({}).", "It's {}."),
    *(
        "I would choose ({}).",
        "I'd go with {}.",
        "I think it is {}.",
        "{} is correct.",
        "Option {} is the correct answer.",
        "Only {} is right.",
    ),
    *(
        "答案是{}",
        "答案：{}",
        "答案为{}。",
        "【答案】{}",
        "答案【{}】",
        "【答案】：{}",
        "参考答案：{}",
        "正确答案是 {}。",
        "故答案为：{}",
        "故答案选{}",
        "答案应为{}",
    ),
    *(
        "选{}",
        "故选：{}。",
        "应选 {}",
        "本题选{}",
        "我选{}",
        "选择{}",
        "选择 {} 选项",
        "因此，选{}。",
        "正确选项是{}",
        "综上，选{}。",
        "答案是{}，肺炎",
        "答案是{}。肺炎",
    ),
    *("{}项正确", "选项{}正确", "{}选项是正确的", "所以，{}。", "答案：（{}）", "答案是{}，因为发热。", "答案是{}因为发热"),
)
SEVERAL = (
    "AC",
    "CA",
    "A,C",
    "A, C",
    "A、C",
    "A和C",
    "A and C",
    "A & C",
    "A+C",
    "(A) and (C)",
    "(A), (C)",
    "A，C",
    "Option A and option C",
    "both A and C",
    "A; C",
)

NAMES_NOTHING = (
    *("", "A patient with fever", "A 45-year-old man", "I think so"),
    *(
        "The answer is a bacterial infection.",
        "Answer: A bacterial infection",
        "a fever",
        "A fever",
        "I have no idea.",
        "Be that as it may.",
        "D-dimer",
        "B cells",
    ),
    *(
        "The answer is C-reactive protein.",
        "The answer is hepatitis B.",
        "Hepatitis B is correct",
        "vitamin C",
        "E. coli",
        "C. difficile causes it.",
        "A1",
        "B > C",
        "C = 5",
    ),
    *(
        "答案：B超检查",
        "A型血",
        "答案是A型血",
        "选择题",
        "C反应蛋白",
        "B超",
        "维生素C",
        "肺炎",
        "C++",
        "The answer is C++",
        "A's fever",
        "Answer with A, B, C or D.",
    ),
    *(
        "A or B",
        "The answer is A or B.",
        "A/B",
        "答案是A或B",
        "either A or B",
        "A: B",
        "The answer is 5.",
        "The answer is none of these.",
        "I choose a number.",
    ),
    *(
        "The answer is A. Wait, the answer is B.",
        r"\boxed{B}, \boxed{C}",
        "The answer is B. \\boxed{C}",
        "答案是A。答案是B。",
        "A\nB",
        "选A还是选B",
    ),
    *(
        "not A",
        "The answer is not A.",
        "The answer isn't B.",
        "neither A nor B",
        "答案不是A",
        "不选B",
        "排除C",
        "B is wrong.",
        "A不正确",
        "Is it A?",
        "答案是A吗？",
    ),
    *(
        "A. Pneumonia\nB. Asthma",
        "A. Pneumonia B. Asthma C. Flu",
        "(A) Pneumonia (B) Asthma",
        "If the answer is A, it is easy.",
        "如果选A则错",
        "It could be A.",
    ),
)
REJECTED = (
    *(
        "The answer is not B but C",
        "not B but C",
        "The answer is C, not B.",
        "It is not B. It is C.",
        "the answer isn't B, it's C",
        "The answer is C rather than B.",
    ),
    *(
        "B is wrong. The answer is C.",
        "Option B is incorrect, so the answer is C.",
        "The answer is C, as B cannot be right.",
        "I choose C instead of B.",
        "C. Asthma, not B.",
    ),
    *(
        "答案不是B，而是C。",
        "排除B，选C",
        "不选B，选C",
        "B不对，C正确",
        "B是错误的，所以选C。",
        "答案是C不是B",
        "选C而不是B",
        "B项错误，故选C。",
        "答案是B吗？不，答案是C",
    ),
    *(
        "Is it B? The answer is C.",
        "If the answer is B, x is 0. So the answer is C.",
        "C. Asthma\n\nExplanation: B is wrong, as is A.",
        "如果选B则错。故选C",
    ),
    *("A. Pneumonia\nB. Asthma\nC. Flu\nThe answer is C", "A. Pneumonia B. Asthma C. Flu\n故选C"),
)


@pytest.mark.parametrize("form", [*ALONE, *SENTENCES])
def test_the_ways_to_write_one_option_are_read(form: str) -> None:
    assert {letter: read_option(form.format(letter)) for letter in LETTERS} == {letter: letter for letter in LETTERS}
    assert read_option(form.format("Ｂ")) == "B" and read_option(form.format("D"), "ABCD") == "D"


@pytest.mark.parametrize("text", ["b", "(b)", "b.", "b)", "option b", "Answer: b", "the answer is b.", "**b**", r"\boxed{b}", "答案是b"])
def test_small_letters_are_read(text: str) -> None:
    assert read_option(text) == "B"


@pytest.mark.parametrize("several", SEVERAL)
@pytest.mark.parametrize(
    "form",
    ["{}", "The answer is {}.", "Answer: {}", "答案：{}", "故选：{}。", r"\boxed{{{}}}", "【答案】{}", "The correct answers are {}."],
)
def test_several_options_are_read_in_the_order_of_the_alphabet(several: str, form: str) -> None:
    assert read_option(form.format(several)) == "AC"


def test_more_than_two_options_are_read() -> None:
    texts = ["ABD", "A, B, and D", "A、B、D", "答案是A、B和D", "(A), (B) and (D)", "A,B,D"]
    assert [read_option(text) for text in texts] == ["ABD"] * len(texts)


@pytest.mark.parametrize("text", NAMES_NOTHING)
def test_where_no_option_or_two_are_named_nothing_is_read(text: str) -> None:
    assert read_option(text) is None


@pytest.mark.parametrize("text", REJECTED)
def test_options_that_are_rejected_asked_about_or_supposed_are_not_read(text: str) -> None:
    assert read_option(text) == "C"


def test_only_the_options_of_the_question_are_read() -> None:
    assert read_option("Answer: E", "ABCD") is None and read_option("Answer: E", "ABCDE") == "E" and read_option("I", "ABCD") is None


def test_the_text_of_an_option_stands_for_its_letter() -> None:
    options = {"A": "Pneumonia", "B": "Asthma", "C": "肺炎"}
    assert [read_option(text, options) for text in ("asthma.", r"\boxed{Asthma}", "肺炎。", "B. Asthma", "B")] == ["B", "B", "C", "B", "B"]
    assert read_option("A. Asthma", options) is None  # letter and text name different options
    assert read_option("asthma and pneumonia", options) is None


PIECES = (*"ABCDEIabci ().,:;?*\n#-/+&$'", "答案", "选", "是", "不", "而", "answer", " is ", "not ", "or ", "and ", "因为", r"\boxed{", "}")


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_as_options_or_as_none(pieces: list[str]) -> None:
    read = read_option("".join(pieces), "ABCDE")
    assert read is None or (read and list(read) == sorted(set(read)) and set(read) <= set("ABCDE"))


@given(
    words=st.lists(
        st.sampled_from(
            ["a", "patient", "has", "fever", "in", "an", "old", "of", "vitamins", "the", "cause", "where", "he", "lives", "I", "A"]
        ),
        min_size=2,
        max_size=30,
    )
)
def test_articles_and_pronouns_of_prose_are_no_options(words: list[str]) -> None:
    assert read_option(" ".join([*words, "today"])) is None


@pytest.mark.parametrize(
    "text",
    [
        "the answer is " * 4000,
        "A and " * 8000,
        "(" * 20_000,
        "not A or B " * 3000,
        "\\boxed{" * 5000,
        "答案是" * 6000,
        "A. b " * 5000,
        " " * 50_000 + "A",
    ],
)
def test_long_texts_take_no_long_time(text: str) -> None:
    began = time.monotonic()
    read_option(text)
    assert time.monotonic() - began < 5  # under 0.3 s each on an idle machine
