"""Spellings of one thing: full-width forms, mathematics in Unicode and in LaTeX, LaTeX around plain text, and text for comparison."""

from __future__ import annotations

import re
import unicodedata

_FULL_WIDTH = str.maketrans(
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | {0x3000: 0x20, ord("−"): "-", ord("﹣"): "-", ord("℃"): "°C", ord("℉"): "°F", ord("μ"): "µ"}
)
_SIGNS = {
    "×": r"\times", "÷": r"\div", "·": r"\cdot", "⋅": r"\cdot", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "∞": r"\infty", "°": r"^\circ",
    "∪": r"\cup", "∩": r"\cap", "∅": r"\emptyset", "∈": r"\in", "±": r"\pm", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta",
    "ε": r"\epsilon", "θ": r"\theta", "λ": r"\lambda", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\phi",
    "ω": r"\omega", "Δ": r"\Delta", "Ω": r"\Omega",
}  # fmt: skip
_TABLE = str.maketrans({sign: f"{latex} " for sign, latex in _SIGNS.items()} | {"⁄": "/"})
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Zπ]))")
_NAMED = re.compile(r"(?<![A-Za-z\\])(pi|ln|log|sin|cos|tan|cot|exp|infinity|sqrt)(?![A-Za-z])")
_ROOT_CALL = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_EN_DASH = re.compile(r"(?<![\w)}\]])\s*[–—]\s*(?=[\d.\\√])")
"""A dash that stands for minus: before a number, and not between two things."""

_TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal|md|up)?|mbox|mathrm|mathbf|mathit|operatorname|mathsf|emph)\s*\{([^{}]*)\}")
_NO_SPACE = re.compile(r"\\!\s*")
_SPACING = re.compile(r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])\s?")
_OHM = re.compile(r"(?<=\d)\s*([kM]?)\\Omega(?![a-zA-Z])")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_ENCLOSING = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
"""Ranges of characters that are written without spaces between words: Japanese kana, Chinese and Korean."""
_DIGIT_BESIDE_CJK = re.compile(rf"(?<=[{CJK}])(?=[\d$])|(?<=\d)(?=[{CJK}])")
SPACE_BESIDE_CJK = re.compile(rf"(?<=[{CJK}])\s+|\s+(?=[{CJK}])")
_EXPONENT = re.compile(r"\^(-\d+|\d{2,})")
_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?![\w*])|(?<!\w)__(?=\S)([^_\n]+?)(?<=\S)__(?!\w)|(?<!`)`([^`\n]+)`(?!`)")
_LINE_MARK = re.compile(r"^[ \t]*(?:#{1,3}[ \t]+|[*•][ \t]+|-[ \t]+(?![\d.\\$]))", re.MULTILINE)
_INDEX = re.compile(r"[_^]\{?(\w+)\}?")
_QUOTES = str.maketrans("“”„‘’‚′`‐‑‒–—―−", "\"\"\"'''''-------")
_KEPT = frozenset("%#@&/\\+-°$€£¥")
"""Punctuation that is a part of what it stands beside: `C#`, `50%`, `$5`."""


def typed(text: str) -> str:
    """Write full-width forms as they are typed on a keyboard: `１２` as 12, `（Ａ）` as (A), and a minus sign as a hyphen."""
    return text if text.isascii() else _EN_DASH.sub("-", text).translate(_FULL_WIDTH)


def latex_of(text: str) -> str:
    """Write Unicode's mathematics and names of functions in LaTeX: `√2` as \\sqrt{2}, `x²` as x^{2}, `½` as \\frac{1}{2}, `ln 2` as \\ln 2."""
    text = _NAMED.sub(lambda found: r"\infty " if found[1] == "infinity" else rf"\{found[1]} ", text)
    text = _ROOT_CALL.sub(r"\\sqrt{\1}", text)
    if text.isascii():
        return text
    text = _VULGAR.sub(_fraction, text)
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found[1] or found[2]}}}", text)
    return text.translate(_TABLE)


def braced(text: str) -> str:
    """Put the exponents of a text that is no LaTeX in braces: `10^-3` and `2^10` mean 10^{-3} and 2^{10}."""
    return _EXPONENT.sub(r"^{\1}", text)


def spaced(text: str) -> str:
    """Put spaces between Chinese, Japanese or Korean and digits, which math-verify needs to find a number."""
    return text if text.isascii() else _DIGIT_BESIDE_CJK.sub(" ", text)


def without_markdown(text: str) -> str:
    """Take the marks of Markdown away: bold type, code, headings and bullets. `2**3`, `#### 42` and `- 5` stay."""
    return _LINE_MARK.sub("", _BOLD.sub(lambda found: found[1] or found[2] or found[3], text))


def _fraction(found: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", found[0]).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if above and below else found[0]


def plain(text: str) -> str:
    """Take LaTeX's commands for text, space and layout out of an answer: `3\\,\\text{cm}` becomes `3 cm`, and `\\$5` becomes `$5`."""
    text = _SPACING.sub(" ", _LAYOUT.sub("", _NO_SPACE.sub("", text))).replace("{,}", ",")
    while (unwrapped := _TEXT_COMMAND.sub(r" \1", text)) != text:
        text = unwrapped
    text = _OHM.sub(r" \1Ω", _DEGREES.sub("°", text))
    for sign in "$%#&":
        text = text.replace(f"\\{sign}", sign)
    return " ".join(text.split())


def folded(text: str) -> str:
    """Fold a text for comparison: Unicode NFKC, case, white space, indices (`H_2O`), LaTeX's text commands, and the punctuation around it.

    Example: `folded("**孕期 营养指导**。") == folded("孕期营养指导")`.
    """
    text = _INDEX.sub(r"\1", unicodedata.normalize("NFKC", plain(text)).translate(_QUOTES).casefold())
    text = SPACE_BESIDE_CJK.sub("", " ".join(text.split()))
    if not any(letter.isalpha() for letter in text):
        text = text.replace(" ", "")
    while (stripped := _without_edges(text)) != text:
        text = stripped
    return text


def _without_edges(text: str) -> str:
    """Drop one layer of what surrounds a text: white space, punctuation, or a pair of brackets."""
    start, end = 0, len(text)
    while start < end and _is_edge(text[start]):
        start += 1
    while end > start and _is_edge(text[end - 1]):
        end -= 1
    text = text[start:end]
    for opening, closing in _ENCLOSING:
        if len(text) > 2 and text[0] == opening and text[-1] == closing and opening not in text[1:-1] and closing not in text[1:-1]:
            return text[1:-1]
    return text


def _is_edge(letter: str) -> bool:
    if letter.isspace():
        return True
    category = unicodedata.category(letter)
    return letter not in _KEPT and category.startswith("P") and category not in ("Ps", "Pe")
