"""The data of `reasoning_gym:TASK`: rows of a task of the package reasoning-gym, which makes them and can judge answers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.contracts.errors import DataError
from configs.contracts.reasoning_entry import ENTRY_COLUMN, entry_text
from configs.schema.sources import REASONING_GYM, TaskSection

if TYPE_CHECKING:
    from reasoning_gym.factory import ProceduralDataset

_NO_TASKS = frozenset({"composite"})
"""Names in the package that are no task of their own."""

_OWN_KEYS = ("size", "seed")
"""Settings of every task that have keys of their own."""


def write_task(path: str, task: TaskSection, folder: Path, seed: int) -> Path:
    """Write the rows of `reasoning_gym:TASK` to a file in `folder`, one object a line, and return its path.

    Columns: `prompt`, `solution` (null where a task has no single right answer), `task`, `difficulty` (the level; 0 without levels), and
    `reasoning_gym`, from which the reward of that name judges. A file that is there is kept: a few tasks make other rows in another process.

    Args:
        seed: used if the section has no seed.

    Raises:
        DataError: as `require_task`.
    """
    name = require_task(path, task)
    seed = seed if task.seed is None else task.seed
    asked = json.dumps([name, task.model_dump(mode="json"), seed], sort_keys=True)
    file = folder / f"reasoning_gym-{name}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.jsonl"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="\n") as out:
        for row in _rows(name, task, seed):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return unfinished.replace(file)


def require_task(path: str, task: TaskSection) -> str:
    """Check the task and its settings without making rows. Returns its name.

    Raises:
        DataError: reasoning-gym is not installed, has no such task, or refuses the settings.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise DataError(
            f"{path} needs the package reasoning-gym, which is not installed; pip install 'rollcast[reasoning-gym]', on every node"
        )
    from reasoning_gym.factory import DATASETS

    name = path.removeprefix(REASONING_GYM)
    tasks = sorted(set(DATASETS) - _NO_TASKS)
    if name not in tasks:
        near = get_close_matches(name, tasks, n=1)
        hint = f"did you mean {REASONING_GYM}{near[0]}?" if near else f"the tasks are {', '.join(tasks)}"
        raise DataError(f"data set {path} does not exist: reasoning-gym has no task {name!r}; {hint}")
    _require_settings(path, name, task)
    for level in task.levels or (None,):
        _task(path, name, task, 1, 0, level)
    return name


def _require_settings(path: str, name: str, task: TaskSection) -> None:
    from reasoning_gym.factory import DATASETS

    known = [field.name for field in dataclasses.fields(DATASETS[name][1]) if field.name not in _OWN_KEYS]
    for key in task.settings:
        if key in _OWN_KEYS:
            raise DataError(f"data.task.settings.{key} of {path}: this is a key of its own; write data.task.{key}")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise DataError(f"data.task.settings: {path} has no setting {key!r}; {hint}")
    _require_levels(path, name, task)


def _require_levels(path: str, name: str, task: TaskSection) -> None:
    if not task.levels:
        return
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(name):
        raise DataError(f"data.task.levels: {path} has no levels; set its difficulty in data.task.settings")
    highest = max(len(attribute.levels) for attribute in create_curriculum(name).attributes.values()) - 1
    if max(task.levels) > highest:
        raise DataError(f"data.task.levels: {path} has no level {max(task.levels)}; the highest is {highest}")
    if len(task.levels) > task.size:
        raise DataError(f"data.task.size {task.size} is less than the {len(task.levels)} levels of {path}; raise it, or name fewer levels")


def _rows(name: str, task: TaskSection, seed: int) -> Iterator[dict[str, Any]]:
    """The rows level by level, in the order of `levels`: equally many of each, and what is left over of the first ones."""
    levels: tuple[int | None, ...] = task.levels or (None,)
    share, rest = divmod(task.size, len(levels))
    for number, level in enumerate(levels):
        dataset = _task(f"{REASONING_GYM}{name}", name, task, share + (number < rest), _first_seed(seed, number), level)
        for index in range(share + (number < rest)):
            entry = _problem(dataset, name, index)
            yield {
                "prompt": entry["question"],
                "solution": entry["answer"],
                "task": name,
                "difficulty": level or 0,
                ENTRY_COLUMN: entry_text(name, task.settings, entry),
            }


def _problem(dataset: ProceduralDataset, name: str, index: int) -> dict[str, Any]:
    try:
        return dataset[index]
    except Exception as error:  # what a task raises where its settings leave nothing to choose from
        raise DataError(
            f"data.task.settings of {REASONING_GYM}{name}: reasoning-gym cannot make row {index} with them: {type(error).__name__}: {error}; "
            "widen them"
        ) from None


def _first_seed(seed: int, level_number: int) -> int:
    """The seed of a level's first row. Row n has this seed + n in reasoning-gym: near seeds would have the same rows in another place."""
    return (seed * 1_000_003 + level_number * 100_000_007) % 2**31


def _task(path: str, name: str, task: TaskSection, size: int, seed: int, level: int | None) -> ProceduralDataset:
    from reasoning_gym.factory import DATASETS, create_curriculum

    kind, config = DATASETS[name]
    given = {**task.settings, "size": size, "seed": seed}
    try:
        if level is not None:
            curriculum = create_curriculum(name)
            curriculum.set_global_level(level)
            made = dataclasses.asdict(curriculum.generate_configuration({"size": size, "seed": seed}))  # settings win over the level's
            given = {**{key: made[key] for key in _set_by(curriculum)}, **given}
        return kind(config=config(**given))
    except (AssertionError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"data.task.settings of {path}: reasoning-gym refuses them: {error or 'a value is out of range'}; correct them"
        ) from None


def _set_by(curriculum: Any) -> list[str]:
    """The settings that a curriculum's levels decide on."""
    names = [
        [getattr(attribute, key) for key in ("lower_field_name", "upper_field_name", "field_name") if hasattr(attribute, key)]
        for attribute in curriculum.attributes.values()
    ]
    return [name for of_attribute in names for name in of_attribute]
