"""`rollcast push`: push an adapter or a merged model to a hub, with card, settings, curves and report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.models.adapter_base import named_base
from cluster.models.base_record import read_record
from cluster.models.merge import find_source, merge_adapter
from cluster.models.merge_display import merge_progress, say_outcome
from cluster.publish.folder import Publication, of_folder, of_run
from cluster.publish.hub import open_repository, upload
from cluster.publish.model_card import REPOSITORY
from configs.contracts.errors import ConfigError
from configs.schema.model import WARM_MODEL
from configs.schema.stages import last_stage_folder
from configs.yaml_files import read_yaml


def collect(source: Path, *, merged: bool, adapter: Path | None, console: Console) -> Publication:
    """Collect the files that `rollcast push` pushes.

    Args:
        source: a run directory (for a run of stages, its last stage is pushed), or the folder of an adapter or a model.
        merged: push the run's merged model instead of its adapter. It is merged first, unless that was done after the adapter was written.
        adapter: PEFT folder to push instead of the run's final adapter.

    Raises:
        ConfigError: there is nothing to push, or the options do not fit together.
    """
    source = source.absolute()
    if not (source / "config.yaml").is_file() or any(source.glob("*.safetensors")):
        if merged or adapter:
            raise ConfigError(
                f"{source} is not a run directory (it has no config.yaml), and --merged and --adapter apply to runs only; leave them out"
            )
        return of_folder(source)
    settings = read_yaml(source / "config.yaml")
    if "actors" not in settings:
        return _of_fine_tuning(source, merged=merged, adapter=adapter)
    if stage := last_stage_folder(settings):
        source = source / stage
    if merged and adapter:
        raise ConfigError(
            f"--merged takes the run's final adapter, but --adapter names {adapter}: give one of them; rollcast merge takes any adapter"
        )
    if merged:
        return of_run(source, _merged(source, console), merged=True)
    weights = adapter.absolute() if adapter else source / "adapter"
    if not weights.is_dir():
        raise ConfigError(
            f"{source} has no adapter yet: a run writes it when it ends; resume the run, or name a checkpoint's adapter, as in "
            "--adapter checkpoints/step-000050/learner/adapter"
        )
    if adapter:
        _require_base_of_run(weights, source)
    return of_run(source, weights, merged=False)


def _require_base_of_run(adapter: Path, run: Path) -> None:
    """Refuse an adapter that was trained on another base than the run's, whose card it would get."""
    own, other = read_record(run / "adapter"), read_record(adapter)
    if own and other and own.weights and other.weights and own.weights != other.weights:
        raise ConfigError(
            f"--adapter {adapter} was trained on the base {named_base(adapter)}, and the adapter of {run} on {named_base(run / 'adapter')}: it would "
            "get the card of another model; push its folder by itself"
        )


def _of_fine_tuning(run: Path, *, merged: bool, adapter: Path | None) -> Publication:
    """Find the result of a supervised fine-tuning: its adapter, or the whole model where it trained every weight."""
    if merged or adapter:
        raise ConfigError(
            f"{run} is a supervised fine-tuning, and --merged and --adapter apply to GRPO runs only: leave them out, or push a folder, "
            "such as the one that rollcast merge writes"
        )
    left = [folder for folder in (run / "adapter", run / WARM_MODEL) if folder.is_dir()]
    if not left:
        raise ConfigError(f"{run} has no result yet: it writes adapter/ or model/ when it ends; resume it")
    return of_folder(left[0])


def push(files: Publication, repo_id: str, *, private: bool | None, revision: str | None, message: str, console: Console) -> str:
    """Upload the files, and print their web address; returns it.

    Raises:
        HubError: no token, no right to write there, no such hub, or no network.
    """
    full = open_repository(repo_id, private=private, revision=revision)
    card = files.files.get("README.md")
    named = {"README.md": card.replace(REPOSITORY.encode(), full.encode())} if isinstance(card, bytes) else {}
    address = upload({**files.files, **named}, full, message=message, revision=revision)
    console.print(f"pushed: {address}", markup=False)
    return address


def show(files: Publication, console: Console) -> None:
    """Print every file that would be pushed with its size, and the files that are left out."""
    table = Table("file", "bytes", title="to be pushed", title_justify="left")
    table.columns[1].justify = "right"
    sizes = files.sizes()
    for name, size in sizes.items():
        table.add_row(name, f"{size:,}")
    table.add_row("all", f"{sum(sizes.values()):,}", style="bold")
    console.print(table)
    if files.left_out:
        console.print(f"not pushed: {', '.join(files.left_out)}", markup=False)


def _merged(run: Path, console: Console) -> Path:
    folder, trained = run / "merged", run / "adapter" / "adapter_model.safetensors"
    weights = list(folder.glob("*.safetensors"))
    if weights and trained.is_file() and min(file.stat().st_mtime for file in weights) >= trained.stat().st_mtime:
        return folder
    found = find_source(run)
    with merge_progress(found, console) as progress:
        folder, outcome = merge_adapter(found, folder, overwrite=True, progress=progress)
    say_outcome(folder, outcome, "bfloat16", console)
    return folder
