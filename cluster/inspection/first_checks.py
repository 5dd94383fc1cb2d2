"""Checks that refuse a run before anything is made: of the model's config.json, the room on this machine, the paths of data, and the rewards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from actors.demonstrations.samples import require_demonstrations
from actors.prompts.rendering import load_tokenizer, read_template
from actors.prompts.selection import split_rows
from actors.rows.named_sets import require_named_or_path
from actors.rows.rows import RecordRows, Rows
from actors.rows.sources import (
    EVAL_SPLIT,
    SPLIT_OF_PART,
    Opened,
    held_out_part,
    open_held_out_if_small,
    open_if_small,
    open_named_if_small,
    require_source,
)
from actors.rows.views import require_column
from cluster.fitting.positions import require_positions
from cluster.inspection.shared_memory import require_shared_memory
from cluster.machine import require_room, room, runs_here, this_machine
from cluster.models.base import TINY_MODEL
from cluster.models.trainable import require_trainable, settings_here, warnings_of_fit
from configs.contracts.errors import ConfigError, DataError
from configs.schema.model import BUILTIN
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.schema.sources import MixturePart
from rewards import validate
from rewards.grading.trial import Needs, require_columns, try_own_rewards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def refuse_first(config: RunConfig | SftConfig, say: Callable[[str], None]) -> Needs:
    """Refuse a run that cannot work here; nothing is written, and neither W&B, Ray nor an engine is asked.

    Args:
        say: is told when very many processes share the cores.

    Returns:
        The columns that the user's rewards need.

    Raises:
        ConfigError: the model cannot be trained, a reward does not exist, or every reward's weight is 0.
        PlacementError: this machine has too few GPUs, or no room for the object store and adapters.
        DataError: a path of data does not exist, or the data make no step or lack a column.
        RewardError: a reward cannot be loaded or called.
    """
    require_trainable(config)
    here = this_machine()
    require_room(config, here)
    require_data(config)
    needs: Needs = {}
    if isinstance(config, RunConfig):
        needs = require_rewards(config)
        require_rows(config, needs, open_if_small(config.data, config.seed))
        note = require_shared_memory(config)
        if note:
            say(note)
    else:
        require_demonstration_rows(config, open_if_small(config.data, config.seed))
    told, enough = room(config, here)
    if runs_here(config) and not enough:
        say(told)
    return needs


def refuse_serving_first(config: RunConfig) -> Needs:
    """Refuse an evaluation or a measurement that cannot work here, as `refuse_first` does a run: it has engines and graders, and no learner.

    Returns:
        The columns that the user's rewards need.

    Raises:
        ConfigError, RewardError: a reward does not exist, or cannot be loaded or called; or the model has too few positions.
        PlacementError: this machine has too few GPUs.
        DataError: a path of data does not exist, or the data lack a column.
    """
    require_room(config, this_machine(), learner=False)
    require_positions(config, settings_here(config.model.path, "config.json", config.model.revision))
    if config.evaluation.data:
        for spec in config.evaluation.data:
            require_named_or_path(spec)
    else:
        require_data(config)
    needs = _loaded_rewards(config)
    if config.evaluation.data:
        _require_sets(config, needs)
    elif _has_eval_path(config):
        _require_held_out(config, needs)
    else:
        opened = open_if_small(config.data, config.seed)
        if opened is not None:
            require_column(opened[0], config.data.prompt_column, "data.prompt_column")
            _require_columns(config, needs, opened[0], config.data.prompt_column)
    return needs


def require_rewards(config: RunConfig) -> Needs:
    """Refuse rewards that cannot work; returns the columns that the user's own need. Those of a run that joins a cluster are loaded there.

    Raises:
        ConfigError: a reward does not exist, or every weight is 0.
        RewardError: a reward of the user's cannot be loaded or called.
    """
    functions = config.rewards.functions
    if all(spec.weight == 0 for spec in functions):
        raise ConfigError(
            f"the weight of every reward is 0 ({', '.join(spec.label for spec in functions)}), so that there is nothing to learn; give one "
            "another weight under rewards.functions"
        )
    return _loaded_rewards(config)


def _loaded_rewards(config: RunConfig) -> Needs:
    validate(config.rewards_resolved)
    return try_own_rewards(config.rewards_resolved) if runs_here(config) else {}


def require_tokenizer(config: RunConfig | SftConfig, say: Callable[[str], None]) -> PreTrainedTokenizerBase | None:
    """Refuse a tokenizer or chat template that does not fit the model, where that is in a folder or made by the run.

    Args:
        say: is told of what may not fit.

    Returns:
        The tokenizer; None for a model that is not here, and for data that the run makes itself.

    Raises:
        DataError: the tokenizer cannot be loaded, lacks a token of the template, has no template for conversations, or has tokens that the model
            has not.
    """
    model = config.model
    if (
        model.path.startswith(BUILTIN)
        and config.data.path is not None
        and config.data.path.startswith(BUILTIN)
        and model.chat_template is None
    ):
        return None
    if not Path(model.path).expanduser().is_dir() and not model.path.startswith(BUILTIN):
        if model.chat_template is not None:
            read_template(model.chat_template)
        return None
    with tempfile.TemporaryDirectory(prefix="rollcast-tokenizer-") as folder:
        tokenizer = tokenizer_of(config, Path(folder))
    if isinstance(config, SftConfig) and config.data.messages_column is not None and not tokenizer.chat_template:
        raise DataError(
            f"the conversations in data.messages_column {config.data.messages_column!r} need a chat template, and {model.path} has none; set "
            "model.chat_template"
        )
    for sentence in warnings_of_fit(config, tokenizer, model.path):
        say(f"WARNING: {sentence}")
    return tokenizer


def tokenizer_of(config: RunConfig | SftConfig, folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the run's model; for a `builtin:` model, make it in `folder` without the model."""
    model = config.model
    path = model.path
    if path.startswith(BUILTIN):
        if path != TINY_MODEL:
            raise ConfigError(f"model.path {path} is unknown: the only built-in model is {TINY_MODEL}")
        from learner.model.tiny_model import build_tokenizer

        build_tokenizer().save_pretrained(folder / "tokenizer")
        path = str(folder / "tokenizer")
    return load_tokenizer(path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)


def require_rows(config: RunConfig, needs: Needs, opened: Opened | None) -> None:
    """Refuse data, also those of evaluations, without the columns that rewards need, or with too few rows for a step, where reading them takes
    no time.

    Args:
        opened: the data to train on, from `open_if_small`.

    Raises:
        DataError: the data cannot be used.
    """
    data = config.data
    if opened is not None:
        rows, _ = opened
        require_column(rows, data.prompt_column, "data.prompt_column")
        _require_columns(config, needs, rows, data.prompt_column)
    if _has_eval_path(config):
        _require_held_out(config, needs)
    if config.evaluation.steps:
        _require_sets(config, needs)
    if opened is not None:
        steps_of(config, _rows_to_train_on(config, opened[0]))


def require_demonstration_rows(config: SftConfig, opened: Opened | None) -> None:
    """Refuse data without the columns of demonstrations, or with no row beside those held out, where reading them takes no time.

    Args:
        opened: the data to train on, from `open_if_small`.

    Raises:
        DataError: the data cannot be used.
    """
    data = config.data
    apart = open_held_out_if_small(data, None, config.seed) if _has_eval_path(config) else None
    if opened is not None:
        require_demonstrations(data, opened[0])
    if apart is not None:
        require_demonstrations(data, apart)
    if opened is not None:
        _rows_to_train_on(config, opened[0])


def _rows_to_train_on(config: RunConfig | SftConfig, rows: Rows) -> int:
    """Number of rows that are neither held out nor left out by `data.train_samples`.

    Raises:
        DataError: more rows are wanted than exist, or none is left.
    """
    apart = RecordRows((), (), ()) if _has_eval_path(config) else rows  # of rows held out elsewhere none counts here
    return len(split_rows(config.data, rows, apart, config.seed % 2**64)[0])


def _has_eval_path(config: RunConfig | SftConfig) -> bool:
    return config.data.eval_path is not None and bool(config.data.eval_samples)


def _require_held_out(config: RunConfig, needs: Needs) -> None:
    """Refuse rows of `data.eval_path` without the columns that rewards need."""
    data = config.data
    rows = open_held_out_if_small(data, data.prompt_column, config.seed)
    if rows is not None:
        _require_columns(config, needs, rows, data.prompt_column, f"data.eval_path {data.eval_path}: ")


def _require_sets(config: RunConfig, needs: Needs) -> None:
    """Refuse sets of `evaluation.data` without the columns that rewards need."""
    for spec in config.evaluation.data:
        opened = open_named_if_small(spec, config.data.prompt_column)
        if opened is not None:
            _require_columns(config, needs, *opened, f"evaluation.data {spec}: ")


def _require_columns(config: RunConfig, needs: Needs, rows: Rows, prompt_column: str, source: str = "") -> None:
    """Raise DataError, with the source in front, if a reward finds no column that it needs in these rows."""
    columns = [column for column in rows.columns if column != prompt_column]
    try:
        validate(config.rewards_resolved, columns)
        require_columns(needs, columns)
    except DataError as error:
        raise DataError(f"{source}{error.message}") from error


def steps_of(config: RunConfig, prompts: int) -> int:
    """Optimizer steps of a run with so many prompts.

    Raises:
        DataError: they make no step.
    """
    learner = config.learner
    steps = learner.max_steps if learner.max_steps > 0 else int(learner.num_train_epochs * prompts) // config.groups_per_step
    if steps == 0:
        raise DataError(
            f"learner.num_train_epochs {learner.num_train_epochs:g} of {prompts} prompts make no step of {config.groups_per_step} prompts; lower "
            "learner.train_batch_size, or set learner.max_steps"
        )
    return steps


def require_data(config: RunConfig | SftConfig) -> None:
    """Look for every local data set of a run, without reading it.

    Raises:
        DataError: there is none at a path, or it has no such split.
    """
    for part, key in _sources(config):
        require_source(part, key)


def _sources(config: RunConfig | SftConfig) -> Iterator[tuple[MixturePart, str]]:
    data = config.data
    if data.mixture is not None:
        yield from ((part, SPLIT_OF_PART) for part in data.mixture.datasets)
    else:
        yield data.part, "data.split"
    if _has_eval_path(config):
        yield held_out_part(data), EVAL_SPLIT
