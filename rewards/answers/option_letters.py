"""Read the options that an answer to a multiple-choice question names: `C` of "The answer is (C)." and `AC` of "故选：AC。"

Three kinds of naming are looked for, the surest first, and the first kind that occurs decides:

    final    \\boxed{C}, "the answer is C", "答案：C", "故选C", a first or last line of letters only
    judged   "C is correct", "C项正确", "I choose C", "therefore, C."
    line     a first or last line such as "C. Pneumonia" or "(C) because ..."

Options that the text rejects ("not B but C", "B is wrong", "排除B"), asks about ("Is it B?") or supposes ("if B") are not named. Where two
different answers are named, nothing is read: a wrong reading would train a wrong answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

LETTERS = "ABCDEFGHIJ"
"""The options of a question that does not say which it has."""

AMBIGUOUS = ""
"""Reading of a naming that leaves a choice open: "A or B"."""

_LATEX = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathit|mathsf|mbox|boldsymbol|emph|underline|boxed|fbox)\s*\{([^{}]*)\}"
)
_RUNS = re.compile(r"[^\S\n]*\n\s*|[^\S\n]+")
_SPACES = re.compile(r"\\(?:left|right|[,;:! ]|quad|qquad)|~|[\u200b-\u200f\ufeff]")
_MARKUP = re.compile(r"\\[()\[\]]|\$|\*|`|__|</?[A-Za-z][^<>]{0,40}>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)?\}[^{}]*)*)\}")
_QUESTION = re.compile(r"(?:^|(?<=[.!?;\n。；]))(?:[^.!?;\n。；]*+\?|[^.!?;\n。；]*?吗)")
_SUPPOSED = re.compile(r"(?i:\b(?:if|suppose|supposing|assume|assuming|unless|whether)\b)[^.,;\n]*|(?:如果|假如|假设|倘若|若)[^,。;\n]*")
_REJECTED = "▢"

_GOES_ON = (
    "because|since|as|for|and|or|but|is|are|was|due|so|according|based|from|among|rather|instead|if|when|not|with|which|that|by|in|on|per|"
    "option|choice|therefore|thus|hence|also|would|should|must|then|indeed|though|although|while|being|has|had"
)
"""Words after an option. Before any other word, `A` is an article and `I` a pronoun."""

_GOES_ON_ZH = "选项|项|因|由于|理由|解析|和|与|及|或|而|但|不|是|为|正确|对|错|符合|以及|且|还|吧|了|的|这|有误|最|排除|被排除"
"""Beginnings of Chinese words after an option. Before any other, the letter is part of a word: B超, A型."""

_SPECIES = (
    "coli|difficile|pylori|aureus|cereus|influenzae|perfringens|botulinum|tetani|pneumoniae|albicans|anthracis|fragilis|burgdorferi|elegans|"
    "faecalis|faecium|histolytica|diphtheriae|jejuni|gondii|granulosus|henselae|baumannii|cepacia|pertussis|melitensis|burnetii|immitis"
)
"""Second words of names such as E. coli, whose first letter is no option."""


def read_option(text: str, options: Collection[str] | Mapping[str, str] = LETTERS) -> str | None:
    """Read the options that a text names as its answer: their letters in capitals and in alphabetical order; None if it names none, or two.

    Args:
        text: an answer, or a whole completion.
        options: the letters that are options; or a mapping letter -> its text, by which an answer that is such a text is read as well.

    Example: `read_option("答案是A") == "A"`, `read_option("A and C") == "AC"`, `read_option("A patient") is None`.
    """
    reader = _reader("".join(sorted({letter.upper() for letter in options})))
    texts = {letter.upper(): _folded(of) for letter, of in options.items()} if isinstance(options, Mapping) else {}
    return reader.read(text, texts)


def _plain(text: str) -> str:
    """Drop LaTeX commands, markup and repeated white space, and write full-width characters as ASCII."""
    text = _SPACES.sub(" ", unicodedata.normalize("NFKC", text))
    for _ in range(4):  # \boxed{\text{\textbf{A}}}
        text = _LATEX.sub(r"\1", text)
    return _one_space(_MARKUP.sub("", text))


def _one_space(text: str) -> str:
    """Write each run of white space as one line feed or one space: patterns then need not try every part of a run."""
    return _RUNS.sub(lambda run: "\n" if "\n" in run[0] else " ", text).strip()


def _folded(text: str) -> str:
    return " ".join(_plain(text).casefold().split()).strip(" .,;:!?。，；：！？、\"'")


@lru_cache(maxsize=64)
def _reader(letters: str) -> _Reader:
    return _Reader(letters)


class _Reader:
    """The patterns for one set of letters."""

    def __init__(self, letters: str) -> None:
        self._letters = letters
        one, some = _option_patterns(letters)
        self._exact = re.compile(some)
        self._rejected = [re.compile(pattern) for pattern in _rejections(one, some, letters)]
        self._final = [re.compile(pattern, re.MULTILINE) for pattern in _final_namings(some)]
        self._judged = [re.compile(pattern, re.MULTILINE) for pattern in _judged_namings(some)]
        self._line = re.compile(
            rf"[\s>#\-•]*(?:(?i:answers?|all\s+of)\b|选项|选)?\s*(?P<named>{some})"
            rf"(?:\s*$|(?:\s*[.)\]:、,;。]|(?<=[)\]】])\s)(?!\s*(?i:{_SPECIES})\b)\s*(?P<rest>.*)|\s+[-–—]\s*(?P<after>.+)"
            rf"|\s+(?:(?=[一-鿿])|(?i:because|since|as|due)\b).*|选项\s*)$"
        )

    def read(self, text: str, texts: Mapping[str, str]) -> str | None:
        plain = _plain(text)
        for pattern in self._rejected:
            plain = pattern.sub(lambda match: match[0].replace(match["named"], _REJECTED), plain)
        lines = [line for line in plain.splitlines() if line.strip()]
        told = _one_space(_SUPPOSED.sub("", _QUESTION.sub("\n", plain)))
        final = [*self._found(self._final, told), *self._boxed(text, texts), *self._bare_ends(lines)]
        for found in (final, list(self._found(self._judged, told)), self._lines(lines, texts)):
            if found:
                return found[0] if len(set(found)) == 1 and found[0] else None
        return next((letter for letter, of in texts.items() if of and of == _folded(text)), None)

    def _found(self, patterns: list[re.Pattern[str]], text: str) -> Iterator[str]:
        for pattern in patterns:
            for match in pattern.finditer(text):
                yield self._letters_of(match["named"])

    def _boxed(self, text: str, texts: Mapping[str, str]) -> Iterator[str]:
        for box in _BOX.findall(text):
            content = _plain(box).strip()
            named = self._line_names(content, texts)
            if named is None:
                named = next((letter for letter, of in texts.items() if of and of == _folded(content)), None)
            if named is not None:
                yield named

    def _bare_ends(self, lines: list[str]) -> Iterator[str]:
        """Readings of the first and the last line, if they are nothing but letters."""
        for line in lines[:1] + lines[1:][-1:]:
            bare = line.strip(" \t>#-•.。,;:!")
            if self._exact.fullmatch(bare):
                yield self._letters_of(bare)

    def _lines(self, lines: list[str], texts: Mapping[str, str]) -> list[str]:
        """Readings of all lines that begin with an option; none if neither the first nor the last one does."""
        named = [self._line_names(line, texts) for line in lines]
        ends = named[:1] + named[-1:]
        return [each for each in named if each is not None] if any(each is not None for each in ends) else []

    def _line_names(self, line: str, texts: Mapping[str, str]) -> str | None:
        match = self._line.match(line.strip())
        if match is None:
            return None
        letters, rest = self._letters_of(match["named"]), match["rest"] or match["after"] or ""
        if re.search(rf"(?:^|[\s(,;])[({self._letters}]*[{self._letters}][.)、:](?:\s|$|[一-鿿])", f" {rest}"):
            return AMBIGUOUS  # "A. Pneumonia B. Asthma" lists the options
        if self._exact.fullmatch(rest.strip(" .。")):
            return AMBIGUOUS  # "A: B"
        other = next((letter for letter, of in texts.items() if rest and of == _folded(rest)), letters)
        return letters if other == letters else AMBIGUOUS

    def _letters_of(self, named: str) -> str:
        """The letters of a list such as `(A) and C`, sorted; AMBIGUOUS for alternatives, and where a letter is repeated."""
        if re.search(r"(?i:\bor\b)|或|/", named):
            return AMBIGUOUS
        found = [
            letter.upper()
            for letter in re.sub(r"(?i:\b(?:and|plus|both|options?|choices?)\b)", " ", named)
            if letter.upper() in self._letters
        ]
        return "".join(sorted(found)) if len(set(found)) == len(found) else AMBIGUOUS


def _option_patterns(letters: str) -> tuple[str, str]:
    """Patterns for one option, and for one or several: `A`, `(A)`, `AC`, `A, C`, `A and C`, `A、C`, `A or C`."""
    articles = "".join(letter for letter in letters if letter in "AI")
    others = "".join(letter for letter in letters if letter not in "AI")
    both = re.escape(letters) + re.escape(letters.lower())
    bare = [rf"[{re.escape(letters)}]{{2,}}"]
    if articles:
        bare.append(rf"[{articles}{articles.lower()}](?!\s+(?!(?:{_GOES_ON})\b)[A-Za-z]|\s+\d)")
    if others:
        bare.append(rf"[{re.escape(others)}{re.escape(others.lower())}]")
    end = rf"(?![A-Za-z0-9_%°#]|[-’'][A-Za-z0-9]|\+(?![{re.escape(letters)}](?![A-Za-z0-9+]))|\s*[=<>^]|(?!{_GOES_ON_ZH})[一-鿿])"
    one = (
        rf"(?:[(\[【\"'“‘「{{]\s*(?:[{re.escape(letters)}]{{2,}}|[{both}])\s*[)\]】\"'”’」}}]|(?<![A-Za-z0-9])(?:{'|'.join(bare)}){end}\)?)"
    )
    between = r"\s*+(?:,?+\s*+(?i:\band\b|\bor\b|\bplus\b)|[,、/&+;]|和|与|以及|及|或)\s*+"
    word = r"(?:(?i:\boptions?|\bchoices?|\bboth)\s+)?"
    return one, rf"{word}{one}(?:{between}{word}{one}{end}){{0,9}}+"


def _rejections(one: str, some: str, letters: str) -> tuple[str, ...]:
    no = r"(?i:(?:\bnot|n't|\bnever|\bneither|\bnor|\bthan|\binstead\s+of|\bexcept(?:\s+for)?|\beliminat\w+|\bexclud\w+|\bdiscard\w*|\breject\w*|"
    no += r"\brul\w+\s+out)(?:\s+be)?(?:\s+the)?(?:\s+(?:answers?|options?|choices?|letters?))?)\s+"
    no_zh = r"(?:不是|并非|而非|不选|不能选|不应选|不应该选|不应为|不应是|排除了?|错选|误选|不可能是|不会是|不为)\s*(?:选项|答案)?\s*"
    wrong = r"(?:wrong|incorrect|false|excluded|eliminated|ruled\s+out|implausible|unlikely|untrue)\b"
    verb = r"(?:is|are|was|were|does|do|did|would|can|could|should)"
    after = rf"(?i:\s*(?:options?|choices?)?\s*(?:{verb}(?:\s+be)?\s*(?:not\b|n't)|cannot\b|can't\b|"
    after += rf"(?:(?:{verb}|seems?|looks?)\s+)?(?:\w+ly\s+|also\s+)?{wrong}))"
    after_zh = rf"\s*(?:选项|项)?(?:是|为|则|都|均)*(?:错|不正确|不对|不符|不成立|有误|排除|被排除|不是(?!\s*[{letters}{_REJECTED}]))"
    return (
        rf"{no}(?P<named>{some})(?=\s*,?\s*(?i:but\b))",
        rf"{no}(?P<named>{one}(?:\s+(?i:or|and|nor)\s+{one})?)",
        rf"{no_zh}(?P<named>{one}(?:\s*(?:和|或|、|与)\s*{one})*)",
        rf"(?P<named>{some}){after}",
        rf"(?P<named>{some}){after_zh}",
    )


_IS = r"(?:(?i:is|are|was|be|would\s+be|should\s+be|must\s+be|has\s+to\s+be|will\s+be)\b|[:=\-–—>→])"
_FILLER = (
    r"(?:(?i:therefore|thus|hence|clearly|definitely|then|likely|most\s+likely|probably|indeed|actually|simply|just|obviously|certainly|the|"
    r"options?|choices?|letters?|answers?|both|all\s+of|statements?|indicated\s+by|given\s+by)\s*[,:]?\s*){0,4}"
)
_BUT = rf"(?:(?i:not)\s+{_REJECTED}\s*[,;]?\s*(?i:but|it\s+is|it's|rather)\s+(?:(?i:rather|instead)\s+)?)?"


def _final_namings(some: str) -> tuple[str, ...]:
    named = rf"(?P<named>{some})"
    of_question = r"(?:\s+(?:to|for|of)\s+(?:this|the)(?:\s+\w+){1,3}?)?"
    answer = rf"(?i:(?<!wrong )(?<!incorrect )\b(?:answers?|ans|answer\s+key)\b\.?(?:\s+(?:choice|option|letter))?{of_question})"
    option = r"(?i:\b(?:correct|right|best|final|appropriate|proper)\s+(?:option|choice|letter|one|selection)s?)"
    return (
        rf"(?:{answer}|{option}|^\s*(?i:option|choice)(?=\s*:))\s*(?:{_IS}\s*){{1,3}}{_FILLER}{_BUT}{_FILLER}{named}",
        rf"(?i:(?:^\s*|\b(?:correct|final|right|best|my)\s+)answer\.?)\s+{named}",
        rf"^\s*(?:#{{2,}}|(?i:correct\s*:))\s*{named}",
        rf"(?i:\bnot)\s+{_REJECTED}\s*[,;]?\s*(?i:but)\s+(?:(?i:rather|instead)\s+)?(?:(?i:option|choice)\s+)?{named}",
        rf"(?<!错误)答案\s*[】\])」]?\s*(?:应该|应当|应|就|只能|必然|显然|肯定)*\s*(?:(?:是|为|选择?|[:=])\s*)*(?:选项|选择)?\s*[:]?\s*{named}",
        rf"(?:而|应该|应当)(?:是|应选|应为|为)\s*(?:选项)?\s*{named}",
        rf"(?<![不误错若多可被想能候备单预筛])选(?:择|项(?=\s*[为是:]))?(?:答案)?(?:的是|为|是|:)?\s*:?\s*{named}",
    )


def _judged_namings(some: str) -> tuple[str, ...]:
    named = rf"(?P<named>{some})"
    right = r"(?:the\s+|a\s+)?(?:most\s+|only\s+)*(?:correct|right|best|appropriate|true|answer|accurate|likely)\b"
    start = r"(?:^|[.;,:!]|\b(?i:so|thus|hence|therefore|only|and|but|then|both|option|choice|answer|statement|letter|that|think|believe))\s*,?\s*"
    end = r"(?=\s*(?:[.!,;\n]|$|(?i:because|since|as)\b))"
    it_is = r"(?i:it\s+is|it's|it\s+must\s+be|it\s+should\s+be|that\s+is|that's)"
    option = r"(?:(?i:the\s+)?(?i:options?|choices?|answers?|letters?)\s+)?"
    return (
        rf"{start}{named}\s+(?i:(?:is|are|seems?|must\s+be|would\s+be|should\s+be)\s+(?:\w+ly\s+|thus\s+|therefore\s+|indeed\s+)?{right})",
        rf"{named}\s*(?:选项|项)?\s*(?:是|为|最)?\s*(?:正确|对的|最佳|符合题意|合适)",
        rf"(?:^|[.;!,])\s*(?i:so|thus|hence|therefore|∴)[,:]?\s*(?:{it_is}\s+)?{option}{named}(?=\s*(?:[.!]|$))",
        rf"(?:所以|因此|综上(?:所述)?)[,:]?\s*是?\s*{named}(?=\s*(?:[。.!]|$))",
        rf"\b(?i:I|we)(?:'d|'ll|(?i:\s+would|\s+will|\s+should|\s+must))?\s+(?i:choose|pick|select|chose|go\s+with|opt\s+for|vote\s+for)\s+{option}{named}",
        rf"\b(?i:I\s+(?:think|believe|say|guess|suspect))\s+(?:that\s+)?(?:{it_is}\s+)?{option}{named}{end}",
        rf"(?:^|[.;!,])\s*{it_is}\s+{option}{named}{end}",
    )
