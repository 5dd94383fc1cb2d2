"""Differences between models on the same prompts: each model against the first, prompt by prompt. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table

from cluster.evaluation.measurement import Answers, Sampled
from cluster.evaluation.statistics import Difference, paired_difference
from cluster.evaluation.table import mean_name
from configs.contracts.records import PromptId


@dataclass(frozen=True)
class ComparedSet:
    """One data set, answered by every model."""

    name: str
    answers: Mapping[str, Answers]
    """Model -> its answers, in the order of the command line. The others are compared with the first."""
    differences: Mapping[str, Difference]
    """Every other model -> its mean value less that of the first, over the prompts that count for both. The values are the judge's."""

    @property
    def models(self) -> list[str]:
        return list(self.answers)

    def prompts(self) -> list[dict[str, Sampled]]:
        """Return for each prompt the answers by model. A model whose engines refused the prompt is missing."""
        by_id: dict[PromptId, dict[str, Sampled]] = {}
        for model, answers in self.answers.items():
            for one in answers.sampled:
                by_id.setdefault(one.prompt.id, {})[model] = one
        return [by_id[prompt_id] for prompt_id in sorted(by_id)]


def compare_set(answers: Mapping[str, Answers], seed: int) -> ComparedSet:
    """Compare the answers of models to the same prompts.

    Args:
        answers: model -> its answers; at least one model.
        seed: seed of the bootstrap.
    """
    first, *others = answers
    differences = {}
    for model in others:
        pairs = _pairs(answers[model], answers[first])
        if pairs:
            values, references = zip(*pairs, strict=True)
            differences[model] = paired_difference(values, references, seed)
    return ComparedSet(answers[first].evaluation.name, answers, differences)


def mean_values(answers: Answers) -> dict[PromptId, float]:
    """Average the judge's values for every prompt that counts."""
    judged = ((one.prompt.id, one.values_G(answers.evaluation.judge)) for one in answers.sampled)
    return {prompt_id: fmean(values_G) for prompt_id, values_G in judged if values_G is not None}


def _pairs(answers: Answers, reference: Answers) -> list[tuple[float, float]]:
    values, references = mean_values(answers), mean_values(reference)
    return [(values[prompt_id], references[prompt_id]) for prompt_id in sorted(values.keys() & references.keys())]


def comparison_table(compared: ComparedSet) -> Table:
    """Make a table with a row for each model: its mean, and its difference from the first."""
    first = compared.models[0]
    evaluation = compared.answers[first].evaluation
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{compared.name}: {mean_name(evaluation)}", title_justify="left")
    headings = ("model", "mean", "95 %", f"less {first}", "95 %", "better, worse")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading != "model")
    for model, answers in compared.answers.items():
        found, difference = answers.evaluation, compared.differences.get(model)
        cells = ["", "", ""]
        if difference is not None:
            bounds = f"{difference.interval.low:+.3f} … {difference.interval.high:+.3f}"
            cells = [f"{difference.mean:+.3f}", bounds, f"{difference.better}, {difference.worse}"]
        bounds = "{:.3f}–{:.3f}".format(*found.interval) if found.interval else ""
        table.add_row(model, "-" if found.accuracy is None else f"{found.accuracy:.3f}", bounds, *cells)
    return table


def summary_of(sets: Sequence[ComparedSet]) -> list[dict[str, object]]:
    """Return the comparison as JSON values."""
    return [
        {
            "name": compared.name,
            "evaluations": {model: answers.evaluation.model_dump(mode="json") for model, answers in compared.answers.items()},
            "differences": {
                model: {
                    "to": compared.models[0],
                    "mean": difference.mean,
                    "interval": list(difference.interval),
                    "better": difference.better,
                    "worse": difference.worse,
                }
                for model, difference in compared.differences.items()
            },
        }
        for compared in sets
    ]
