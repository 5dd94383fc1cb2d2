"""Names that rewards have in other systems, and what they are called here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

REWARD_NAMES: Mapping[str, str] = {
    "accuracy_reward": "accuracy",
    "binary_code_reward": "binary_code",
    "cf_code_reward": "cf_code",
    "code_reward": "code",
    "format_reward": "format",
    "get_code_format_reward": "code_format",
    "get_cosine_scaled_reward": "cosine",
    "get_repetition_penalty_reward": "repetition_penalty",
    "get_soft_overlong_punishment": "soft_overlong_punishment",
    "ioi_code_reward": "ioi_code",
    "len_reward": "length",
    "reasoning_accuracy_reward": "reasoning_accuracy",
    "reasoning_steps_reward": "reasoning_steps",
    "tag_count_reward": "tag_count",
    "think_format_reward": "think_format",
}
"""Names of functions in TRL and Open-R1 -> built-in rewards that do the same. Recipes may have them."""

_TAGGED = "use accuracy with params: {answer_style: answer_tag}"
_EXACT = "use accuracy, which compares a gold that is text as text; with params: {answer_style: answer_tag} it reads plain answers"
_BLEU = "there is no BLEU: use rouge_l or text_f1"
_ROUGE_N = "only ROUGE-L is built in: use rouge_l, or text_f1 for single words in any order"
_JUDGE = "no model judges here: write a function that calls it, and list it as path/to/file.py:function"
_COUNTDOWN = "use reasoning_gym, with data.path: reasoning_gym:countdown"

_NEAREST: Mapping[str, str] = {
    "acc": "accuracy", "answer": "accuracy", "answer_check": "accuracy", "correct": "accuracy", "correctness": _TAGGED, "dapo": "accuracy",
    "gsm8k": _TAGGED, "hendrycks_math": "accuracy", "is_correct": "accuracy", "lighteval_math": "accuracy", "math": "accuracy",
    "math_acc": "accuracy", "math_accuracy": "accuracy", "math_dapo": "accuracy", "math_equal": "accuracy", "math_verify": "accuracy",
    "mathaccuracy": "accuracy", "numina": "accuracy", "orm": "accuracy", "prime_math": "accuracy", "rule_based": "accuracy", "verify": "accuracy",
    "think_accuracy": "reasoning_accuracy", "accuracy_after_think": "reasoning_accuracy",
    "exact_match": _EXACT, "em": _EXACT, "exact": _EXACT, "string_match": _EXACT, "equals": _EXACT, "text_match": _EXACT, "int": _TAGGED,
    "digit": _TAGGED, "searchr1_em": _EXACT, "qa_em": _EXACT,
    "f1": "text_f1", "qa_f1": "text_f1", "squad": "text_f1", "squad_f1": "text_f1", "token_f1": "text_f1", "word_f1": "text_f1", "overlap": "text_f1",
    "similarity": "text_f1", "text_similarity": "text_f1",
    "rouge": "rouge_l", "rougel": "rouge_l", "rouge_lsum": "rouge_l", "rougelsum": "rouge_l", "lcs": "rouge_l", "rouge1": _ROUGE_N, "rouge2": _ROUGE_N,
    "rouge_1": _ROUGE_N, "rouge_2": _ROUGE_N, "bleu": _BLEU, "bleu4": _BLEU, "bleu_4": _BLEU, "sacrebleu": _BLEU, "meteor": _BLEU, "chrf": _BLEU,
    "bert": _JUDGE, "bertscore": _JUDGE, "llm_judge": _JUDGE, "llm_as_judge": _JUDGE, "judge": _JUDGE, "genrm": _JUDGE, "reward_model": _JUDGE, "rm": _JUDGE,
    "prm": _JUDGE, "model": _JUDGE, "pairwise": _JUDGE, "embedding": _JUDGE,
    "mcq": "choice", "mcqa": "choice", "multi_choice": "choice", "multiple_choice": "choice", "option": "choice", "options": "choice",
    "choice_accuracy": "choice", "mc": "choice", "abcd": "choice", "letter": "choice", "mcq_accuracy": "choice",
    "contains": "contains_gold", "contain": "contains_gold", "substring": "contains_gold", "includes": "contains_gold", "include": "contains_gold",
    "cover_exact_match": "contains_gold", "keyword": "contains_gold", "keywords": "contains_gold", "sub_em": "contains_gold",
    "soft_format": "format", "strict_format": "format", "r1_format": "format", "xml_format": "format", "answer_format": "format", "regex": "format",
    "thinking_format": "think_format", "think": "think_format", "reasoning_format": "think_format",
    "xmlcount": "tag_count", "xml_count": "tag_count", "tags": "tag_count", "tag": "tag_count", "count_xml": "tag_count",
    "steps": "reasoning_steps", "step": "reasoning_steps", "reasoning": "reasoning_steps", "step_count": "reasoning_steps",
    "len": "length", "length_penalty": "length", "kimi_length": "length", "brevity": "length", "cosine_scaled": "cosine", "cosine_length": "cosine",
    "cos": "cosine", "repetition": "repetition_penalty", "repeat": "repetition_penalty", "ngram": "repetition_penalty", "rep": "repetition_penalty",
    "repetition_ngram": "repetition_penalty", "ngram_penalty": "repetition_penalty", "fluent": "fluency",
    "soft_overlong": "soft_overlong_punishment", "overlong": "soft_overlong_punishment", "overlong_buffer": "soft_overlong_punishment",
    "overlong_penalty": "soft_overlong_punishment", "overlong_punishment": "soft_overlong_punishment", "dapo_length": "soft_overlong_punishment",
    "soft_overlong_penalty": "soft_overlong_punishment",
    "python": "code", "sandbox": "code", "unit_test": "code", "unit_tests": "code", "code_execution": "code", "prime_code": "code", "code_acc": "code",
    "sandbox_fusion": "code", "apps": "code", "taco": "code", "code_accuracy": "code", "binary": "binary_code", "codeforces": "cf_code", "ioi": "ioi_code",
    "code_language": "code_format", "countdown": _COUNTDOWN, "equation": _COUNTDOWN, "rg": "reasoning_gym", "reasoninggym": "reasoning_gym",
    "score_answer": "reasoning_gym", "puzzle": "reasoning_gym",
}  # fmt: skip
"""Names that people type -> a built-in reward, or a sentence; without the words that `_stem` drops. They say what somebody wants, but not all of them
compute the same elsewhere, and so no configuration may have them: the error names ours.

From TRL, Open-R1, MedicalGPT, ms-swift, verl, OpenRLHF, the notebooks that descend from W. Brown's `grpo_demo.py`, and packages of metrics."""

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BEFORE = re.compile(r"^(?:get|compute|calc|calculate|external)_")
_AFTER = re.compile(r"(?:_(?:rewards?|func|fn|function|scores?|metrics?|orm))+$")


def other_reward(name: str, known: Collection[str]) -> str:
    """Say which reward is meant by a name that is not built in: `; did you mean 'rouge_l'?` for `ROUGE-L`; "" if nothing is like it.

    Args:
        known: the built-in rewards.
    """
    stem = _stem(name)
    meant = stem if stem in known else REWARD_NAMES.get(name) or _NEAREST.get(stem) or _NEAREST.get(name.lower())
    if meant is None:
        near = difflib.get_close_matches(stem, [*known, *_NEAREST], n=1)
        meant = _NEAREST.get(near[0], near[0]) if near else None
    return "" if meant is None else f"; did you mean {meant!r}?" if meant in known else f"; {meant}"


def _stem(name: str) -> str:
    """`rouge_l` of `get_RougeL_reward_func`."""
    snake = re.sub(r"[\s.-]+", "_", _CAPITAL.sub("_", name.strip())).lower()
    return _AFTER.sub("", _BEFORE.sub("", snake))
