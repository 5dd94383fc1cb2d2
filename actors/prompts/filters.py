"""Filters of training rows: by their measured pass rate, and by words shared with an evaluation set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.prompts.decontamination import Contaminated, Decontamination
from actors.rows.rows import Rows
from actors.rows.views import require_column
from configs.contracts.errors import DataError
from configs.schema.data import DataSection

_MEASURE = "measure it with `rollcast data pass-rate`, or remove the row"


@dataclass
class RowFilters:
    """The filters of a run, and counts of the rows that they left out."""

    data: DataSection
    decontamination: Decontamination
    outside_pass_rate: int = 0

    @classmethod
    def of(cls, data: DataSection, rows: Rows) -> RowFilters:
        """Make the filters of a run.

        Raises:
            DataError: an evaluation set cannot be read, or the data have no column of pass rates.
        """
        if data.filters_by_pass_rate:
            require_column(rows, data.pass_rate_column, "data.pass_rate_column")
        return cls(data, Decontamination.against(data.decontaminate))

    def fresh(self) -> RowFilters:
        """A copy with the same settings and counts of zero."""
        return RowFilters(self.data, self.decontamination.fresh())

    @property
    def contaminated(self) -> Counter[str]:
        """Evaluation set -> number of rows left out for it."""
        return self.decontamination.counts

    @property
    def examples(self) -> list[Contaminated]:
        return self.decontamination.examples

    def kept(self, rows: Rows, indices: Sequence[int], prompts: Sequence[object]) -> list[bool]:
        """Test rows, True for each that stays; `prompts` are the values of their prompt column.

        Raises:
            DataError: a row has no pass rate where one is needed.
        """
        inside = self._inside(rows, indices)
        return [
            fits and not (self.data.decontaminate and self.decontamination.refuses(prompt, rows.location(index)))
            for index, prompt, fits in zip(indices, prompts, inside, strict=True)
        ]

    def _inside(self, rows: Rows, indices: Sequence[int]) -> list[bool]:
        if not self.data.filters_by_pass_rate:
            return [True] * len(indices)
        rates = numbers(rows, self.data.pass_rate_column, indices, _MEASURE)
        low = -math.inf if self.data.min_pass_rate is None else self.data.min_pass_rate
        high = math.inf if self.data.max_pass_rate is None else self.data.max_pass_rate
        inside = (low < rates) & (rates < high)
        self.outside_pass_rate += int((~inside).sum())
        return inside.tolist()


def numbers(rows: Rows, column: str, indices: Sequence[int], remedy: str) -> np.ndarray:
    """Read a column of numbers, or of numbers as text (CSV): float64 [indices].

    Raises:
        DataError: a value is no finite number; the text names the row and ends with `remedy`.
    """
    values = rows.values(column, indices)
    found = np.array([_number(value) for value in values], dtype=np.float64)
    missing = np.flatnonzero(~np.isfinite(found))
    if len(missing):
        first = int(missing[0])
        more = f" ({len(missing)} rows of {len(found)} looked at have none)" if len(missing) > 1 else ""
        raise DataError(
            f"{rows.location(indices[first])}: column {column!r} holds {values[first]!r}, which is not a number{more}; {remedy}"
        )
    return found


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
