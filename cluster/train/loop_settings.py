"""The settings of the loop and of its window, from those of a run."""

from __future__ import annotations

from cluster.loop.loop import LoopSettings
from cluster.loop.window import Window
from configs.contracts.records import Sampling
from configs.schema.run import RunConfig


def make_window(config: RunConfig, steps: int) -> Window:
    """The window of a run, empty."""
    return Window(
        groups_per_step=config.groups_per_step,
        max_staleness=config.cluster.max_staleness,
        on_stale=config.cluster.on_stale,
        total_steps=steps,
        filter_zero_variance=config.learner.filter_zero_variance,
        max_num_gen_batches=config.learner.max_num_gen_batches,
    )


def loop_settings(config: RunConfig, steps: int) -> LoopSettings:
    """The settings of the loop, from those of the run."""
    actors = config.actors
    sampling = Sampling(
        num_generations=actors.num_generations,
        max_completion_length=actors.max_completion_length,
        temperature=actors.temperature,
        top_p=actors.top_p,
        top_k=actors.top_k,
    )
    return LoopSettings(steps, sampling, config.seed, config.cluster.sync_every_steps, config.cluster.save_steps)
