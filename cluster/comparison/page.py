"""`comparison.html`: the answers of several models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cluster.comparison.differences import ComparedSet
from cluster.evaluation.measurement import RIGHT, Sampled
from cluster.evaluation.table import mean_name, measures, remarks
from cluster.report.page import render_page, write_page
from cluster.report.samples import DATA_CHARACTERS, is_long, shown

FILE_NAME = "comparison.html"
PROMPTS_OF_A_SET = 200
"""Greatest number of prompts on the page, those on which models differ before all others. The Parquet file has all."""


@dataclass(frozen=True)
class ShownAnswer:
    """The answer of one model to a prompt: its first completion, and how many of its completions are right."""

    model: str
    style: int
    text: str
    value: float | None
    right: int
    completions: int
    tokens: int
    truncated: bool
    outcome: str
    rewards: dict[str, float | None]

    @property
    def long(self) -> bool:
        return is_long(self.text)


@dataclass(frozen=True)
class ShownPrompt:
    number: int
    text: str
    data: dict[str, str]
    answers: Sequence[ShownAnswer]
    better: Sequence[str]
    """Models with a higher value than the first model."""
    worse: Sequence[str]

    @property
    def long(self) -> bool:
        return is_long(self.text)


def write_comparison(sets: Sequence[ComparedSet], sources: dict[str, str], folder: Path) -> Path:
    """Write the page; returns its path.

    Args:
        sources: model -> folder that it was loaded from.
    """
    file = folder / FILE_NAME
    write_page(file, render_comparison(sets, sources))
    return file


def render_comparison(sets: Sequence[ComparedSet], sources: dict[str, str]) -> str:
    """Make the page."""
    return render_page(
        Path(__file__).parent,
        "comparison",
        title=f"{', '.join(sources)} – rollcast comparison",
        sources=sources,
        sets=[(compared, _shown_prompts(compared)) for compared in sets],
        scale=_scale,
        mean_name=mean_name,
        other_measures=_other_measures,
        remarks=[line for compared in sets for model, answers in compared.answers.items() for line in remarks([answers.evaluation], model)],
    )


def _scale(compared: ComparedSet) -> tuple[float, float]:
    """Compute the ends of the differences' axis, with 0 in the middle."""
    ends = [abs(end) for difference in compared.differences.values() for end in difference.interval]
    widest = max((*ends, 1e-3)) * 1.08
    return -widest, widest


def _other_measures(compared: ComparedSet) -> list[list[str]]:
    """Make the rows of a table: a measure, and its value for each model."""
    columns = [{name: (value, interval) for name, value, interval in measures(answers.evaluation)} for answers in compared.answers.values()]
    mean = mean_name(compared.answers[compared.models[0]].evaluation)
    names = [name for name in dict.fromkeys(name for column in columns for name in column) if name != mean]
    return [[name, *(_measure(*column.get(name, ("", ""))) for column in columns)] for name in names]


def _measure(value: str, interval: str) -> str:
    return f"{value} ({interval})" if interval else value


def _shown_prompts(compared: ComparedSet) -> list[ShownPrompt]:
    prompts = [_shown_prompt(number, compared, said) for number, said in enumerate(compared.prompts(), start=1)]
    chosen = sorted(prompts, key=lambda prompt: not (prompt.better or prompt.worse))[:PROMPTS_OF_A_SET]
    return sorted(chosen, key=lambda prompt: prompt.number)


def _shown_prompt(number: int, compared: ComparedSet, said: dict[str, Sampled]) -> ShownPrompt:
    means = dict(_means(compared, said))
    first = means.get(compared.models[0])
    others = {model: mean for model, mean in means.items() if mean is not None}
    prompt = next(iter(said.values())).prompt
    return ShownPrompt(
        number=number,
        text=shown(prompt.text),
        data={name: shown(str(value), DATA_CHARACTERS) for name, value in prompt.columns.items() if value is not None},
        answers=[_shown_answer(compared, model, one) for model, one in said.items()],
        better=[model for model, mean in others.items() if first is not None and mean > first],
        worse=[model for model, mean in others.items() if first is not None and mean < first],
    )


def _means(compared: ComparedSet, said: dict[str, Sampled]) -> Iterator[tuple[str, float | None]]:
    for model, one in said.items():
        values_G = one.values_G(compared.answers[model].evaluation.judge)
        yield model, None if values_G is None else fmean(values_G)


def _shown_answer(compared: ComparedSet, model: str, one: Sampled) -> ShownAnswer:
    judge = compared.answers[model].evaluation.judge
    values_G = one.values_G(judge)
    column = one.scores.columns.get(judge)
    return ShownAnswer(
        model=model,
        style=compared.models.index(model),
        text=shown(one.body.texts_G[0]),
        value=values_G[0] if values_G else None,
        right=sum(value >= RIGHT for value in values_G or ()),
        completions=len(one.body),
        tokens=one.summary.completion_tokens_G[0],
        truncated=one.summary.truncated_G[0],
        outcome=column.outcomes_G[0] if column else "",
        rewards={name: column.values_G[0] for name, column in one.scores.columns.items() if name != judge},
    )
