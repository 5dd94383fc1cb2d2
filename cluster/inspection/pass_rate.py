"""`rollcast data pass-rate`: how often a model passes each prompt, measured by the rollout workers and the run's rewards.

    prompts ──► n completions each (engines) ──► rewards ──► mean of one reward ──► all columns of the row, and `pass_rate`

Each rate is appended at once to a file beside the output, so that the same command continues after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TextIO

import pyarrow.parquet as pq
from rich.console import Console

from actors.prompts.rendering import load_tokenizer
from actors.prompts.source import PromptSource
from actors.prompts.streamed import open_prompts
from cluster.evaluation.run import named_model, say, with_base
from cluster.evaluation.serving import Serving, serving
from cluster.files.made_folders import taken_back
from cluster.files.whole_files import write_whole
from cluster.inspection.first_checks import refuse_serving_first
from cluster.loop.sampling import sample_and_score
from cluster.models.adapter_base import Base, adapter_digest
from cluster.models.base import base_to_serve, require_servable
from cluster.models.peft_folders import able_to_serve
from cluster.models.trainable import warnings_of_fit
from cluster.output.completions import table_of
from cluster.output.counting import counting
from cluster.session import RaySession
from cluster.stopping import run_until_stopped
from configs.contracts.errors import ConfigError, DataError, PoisonPromptError, RunDirectoryError
from configs.contracts.records import PromptId, RolloutRequest, Sampling
from configs.contracts.tasks import gather_or_cancel
from configs.schema.model import BASE_MODEL
from configs.schema.run import RunConfig
from rewards import validate
from rewards.grading.golds import check_golds, require_readable_golds
from rewards.grading.trial import require_columns

TRIED_GOLDS = 64
"""Gold answers that are read before anything starts."""


@dataclass(frozen=True)
class PassRatePlan:
    """Settings of a measurement of pass rates."""

    output: Path
    """Parquet file to write."""
    num_generations: int
    """Completions sampled for each prompt."""
    reward: str
    """Label of the reward whose mean is the pass rate."""
    limit: int | None
    """Most prompts to measure; None measures all."""
    adapter: Path | None
    """A PEFT folder; None measures the base model."""

    @classmethod
    def of(cls, config: RunConfig, output: Path, num_generations: int, reward: str | None, limit: int | None) -> PassRatePlan:
        """Check the options against the run and fill in their defaults.

        Raises:
            ConfigError: the run has no such reward, the output is no Parquet file, or a stream has no limit.
        """
        labels = [spec.label for spec in config.rewards.functions]
        if reward is not None and reward not in labels:
            raise ConfigError(f"--reward {reward} is not among the rewards of the run: choose one of {', '.join(labels)}")
        if output.suffix != ".parquet":
            raise ConfigError(f"--output {output} must end in .parquet, the format of the file: rename it")
        if config.data.streaming and limit is None:
            raise ConfigError("data.streaming is true, so the rows cannot be counted: give the number of prompts to measure with --limit")
        adapter = Path(config.model.adapter).absolute() if config.model.adapter else None
        return cls(output.absolute(), num_generations, reward or labels[0], limit, adapter)


def _row_and_rate(line: str) -> tuple[int, float | None] | None:
    """Read one line of a `Measured` file; None where it was cut off."""
    try:
        row, rate = json.loads(line)
    except (ValueError, TypeError):
        return None
    return (row, rate) if isinstance(row, int) and isinstance(rate, float | int | None) else None


@dataclass
class Measured:
    """Pass rates measured so far, kept in a file of JSON lines: the fingerprint, then one [row, rate] each."""

    file: Path
    fingerprint: str
    """One line that stands for the settings; rates measured with other settings are discarded."""
    rates: dict[int, float | None] = field(default_factory=dict)
    """Row number -> pass rate; None where the reward applied to no completion."""

    def read(self) -> None:
        """Load the rates that an interrupted command measured with the same settings."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        if lines and lines[0] == self.fingerprint:
            self.rates = dict(pair for line in lines[1:] if (pair := _row_and_rate(line)) is not None)

    def open(self) -> TextIO:
        """Write the file anew with the loaded rates, and open it for appending."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, "".join(f"{line}\n" for line in (self.fingerprint, *(json.dumps(pair) for pair in self.rates.items()))))
        return self.file.open("a")

    def add(self, row: int, rate: float | None, log: TextIO) -> None:
        """Record the rate of one row, in memory and in the file from `open`."""
        self.rates[row] = rate
        log.write(f"{json.dumps([row, rate])}\n")
        log.flush()


@dataclass(frozen=True)
class _Measurement:
    """The prompts still to be measured, and the settings they are measured with."""

    plan: PassRatePlan
    served: RunConfig
    """From `able_to_serve`."""
    prompts: PromptSource
    ids: Sequence[PromptId]
    measured: Measured

    async def run(self, session: RaySession, logs: Path, console: Console) -> None:
        """Start the workers, measure every prompt, and close the workers."""
        config, placement = self.served, session.placement()
        async with serving(config, config.model.path, placement, log_dir=logs, run_name=session.namespace) as served:
            await served.install(self.plan.adapter)
            with counting("prompts", len(self.ids), console) as advance:
                await self._measure(served, advance)

    async def _measure(self, served: Serving, advance: Callable[[int], None]) -> None:
        """Keep the engines full without rendering more prompts than they can take."""
        actors, n = self.served.actors, self.plan.num_generations
        sampling = Sampling(n, actors.max_completion_length, actors.temperature, actors.top_p, actors.top_k)
        waiting = iter(self.ids)
        with self.measured.open() as log:

            async def measure_some() -> None:
                for prompt_id in waiting:
                    request = RolloutRequest(self.prompts.prompt(prompt_id), sampling, seed=self.served.seed)
                    self.measured.add(prompt_id.index, await self._pass_rate(served, request), log)
                    advance(1)

            prompts_at_once = max(2, 2 * actors.num_workers * actors.max_num_seqs // n)
            await gather_or_cancel(measure_some() for _ in range(min(prompts_at_once, len(self.ids))))

    async def _pass_rate(self, served: Serving, request: RolloutRequest) -> float | None:
        """The mean of the reward over the completions that it applies to; None if it applies to none, or the engines refuse the prompt."""
        try:
            scored = await sample_and_score(served.rollouts, served.rewards, request, lambda: 0)
        except PoisonPromptError:
            return None
        values = [value for value in scored.scores.columns[self.plan.reward].values_G if value is not None]
        return fmean(values) if values else None


def measure_pass_rates(config: RunConfig, plan: PassRatePlan, console: Console) -> Path:
    """Measure the pass rates and write the rows with their rates to `plan.output`; returns that path.

    Raises:
        DataError: the data or their golds cannot be used, or no prompt has a rate.
        RollcastError: the subclass tells what failed; the same command continues.
    """
    config = _all_rows(config)
    needs = refuse_serving_first(config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"data": ()})}))
    logs = plan.output.with_name(f"{plan.output.name}.logs")
    with taken_back(logs, config.out_dir.absolute() / BASE_MODEL):
        _make(logs)
        found = base_to_serve(config, plan.adapter, config.out_dir, logs, insist=True)
        require_servable(found.base)
        say(console, found.note)
        say(console, f"measuring {named_model(plan.adapter, found.base)}", style="")
        served = able_to_serve(with_base(config, found.base), [plan.adapter])
        model = served.model
        tokenizer = load_tokenizer(model.path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
        for sentence in warnings_of_fit(served, tokenizer, model.path):
            say(console, f"WARNING: {sentence}")
        prompts = open_prompts(config.data, tokenizer, seed=config.seed, folder=logs)
        require_columns(needs, prompts.canary_prompt().columns)
        _require_rewards(config, prompts)
    ids = prompts.first_ids(plan.limit)
    measured = Measured(plan.output.with_name(f"{plan.output.name}.partial.jsonl"), _fingerprint(config, plan, found.base, prompts))
    measured.read()
    missing = [prompt_id for prompt_id in ids if prompt_id.index not in measured.rates]
    if measured.rates:
        console.print(f"continuing: {len(ids) - len(missing)} of {len(ids)} prompts are measured already", highlight=False)
    if missing:
        measurement = _Measurement(plan, served, prompts, missing, measured)
        kept = f"the rates measured so far are kept beside {plan.output}; run the same command to continue"
        with RaySession(served, logs, namespace=f"pass-rate-{os.getpid()}-{time.time_ns()}", learner=False) as session:
            run_until_stopped(session.watched(measurement.run(session, logs, console)), kept)
    _write(config.data.pass_rate_column, plan, prompts, {prompt_id.index: measured.rates[prompt_id.index] for prompt_id in ids}, console)
    measured.file.unlink(missing_ok=True)
    shutil.rmtree(logs, ignore_errors=True)
    return plan.output


def _all_rows(config: RunConfig) -> RunConfig:
    """`config` with all its rows: none held out, and none filtered or ordered by the pass rate."""
    changes = {"eval_samples": 0, "eval_path": None, "test_split_size": None, "min_pass_rate": None, "max_pass_rate": None}
    mixture = config.data.mixture and config.data.mixture.model_copy(update={"test_split_size": None})
    order = {"curriculum_column": None, "curriculum_descending": False, "mixture": mixture}
    return config.model_copy(update={"data": config.data.model_copy(update=changes | order)})


def _make(folder: Path) -> None:
    """Make the folder.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be written ({error.strerror}): name another file with --output") from None


def _require_rewards(config: RunConfig, prompts: PromptSource) -> None:
    """Check that the rewards have the columns they need and can read the first gold answers."""
    rewards = config.rewards_resolved
    validate(rewards, prompts.canary_prompt().columns)
    require_readable_golds(check_golds(rewards, [prompt.columns for prompt in prompts.first_prompts(TRIED_GOLDS)]))


def _fingerprint(config: RunConfig, plan: PassRatePlan, base: Base, prompts: PromptSource) -> str:
    """One line that stands for the settings that the rates depend on. The limit is not among them: a higher one continues."""
    adapter = adapter_digest(plan.adapter) if plan.adapter else None
    sampling = [plan.num_generations, plan.reward, adapter, base.weights or [base.path, base.revision], config.seed]
    sections = [config.data.model_dump_json(), config.actors.model_dump_json(), config.rewards.model_dump_json()]
    text = json.dumps([sampling, sections, prompts.fingerprint])
    return json.dumps({"pass rates of": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()})


def _write(column: str, plan: PassRatePlan, prompts: PromptSource, rates: dict[int, float | None], console: Console) -> None:
    """Write one Parquet file with every row that has a pass rate, in the order of the data."""
    rated = {row: rate for row, rate in sorted(rates.items()) if rate is not None}
    if not rated:
        raise DataError(f"reward {plan.reward} applied to no completion of the {len(rates)} prompts: look at the data with `rollcast data`")
    table = table_of([prompts.row(row) | {column: rate} for row, rate in rated.items()])
    unfinished = plan.output.with_name(f"{plan.output.name}.tmp")
    pq.write_table(table, unfinished)
    unfinished.rename(plan.output)
    _say(plan, column, list(rated.values()), len(rates) - len(rated), console)


def _say(plan: PassRatePlan, column: str, rates: Sequence[float], without: int, console: Console) -> None:
    """Print the mean and the extremes of the rates, and how to use the file."""
    lowest, highest = min(rates), max(rates)
    at_ends = [sum(rate == end for rate in rates) for end in (lowest, highest)]
    console.print(
        f"{len(rates):,} rows with {column} (mean of {plan.reward} over {plan.num_generations} completions): mean {fmean(rates):.3f}; "
        f"{at_ends[0]:,} have the lowest, {lowest:g}, and {at_ends[1]:,} the highest, {highest:g}"
        + (f"; {without:,} prompts are left out because {plan.reward} does not apply to them" if without else ""),
        highlight=False,
    )
    console.print(
        f"written: {plan.output}; train on it with data.path={plan.output} data.min_pass_rate=0.1 data.max_pass_rate=0.9, or "
        f"data.curriculum_column={column} data.curriculum_descending=true",
        markup=False,
        highlight=False,
    )
