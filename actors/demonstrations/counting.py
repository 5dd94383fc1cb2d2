"""Numbers of rows, sequences and tokens of demonstrations, for each data set that they come from, and sentences about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from actors.rows.sources import PartCount
from configs.schema.sft import SftDataSection


@dataclass
class DemonstrationCounts:
    """Numbers of rows, sequences and tokens of one file or one data set, and of those left out."""

    rows: int = 0
    sequences: int = 0
    """More than `rows` if the template drops the reasoning of earlier turns: then each turn is a sequence."""
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens that are imitated."""
    longest_tokens: int = 0
    too_long: int = 0
    """Sequences over `data.max_length`: left out, or cut off under `data.too_long: truncate`."""
    without_answer: int = 0
    """Sequences left out because no imitated token remained, mostly after they were cut off; and rows in which the assistant answers nothing."""
    not_rendered: int = 0
    """Rows left out because they have tools, calls or messages that the chat template does not render."""
    malformed: int = 0
    """Rows left out because they hold no conversation, or no prompt and completion."""
    refused_by_template: int = 0
    """Rows left out because the chat template refuses them, or does not render an answer after its generation prompt."""
    also_held_out: int = 0
    """Training sequences left out because an equal one is held out."""
    noted: dict[str, int] = field(default_factory=dict)
    """All that was converted, or is not used, in rows that are used -> number of such rows."""
    first_at: dict[str, str] = field(default_factory=dict)
    """Name of one of the counts from `too_long` on, or a key of `noted` -> location of the first row in it, and what is wrong there if rows
    differ in that."""

    def __add__(self, other: DemonstrationCounts) -> DemonstrationCounts:
        summed = {each.name: _number(self, each.name) + _number(other, each.name) for each in fields(self) if each.name not in _NOT_SUMMED}
        longest = max(self.longest_tokens, other.longest_tokens)
        noted = {clause: self.noted.get(clause, 0) + other.noted.get(clause, 0) for clause in {**self.noted, **other.noted}}
        return DemonstrationCounts(**summed, longest_tokens=longest, noted=noted, first_at={**other.first_at, **self.first_at})

    def note(self, reason: str, told: str) -> None:
        """Count a row or sequence under one of the counts from `too_long` on.

        Args:
            told: its location, which is kept if it is the first of this count.
        """
        vars(self)[reason] += 1
        self.first_at.setdefault(reason, told)

    def remark(self, clauses: Sequence[str], location: str) -> None:
        """Count a row under each clause of `noted`."""
        for clause in clauses:
            self.noted[clause] = self.noted.get(clause, 0) + 1
            self.first_at.setdefault(clause, location)


@dataclass(frozen=True)
class SourceCounts(PartCount):
    """One data set of a mixture, and what became of the rows that it takes."""

    train: DemonstrationCounts
    held_out: DemonstrationCounts
    """Nothing if the held-out rows are of another data set."""


_NOT_SUMMED = ("longest_tokens", "noted", "first_at")


def _number(counts: DemonstrationCounts, name: str) -> int:
    return vars(counts)[name]


def total(by_source: Sequence[DemonstrationCounts]) -> DemonstrationCounts:
    """The counts of all data sets together."""
    return sum(by_source[1:], by_source[0])


def reasons(data: SftDataSection) -> Mapping[str, str]:
    """Name of a count -> what was done to the sequences in it, for people."""
    cut = "cut off at" if data.too_long == "truncate" else "left out, being over"
    return {
        "too_long": f"sequences {cut} data.max_length {data.max_length}",
        "without_answer": "sequences left out, with nothing to imitate within data.max_length",
        "not_rendered": "rows left out, with tools or messages that the chat template does not render",
        "malformed": "rows left out, being malformed",
        "refused_by_template": "rows left out, which the chat template cannot render",
        "also_held_out": "sequences not trained on, being held out as well",
    }


def left_out(data: SftDataSection, counts: DemonstrationCounts) -> Iterator[str]:
    """One clause for each reason for which rows are not used as they are, and for what was converted: reason, number, first row."""
    for name, reason in reasons(data).items():
        if number := _number(counts, name):
            yield f"{reason}: {number:,} (the first: {counts.first_at[name]})"
    for clause, number in counts.noted.items():
        yield f"rows that {clause}: {number:,} (the first: {counts.first_at[clause]})"


def of_each_source(data: SftDataSection, sources: Sequence[SourceCounts]) -> Iterator[str]:
    """One sentence for each data set of a mixture."""
    for source in sources:
        train, held_out = source.train, source.held_out
        unused = source.kept - train.rows - held_out.rows
        clauses = [
            f"{train.rows:,} to train on, {held_out.rows:,} held out" + f", {unused:,} not among data.train_samples" * bool(unused),
            f"{train.sequences:,} sequences, {train.tokens:,} tokens",
            *left_out(data, train + held_out),
        ]
        yield f"{source}: {'; '.join(clauses)}"
