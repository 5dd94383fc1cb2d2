"""Dry run: print the resolved configuration, placement, batch arithmetic and memory estimate of a run, and start nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.rows.sources import Opened, notices, open_if_small
from cluster.inspection import first_rows
from cluster.inspection.estimate import estimate
from cluster.inspection.first_checks import require_data, require_demonstration_rows, require_rewards, require_rows, require_tokenizer
from cluster.inspection.shared_memory import require_shared_memory
from cluster.machine import room, this_machine
from cluster.models.adapter_base import Base, bytes_to_compare, find_base, local_folder
from cluster.models.shape import model_shape
from cluster.models.starting_adapter import with_starting_adapter
from cluster.models.trainable import require_trainable
from cluster.models.weights_digest import CACHED_FROM_BYTES
from cluster.output.run_dir import Resume, foreseen_notice
from cluster.placement import Role, roles
from configs.contracts.errors import DataError, PlacementError
from configs.loading import dump_config, stage_configs
from configs.schema.model import BUILTIN
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


def show_run(config: RunConfig, console: Console, resume: Resume = "auto") -> None:
    """Print the dry run of a run, or of each of its stages.

    Args:
        resume: how the run would open its directory.

    Raises:
        ConfigError: `model.adapter` cannot be used, or the model cannot be trained.
    """
    say_of_earlier_run(config, console, resume)
    if not config.stages:
        show_dry_run(with_starting_adapter(config), console)
    for number, stage in enumerate(stage_configs(config), start=1):
        console.print(f"\n# stage {number} of {len(config.stages)}: {stage.out_dir.name}", style="bold")
        # A later stage starts from the adapter of the stage before it, which does not exist yet.
        show_dry_run(with_starting_adapter(stage) if number == 1 else stage, console)


def say_of_earlier_run(config: RunConfig | SftConfig, console: Console, resume: Resume = "auto") -> None:
    """Say that a run would begin anew where its directory has a finished one."""
    if notice := foreseen_notice(config.out_dir, resume):
        console.print(f"{notice}\n", markup=False, highlight=False, soft_wrap=True)


def show_dry_run(config: RunConfig, console: Console) -> None:
    """Print the dry run of one GRPO run.

    Raises:
        ConfigError, DataError, RewardError: the model cannot be trained, or the rewards or data that are here cannot work.
    """
    require_trainable(config)
    tokenizer = require_tokenizer(config, lambda told: _warn(told, console))
    console.print("# resolved configuration", style="bold")
    console.print(dump_config(config), markup=False, highlight=False)
    console.print(_placement_table(config))
    _compare_base(config, console)
    needs = require_rewards(config)
    opened = _compare_with_machine(config, console, lambda opened: require_rows(config, needs, opened))
    if opened is not None and tokenizer is not None:
        for sentence in first_rows.of_prompts(config.data, tokenizer, opened[0]):
            _warn(f"WARNING: {sentence}", console)
    _say_memory(config, console)
    for line in batch_arithmetic(config):
        console.print(line, markup=False)
    console.print(_memory(config))


def show_sft_dry_run(config: SftConfig, console: Console) -> None:
    """Print the dry run of a supervised fine-tuning.

    Raises:
        ConfigError: the model cannot be trained, or the adapter is of another one.
        DataError: the chat template cannot be used with the model, or the data that are here cannot work.
    """
    require_trainable(config)
    tokenizer = require_tokenizer(config, lambda told: _warn(told, console))
    console.print("# resolved configuration", style="bold")
    console.print(dump_config(config), markup=False, highlight=False)
    console.print(_placement_table(config))
    _compare_base(config, console)
    opened = _compare_with_machine(config, console, lambda opened: require_demonstration_rows(config, opened))
    if opened is not None and tokenizer is not None:
        for sentence in first_rows.of_demonstrations(config.data, tokenizer, opened[0]):
            _warn(sentence, console)
    learner = config.learner
    steps = f"{learner.max_steps} steps" if learner.max_steps > 0 else f"{learner.num_train_epochs:g} epochs"
    console.print(
        f"batch: {learner.train_batch_size} sequences a step; about {learner.train_batch_size / learner.ranks:g} a rank on {learner.ranks} ranks; "
        f"{steps}; at most {config.data.max_length} tokens a sequence, micro-batches of at most {learner.token_budget}",
        markup=False,
    )
    console.print(_memory(config))


def batch_arithmetic(config: RunConfig) -> list[str]:
    """Sentences on the batch, the tokens and the staleness of a run, computed from its settings."""
    learner, actors = config.learner, config.actors
    per_rank = learner.train_batch_size / learner.ranks
    steps = f"{learner.max_steps} steps" if learner.max_steps > 0 else f"{learner.num_train_epochs:g} epochs"
    return [
        f"batch: {learner.train_batch_size} completions = {config.groups_per_step} prompts x {actors.num_generations} generations a step; "
        f"about {per_rank:g} completions a rank on {learner.ranks} ranks; {steps}",
        f"tokens: at most {config.max_model_len} a sequence ({config.data.max_prompt_length} prompt + {actors.max_completion_length} completion); "
        f"micro-batches of at most {learner.token_budget} tokens",
        f"staleness: at most {config.cluster.max_staleness} steps between sampling and training; adapter broadcast every "
        f"{config.cluster.sync_every_steps} steps; at most {config.groups_per_step * (config.cluster.max_staleness + 1)} groups under way",
    ]


def device_map(config: RunConfig | SftConfig) -> dict[str, list[str]]:
    """Device -> its processes, as if all GPUs were on one node; processes that reserve a fraction of a GPU share one."""
    need = roles(config)
    devices: dict[str, list[str]] = {}
    free: list[float] = []
    for role in (need.rollouts, need.learners, need.rewards):
        for index in range(role.count):
            devices.setdefault(_device(role, free), []).append(f"{role.name} {index}")
    return devices


def _device(role: Role, free: list[float]) -> str:
    """Assign one process of the role to a device, and return its name; `free` is the free fraction of each GPU so far, and is updated."""
    if not role.gpus:
        return "CPU"
    if role.gpus < 1:
        for gpu, left in enumerate(free):
            if left + 1e-9 >= role.gpus:
                free[gpu] -= role.gpus
                return f"GPU {gpu}"
    count = max(1, int(role.gpus))
    first = len(free)
    free += [1.0 - role.gpus if role.gpus < 1 else 0.0] * count
    return f"GPU {first}" if count == 1 else f"GPUs {first}-{first + count - 1}"


def _placement_table(config: RunConfig | SftConfig) -> Table:
    table = Table("device", "processes", title="placement", title_justify="left")
    for device, processes in device_map(config).items():
        table.add_row(device, ", ".join(processes))
    return table


def _compare_with_machine(config: RunConfig | SftConfig, console: Console, check: Callable[[Opened | None], None]) -> Opened | None:
    """Compare the run with this machine, and look for its data: a run here would be refused for what is not there, one elsewhere may have it.
    Returns the data if they are here and were opened.

    Args:
        check: is called with the data if they are here, which `open_if_small` opened or not.
    """
    told, enough = room(config, this_machine())
    console.print(told, style="" if enough else "yellow", markup=False, highlight=False, soft_wrap=True)
    try:
        require_data(config)
        opened = open_if_small(config.data, config.seed)
    except DataError as error:
        console.print(f"data: {error.message}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        return None
    for sentence in notices(config.data, opened[0]) if opened is not None else ():
        console.print(f"data: {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for sentence in rows_of_sources(config, opened):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    check(opened)
    return opened


def _warn(told: str, console: Console) -> None:
    console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _compare_base(config: RunConfig | SftConfig, console: Console) -> None:
    """Compare the base with that of `model.adapter`, as the run does, where that reads little.

    Raises:
        ConfigError: the adapter was trained on other weights.
    """
    model = config.model
    if model.adapter is None or model.path.startswith(BUILTIN) or not Path(model.adapter).is_dir():  # of a later stage, it is not there yet
        return
    adapter, base = Path(model.adapter), Base(local_folder(model.path), model.revision)
    to_read = bytes_to_compare(adapter, base)
    if to_read > CACHED_FROM_BYTES:
        told = f"base of model.adapter: not compared, which would read {human_bytes(to_read)}; the run compares it"
    else:
        told = find_base(adapter, base, insist=True).note or f"base of model.adapter: {base.path} has the weights that it was trained on"
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _say_memory(config: RunConfig, console: Console) -> None:
    """Compare the run with this machine's shared memory."""
    try:
        told = require_shared_memory(config)
    except PlacementError as error:
        told = error.message
    if told:
        console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)


def rows_of_sources(config: RunConfig | SftConfig, opened: Opened | None) -> Iterator[str]:
    """Sentences on the number of rows of each data set, where counting them took no time."""
    data = config.data
    if opened is None:
        why = "are read as they are needed" if data.streaming else "are counted when the run reads them"
        yield f"data: the rows of {data.source} {why}"
        return
    rows, parts = opened
    for part in parts:
        yield f"data: {part}"
    yield f"data: {len(rows):,} rows" + (" in the mixture" if parts else f" in {data.source}")


def _memory(config: RunConfig | SftConfig) -> Table | str:
    shape = model_shape(config.model.path)
    if shape is None:
        return f"memory: no estimate, because the shape of {config.model.path} is not known without loading it"
    found = estimate(config, shape)
    table = Table(
        "part",
        "bytes",
        title=f"memory estimate: {found.parameters / 1e6:,.1f} M parameters, trained {found.adapter_parameters / 1e6:,.2f} M",
        title_justify="left",
    )
    for owner, parts in (("learner rank", found.learner), ("engine", found.rollout)):
        for part, size in parts.items():
            table.add_row(f"{owner}: {part}", human_bytes(size))
    table.add_row("learner rank: sum", human_bytes(found.learner_bytes), style="bold")
    if found.rollout:
        table.add_row("one adapter sync", human_bytes(found.sync_bytes), style="bold")
    return table


def human_bytes(size: float) -> str:
    """A size for people: `1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
