"""`rollcast data`: show the data that a run would train on. Needs neither Ray nor a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.prompts.leaks import leak_warnings
from actors.prompts.source import PromptSource
from actors.prompts.streamed import open_prompts
from cluster.inspection.first_checks import tokenizer_of
from cluster.inspection.unused import unused_by_run
from cluster.models.trainable import require_trainable, warnings_of_fit
from cluster.output.counting import counting
from cluster.output.printable import beginning, printable
from cluster.output.sampled_texts import print_sample
from configs.contracts.errors import DataError, RewardError
from configs.contracts.records import Prompt
from configs.schema.run import RunConfig
from rewards import validate
from rewards.grading.golds import check_golds, gold_sentences, require_readable_golds
from rewards.grading.trial import Needs, require_columns, shadowed_columns, try_own_rewards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_COLUMNS = ("demonstration", "completion", "solution", "answer")
"""Columns whose lengths are shown beside the prompts' if they hold text."""

QUANTILES = {"shortest": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
_SHOWN_CHARACTERS = 100
_CURRICULUM_HEAD = 5


def show_data(config: RunConfig, examples: int, golds: int, console: Console) -> bool:
    """Print row counts, lengths, prompts as the model reads them, gold answers that cannot be read, and warnings.

    Args:
        examples: number of prompts to print in full.
        golds: number of prompts whose gold answers are read and whose answers are measured.

    Returns:
        True if a run would start with these data.

    Raises:
        ConfigError: the model cannot be trained.
        DataError: the data cannot be read, or no row is left.
    """
    require_trainable(config)
    with tempfile.TemporaryDirectory(prefix="rollcast-data-") as folder:
        tokenizer = tokenizer_of(config, Path(folder))
        fit = warnings_of_fit(config, tokenizer, config.model.path)
        names = [spec.name for spec in config.rewards.functions]
        prompts = open_prompts(config.data, tokenizer, seed=config.seed, folder=Path(folder), reward_names=names)
        looked_at = prompts.first_prompts(max(examples, golds, _CURRICULUM_HEAD))
        console.print(counts_table(config, prompts))
        if prompts.parts:
            console.print(_mixture_table(prompts))
        console.print(lengths_table(prompts, tokenizer, looked_at[:golds]))
        for line in _facts(config, prompts, looked_at):
            console.print(line, markup=False, highlight=False)
        needs = try_own_rewards(config.rewards_resolved)
        unused, notice = unused_by_run(config, prompts, needs)
        if notice:
            console.print(printable(notice), markup=False, highlight=False)
        leaks = leak_warnings(looked_at[: max(golds, 0)])
        faults = list(_show_golds(config, needs, looked_at[:golds], console))
        for prompt in looked_at[:examples]:
            _show_prompt(prompt, tokenizer, console)
        for sentence in (*fit, *prompts.warnings, *leaks, *unused, *shadowed_columns(looked_at[0].columns), *faults):
            console.print(f"warning: {sentence}", style="yellow", markup=False, highlight=False)
    return not faults


def counts_table(config: RunConfig, prompts: PromptSource) -> Table:
    """Rows read, rows left out for each reason, and rows trained on."""
    counts, data = prompts.counts, config.data
    left_out = {
        "held out": counts.held_out if data.eval_path is None else 0,
        "not among data.train_samples": counts.not_sampled,
        f"pass rate not in ({_bound(data.min_pass_rate)}, {_bound(data.max_pass_rate)})": counts.outside_pass_rate,
        **{f"8 words in a row with {name}": rows for name, rows in counts.contaminated.items()},
        f"longer than {data.max_prompt_length} tokens": counts.too_long - (counts.held_out_too_long if data.eval_path else 0),
        "equal to a held-out prompt": counts.also_held_out,
    }
    source = f"the first {counts.rows:,} rows of {data.source}" if data.streaming else data.source
    table = Table("rows", "", title=source, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[1].justify = "right"
    table.add_row("read" if data.streaming else "there", f"{counts.rows:,}")
    for why, rows in left_out.items():
        if rows or why.startswith("8 words"):
            table.add_row(f"  {why}", f"-{rows:,}" if rows else "0")
    table.add_row("trained on", f"{counts.trained:,}", style="bold")
    if data.eval_path is not None and data.eval_samples:
        table.add_row(f"held out, from {data.eval_path}", f"{counts.held_out:,}")
    return table


def _bound(value: float | None) -> str:
    """A bound of the pass rate, for people."""
    return "any" if value is None else f"{value:g}"


def _mixture_table(prompts: PromptSource) -> Table:
    """Rows of each data set of a mixture: all, kept, and their share of the mixture."""
    table = Table("data set", "rows", "kept", "share", title="mixture", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    total = sum(part.kept for part in prompts.parts)
    for part in prompts.parts:
        table.add_row(part.path, f"{part.rows:,}", f"{part.kept:,}", f"{part.kept / total:.1%}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def lengths_table(prompts: PromptSource, tokenizer: PreTrainedTokenizerBase, looked_at: Sequence[Prompt]) -> Table:
    """Quantiles of lengths in tokens: of all prompts that are trained on, and of the answers in `looked_at`."""
    table = Table("tokens", *QUANTILES, "of", title="lengths", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    measured = {"prompt": prompts.prompt_tokens}
    for name in ANSWER_COLUMNS:
        texts = [text for prompt in looked_at if isinstance(text := prompt.columns.get(name), str)]
        if texts:
            encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            measured[name] = np.array([len(token_ids) for token_ids in encoded])  # type: ignore[arg-type]
    for name, tokens in measured.items():
        table.add_row(name, *(f"{np.quantile(tokens, share, method='higher'):,}" for share in QUANTILES.values()), f"{len(tokens):,}")
    return table


def _facts(config: RunConfig, prompts: PromptSource, looked_at: Sequence[Prompt]) -> Iterator[str]:
    """Sentences on steps, rows that an evaluation set contains too, and the curriculum."""
    data, groups = config.data, config.groups_per_step
    if data.streaming:
        yield f"a step takes {groups} prompts; {config.learner.max_steps:,} steps draw {config.learner.max_steps * groups:,}, or more if groups are left out"
    else:
        epoch = prompts.counts.trained // groups
        steps = (
            config.learner.max_steps
            if config.learner.max_steps > 0
            else int(config.learner.num_train_epochs * prompts.counts.trained) // groups
        )
        yield f"a step takes {groups} prompts; an epoch has {epoch:,} steps, the run {steps:,}"
    for removed in prompts.contaminated:
        yield f"left out: {removed.location}: {removed.evaluation_set} has {removed.ngram!r} too"
    if data.curriculum_column is not None:
        head = ", ".join(f"{prompt.columns.get(data.curriculum_column)} ({prompt.id})" for prompt in looked_at[:_CURRICULUM_HEAD])
        order = "descending" if data.curriculum_descending else "ascending"
        yield f"curriculum: the first epoch is ordered by {data.curriculum_column}, {order}: {head}, ..."


def _show_golds(config: RunConfig, needs: Needs, looked_at: Sequence[Prompt], console: Console) -> Iterator[str]:
    """Print which gold answers the rewards can read; yields the reasons for which a run would be refused."""
    section = config.rewards_resolved
    try:
        validate(section, looked_at[0].columns)
        require_columns(needs, looked_at[0].columns)
        with counting("gold answers", len(looked_at), Console(emoji=False, stderr=True)) as advance:
            checks = check_golds(section, [prompt.columns for prompt in looked_at], advance=lambda: advance(1))
    except (DataError, RewardError) as error:
        yield error.message
        return
    for check in checks:
        console.print(printable("\n".join(gold_sentences(check))), markup=False, highlight=False)
    try:
        require_readable_golds(checks)
    except DataError as error:
        yield error.message


def _show_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print a prompt as the model reads it, special tokens in reverse, and the other columns of its row."""
    columns = [
        Text(f"  {printable(name)}: ", style="dim").append(_shortened(value), style="not dim") for name, value in prompt.columns.items()
    ]
    texts = [visible(prompt.token_ids, tokenizer), *([Text("\n").join(columns)] if columns else [])]
    print_sample(f"prompt {prompt.id}, {len(prompt.token_ids)} tokens", texts, console)


def visible(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Text:
    """Decode tokens to styled text; special tokens are included, in reverse."""
    special, shown = set(tokenizer.all_special_ids), Text()
    pending: list[int] = []
    for token_id in (*token_ids, None):
        if token_id is not None and token_id not in special:
            pending.append(token_id)
            continue
        shown.append(printable(str(tokenizer.decode(pending))))
        pending = []
        if token_id is not None:
            shown.append(str(tokenizer.decode([token_id])), style="reverse")
    return shown


def _shortened(value: object) -> str:
    """The value as one line of at most `_SHOWN_CHARACTERS` characters."""
    text = printable(str(value).replace("\n", "\\n"))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{beginning(text, _SHOWN_CHARACTERS - 3)}..."
