"""Which rows are trained on, as far as a row says it by itself: its measured pass rate, and whether it is in an evaluation set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.prompts.decontamination import Contaminated, Decontamination
from actors.rows.rows import Rows
from actors.rows.views import require_column
from configs.contracts.errors import DataError
from configs.schema.data import DataSection

_MEASURE = "measure it with `rollcast data pass-rate`, or remove the row"


@dataclass
class RowFilters:
    """Leaves rows out and counts them."""

    data: DataSection
    decontamination: Decontamination
    outside_pass_rate: int = 0

    @classmethod
    def of(cls, data: DataSection, rows: Rows) -> RowFilters:
        """The filters of a run.

        Raises:
            DataError: an evaluation set cannot be read, or the data have no column of pass rates.
        """
        if data.filters_by_pass_rate:
            require_column(rows, data.pass_rate_column, "data.pass_rate_column")
        return cls(data, Decontamination.against(data.decontaminate))

    def fresh(self) -> RowFilters:
        """The same filters, with nothing counted yet."""
        return RowFilters(self.data, self.decontamination.fresh())

    @property
    def contaminated(self) -> Counter[str]:
        """Evaluation set -> rows left out for it."""
        return self.decontamination.counts

    @property
    def examples(self) -> list[Contaminated]:
        return self.decontamination.examples

    def kept(self, rows: Rows, indices: Sequence[int], prompts: Sequence[Any]) -> list[bool]:
        """Which of these rows stay; `prompts` are the values of their prompt column.

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
    """A column of numbers, or of texts that are numbers, as CSV has them: float64 [indices].

    Raises:
        DataError: a row has none; names the row and says `remedy`.
    """
    values = rows.values(column, indices)
    found = np.array([_number(value) for value in values], dtype=np.float64)
    missing = np.flatnonzero(~np.isfinite(found))
    if len(missing):
        first = int(missing[0])
        more = f" ({len(missing)} rows of {len(found)} looked at have none)" if len(missing) > 1 else ""
        raise DataError(f"{rows.location(indices[first])}: column {column!r} holds {values[first]!r}, which is no number{more}; {remedy}")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
