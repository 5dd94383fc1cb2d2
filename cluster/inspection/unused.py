"""Sentences on the columns of the data that a run does not use."""

from __future__ import annotations

from actors.demonstrations import samples
from actors.demonstrations.indexed import Demonstrations
from actors.demonstrations.streamed import StreamedDemonstrations
from actors.prompts.source import PromptSource
from actors.rows.unused import unused_columns
from configs.schema.run import RunConfig
from configs.schema.sft import SftDataSection
from rewards.grading.calling import EVERY_COLUMN
from rewards.grading.trial import Needs, columns_read


def unused_by_run(config: RunConfig, prompts: PromptSource, needs: Needs) -> tuple[list[str], str]:
    """Warnings of columns that mean something elsewhere, and a notice of the others, "" if there is none.

    Args:
        needs: the columns that the user's rewards take.
    """
    columns = {column: value for column, value in prompts.first_values.items() if column != config.data.prompt_column}
    by_rewards = columns_read(config.rewards_resolved, needs, columns)
    warm_start = config.learner.warm_start
    read = prompts.columns_read | by_rewards | ({warm_start.demonstration_column} if warm_start else set())
    return unused_columns(prompts.first_values, read, passed_on=EVERY_COLUMN in by_rewards)


def unused_by_fine_tuning(data: SftDataSection, demonstrations: Demonstrations | StreamedDemonstrations) -> tuple[list[str], str]:
    """Warnings of columns that mean something elsewhere, and a notice of the others, "" if there is none."""
    values = demonstrations.first_values
    return unused_columns(values, samples.columns_read(data, values))
