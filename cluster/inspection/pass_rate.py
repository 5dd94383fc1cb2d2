"""`rollcast data pass-rate`: how often a model passes each prompt, measured by the rollout workers and the run's rewards.

    prompts ──► n completions each (engines) ──► rewards ──► mean of one reward ──► all columns of the row, and `pass_rate`

What is measured is appended to a file beside the output at once, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import TextIO

import pyarrow.parquet as pq
from rich.console import Console

from actors.prompts.indexed import PromptSource
from actors.prompts.rendering import load_tokenizer
from actors.prompts.streamed import PromptStream, open_prompts
from cluster.evaluation.run import say_doubts, with_model_path
from cluster.evaluation.serving import Serving, serving
from cluster.models.base import model_to_serve
from cluster.models.peft_folders import able_to_serve
from cluster.output.completions import table_of
from cluster.output.counting import counting
from cluster.session import RaySession
from cluster.stopping import run_until_stopped
from configs.contracts.errors import ConfigError, DataError, PoisonPromptError, RolloutError, RunDirectoryError
from configs.contracts.records import PromptId, RolloutRequest, Sampling
from configs.schema.run import RunConfig
from rewards import validate
from rewards.functions.registry import resolve
from rewards.grading.golds import check_golds, require_readable_golds

TRIED_GOLDS = 64


@dataclass(frozen=True)
class PassRatePlan:
    """What is measured."""

    output: Path
    num_generations: int
    reward: str
    """Label of the reward whose mean is the pass rate."""
    limit: int | None
    """Prompts to measure; None measures all."""
    adapter: Path | None
    """A PEFT folder; None measures the base model."""

    @classmethod
    def of(cls, config: RunConfig, output: Path, num_generations: int, reward: str | None, limit: int | None) -> PassRatePlan:
        """A plan that can be carried out.

        Raises:
            ConfigError: there is no such reward, the output is no Parquet file, or a stream has no limit.
        """
        labels = [spec.label for spec in config.rewards.functions]
        if reward is not None and reward not in labels:
            raise ConfigError(f"--reward {reward} is not among the rewards of the run; choose one of {', '.join(labels)}")
        if output.suffix != ".parquet":
            raise ConfigError(f"--output {output} must end in .parquet, which is what is written")
        if config.data.streaming and limit is None:
            raise ConfigError("data.streaming: the rows are not counted; say by --limit how many prompts are measured")
        adapter = Path(config.model.adapter).absolute() if config.model.adapter else None
        return cls(output.absolute(), num_generations, reward or labels[0], limit, adapter)


@dataclass
class Measured:
    """Pass rates so far: row number -> mean, None where the reward applied to no completion. Kept in a file of lines."""

    file: Path
    facts: str
    """What the rates depend on; those of other facts are not gone on with."""
    rates: dict[int, float | None] = field(default_factory=dict)

    def read(self) -> None:
        """Take what an interrupted command has measured."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        if lines and lines[0] == self.facts:
            whole = (json.loads(line) for line in lines[1:] if line.endswith("]"))  # the last one may be cut off
            self.rates = {int(row): rate for row, rate in whole}

    def open(self) -> TextIO:
        """The file to append to, holding what was read and nothing else."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("".join(f"{line}\n" for line in (self.facts, *(json.dumps(pair) for pair in self.rates.items()))))
        return self.file.open("a")

    def add(self, row: int, rate: float | None, log: TextIO) -> None:
        self.rates[row] = rate
        log.write(f"{json.dumps([row, rate])}\n")
        log.flush()


def measure_pass_rates(config: RunConfig, plan: PassRatePlan, console: Console) -> Path:
    """Measure, and write the rows with their rates to `plan.output`.

    Raises:
        DataError: the data or their golds cannot be used, or no prompt has a rate.
        RollcastError: of the kind that says what failed; the same command goes on.
    """
    config, logs = _all_rows(config), _made(plan.output.with_name(f"{plan.output.name}.logs"))
    model_path = model_to_serve(config, config.out_dir, logs)
    served = able_to_serve(with_model_path(config, model_path), [plan.adapter])
    say_doubts([plan.adapter], model_path, console)
    model = served.model
    tokenizer = load_tokenizer(model_path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
    prompts = open_prompts(config.data, tokenizer, seed=config.seed, folder=logs)
    _require_rewards(config, prompts)
    ids = _ids(prompts, plan.limit)
    measured = Measured(plan.output.with_name(f"{plan.output.name}.partial.jsonl"), _facts(config, plan, model_path, prompts))
    measured.read()
    missing = [prompt_id for prompt_id in ids if prompt_id.index not in measured.rates]
    if measured.rates:
        console.print(f"going on: {len(ids) - len(missing)} of {len(ids)} prompts are measured already", highlight=False)
    if missing:
        with RaySession(served, logs, namespace=f"pass-rate-{os.getpid()}-{time.time_ns()}", learner=False) as session:
            work = _serve_and_measure(served, model_path, session, logs, plan, _Work(prompts, missing, measured, config.seed), console)
            run_until_stopped(work, f"what was measured is kept beside {plan.output}; run the same command to go on")
    _write(config, plan, prompts, [prompt_id.index for prompt_id in ids], measured, console)
    measured.file.unlink(missing_ok=True)
    shutil.rmtree(logs, ignore_errors=True)
    return plan.output


def _all_rows(config: RunConfig) -> RunConfig:
    """The run on all its rows: none held out, and none left out or ordered by what is to be measured."""
    changes = {"eval_samples": 0, "eval_path": None, "test_split_size": None, "min_pass_rate": None, "max_pass_rate": None}
    mixture = config.data.mixture and config.data.mixture.model_copy(update={"test_split_size": None})
    order = {"curriculum_column": None, "curriculum_descending": False, "mixture": mixture}
    return config.model_copy(update={"data": config.data.model_copy(update=changes | order)})


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be written ({error.strerror}): name another file by --output") from None
    return folder


def _require_rewards(config: RunConfig, prompts: PromptSource | PromptStream) -> None:
    rewards = resolve(config.rewards, config.actors.max_completion_length)
    validate(rewards, prompts.canary_prompt().columns)
    require_readable_golds(check_golds(rewards, [prompt.columns for prompt in prompts.first_prompts(TRIED_GOLDS)]))


def _ids(prompts: PromptSource | PromptStream, limit: int | None) -> list[PromptId]:
    """Of the prompts to measure: a seeded choice where there is a limit; of a stream the first."""
    if isinstance(prompts, PromptSource):
        return prompts.first_ids(limit)
    assert limit is not None
    drawn = (prompts.next().id for _ in range(limit))
    return list(takewhile(lambda prompt_id: prompt_id.epoch == 0, drawn))


def _facts(config: RunConfig, plan: PassRatePlan, model_path: str, prompts: PromptSource | PromptStream) -> str:
    """One line that says what the rates depend on; raising the limit is not part of it, and goes on."""
    sampling = [plan.num_generations, plan.reward, str(plan.adapter), model_path, config.seed]
    sections = [config.data.model_dump_json(), config.actors.model_dump_json(), config.rewards.model_dump_json()]
    text = json.dumps([sampling, sections, prompts.cursor()["data"] if isinstance(prompts, PromptSource) else prompts.canary_prompt().text])
    return json.dumps({"pass rates of": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()})


@dataclass(frozen=True)
class _Work:
    """Prompts that are still to be measured."""

    prompts: PromptSource | PromptStream
    ids: Sequence[PromptId]
    measured: Measured
    seed: int


async def _serve_and_measure(
    config: RunConfig, model_path: str, session: RaySession, logs: Path, plan: PassRatePlan, work: _Work, console: Console
) -> None:
    async with serving(config, model_path, session.placement(), log_dir=logs, run_name=session.namespace) as served:
        await served.install(plan.adapter)
        with counting("prompts", len(work.ids), console) as advance:
            await _measure(served, plan, work, advance)


async def _measure(served: Serving, plan: PassRatePlan, work: _Work, advance: Callable[[int], None]) -> None:
    """Keep the engines full without rendering more prompts than they can take."""
    actors = served.config.actors
    sampling = Sampling(plan.num_generations, actors.max_completion_length, actors.temperature, actors.top_p, actors.top_k)
    waiting = iter(work.ids)
    with work.measured.open() as log:

        async def measure_some() -> None:
            for prompt_id in waiting:
                request = RolloutRequest(work.prompts.prompt(prompt_id), sampling, seed=work.seed)
                work.measured.add(prompt_id.index, await _pass_rate(served, request, plan.reward), log)
                advance(1)

        at_once = max(2, 2 * actors.num_workers * actors.max_num_seqs // plan.num_generations)
        tasks = [asyncio.ensure_future(measure_some()) for _ in range(min(at_once, len(work.ids)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


async def _pass_rate(served: Serving, request: RolloutRequest, reward: str) -> float | None:
    """The mean of a reward over the completions to which it applies; None where it applies to none, or the engines refuse the prompt."""
    while True:
        try:
            summary, body = await served.rollouts.rollout(request)
        except PoisonPromptError:
            return None
        try:
            scores = await served.rewards.score(body, summary, 0)
        except RolloutError:  # the body was lost with its node before anyone read it
            request = replace(request, attempt=summary.attempt + 1)
            continue
        values = [value for value in scores.columns[reward].values_G if value is not None]
        return fmean(values) if values else None


def _write(
    config: RunConfig, plan: PassRatePlan, prompts: PromptSource | PromptStream, rows: Sequence[int], measured: Measured, console: Console
) -> None:
    """One Parquet file: every row that has a pass rate, in the order of the data."""
    rated = {row: rate for row in sorted(rows) if (rate := measured.rates[row]) is not None}
    if not rated:
        raise DataError(f"reward {plan.reward} applied to no completion of the {len(rows)} prompts; look at the data with `rollcast data`")
    column = config.data.pass_rate_column
    table = table_of([prompts.row(row) | {column: rate} for row, rate in rated.items()])
    unfinished = plan.output.with_name(f"{plan.output.name}.tmp")
    pq.write_table(table, unfinished)
    unfinished.rename(plan.output)
    _say(plan, column, list(rated.values()), len(rows) - len(rated), console)


def _say(plan: PassRatePlan, column: str, rates: Sequence[float], without: int, console: Console) -> None:
    lowest, highest = min(rates), max(rates)
    at_ends = [sum(rate == end for rate in rates) for end in (lowest, highest)]
    console.print(
        f"{len(rates):,} rows with {column} (mean of {plan.reward} over {plan.num_generations} completions): mean {fmean(rates):.3f}; "
        f"{at_ends[0]:,} at the lowest, {lowest:g}, {at_ends[1]:,} at the highest, {highest:g}"
        + (f"; {without:,} prompts are left out, for which it does not apply" if without else ""),
        highlight=False,
    )
    console.print(
        f"written: {plan.output}; train on it with data.path={plan.output} data.min_pass_rate=0.1 data.max_pass_rate=0.9, or "
        f"data.curriculum_column={column} data.curriculum_descending=true",
        markup=False,
        highlight=False,
    )
