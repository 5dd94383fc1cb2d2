"""Find the base of a run or of an adapter; make it, or merge an adapter into it, where the settings say so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.models.adapter_base import Base, FoundBase, adapter_digest, find_base, local_folder, named_base
from cluster.models.merge import MergeSource, merge_adapter
from cluster.models.own_process import ProcessEndedError, call_in_process
from cluster.models.weights_digest import weight_files
from cluster.output import checkpoint
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from configs.contracts.errors import ConfigError, RollcastError
from configs.contracts.logs import tail
from configs.loading import stage_configs
from configs.schema.model import BASE_MODEL, BUILTIN, DEQUANTISED_MODEL, MERGED_MODEL, WARM_MODEL
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.model.quantised import require_bitsandbytes

TINY_MODEL = f"{BUILTIN}tiny_qwen2"

MERGED_FROM = "merged_from.json"
"""File in a run's merged model: digests of the adapter and the base that it was made of."""


@contextmanager
def whole_folder(path: str) -> Iterator[Path]:
    """Give a folder to write; it takes its name when it is complete."""
    unfinished = Path(f"{path}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    os.rename(unfinished, path)


def base_to_serve(config: RunConfig, adapter: Path | None, folder: Path, logs: Path, *, insist: bool) -> FoundBase:
    """Decide which base the engines load.

    Args:
        adapter: a PEFT folder, which goes on the base that it was trained on; None asks for the base of the settings.
        folder: directory of the run; or where a `builtin:` model is made, for settings from a file.
        insist: `model.path` was given expressly, so that the adapter must be one of that model.

    Raises:
        ConfigError: the base of the adapter is another, has changed, or is gone.
    """
    if adapter is None:
        return base_of_settings(config, folder, logs)
    if insist:
        return find_base(adapter, base_of_settings(config, folder, logs).base, insist=True)
    made = folder / BASE_MODEL
    if not config.model.path.startswith(BUILTIN):
        return find_base(adapter, Base(local_folder(config.model.path), config.model.revision))
    return find_base(adapter, Base(str(made)) if made.is_dir() else None)


def require_servable(base: Base) -> None:
    """Refuse a local folder that no engine can load.

    Raises:
        ConfigError: it has no config.json, or no weights.
    """
    folder = Path(base.path).expanduser()
    if not folder.is_dir():
        return  # whoever asks the hub for it says what is wrong
    missing = "config.json" if not (folder / "config.json").is_file() else "" if weight_files(folder) else "weights (*.safetensors)"
    if missing:
        raise ConfigError(f"model folder {folder} has no {missing}, so that no engine can load it; give the folder of a whole model")


def base_of_settings(config: RunConfig, folder: Path, logs: Path) -> FoundBase:
    """Find the base that settings name: `model.path`, or what a run's warm start or quantisation made of it.

    A run that merged an adapter into its base has the model before the merge as its base, and a run of stages has the base of its first
    stage. A `builtin:` model that is not there is made.

    Args:
        folder: directory of the run, or where a `builtin:` model is made.

    Raises:
        ConfigError: the weights are no longer those that the run in `folder` trained on.
    """
    if config.stages:
        first = stage_configs(config)[0]
        stage = folder / first.out_dir.name
        return base_of_settings(first.model_copy(update={"stages": ()}), stage if stage.is_dir() else folder, logs)
    model, merging = config.model, config.model.merge_adapter
    made = [folder / DEQUANTISED_MODEL] * (model.serve_quantized == "dequantized" and not merging)
    made += [folder / WARM_MODEL] * (config.learner.warm_start is not None and not merging)
    there = next((path for path in made if path.exists()), None)
    if there is not None:
        base = Base(str(there))
    elif model.path.startswith(BUILTIN):
        base = Base(make_builtin_model(model.path, folder, logs, config.seed))
    else:
        base = Base(local_folder(model.path), model.revision)
    if merging:
        _require_merged_from(folder, base)
        return FoundBase(base)
    trained = next((each for each in _adapters_of(folder) if each.is_dir()), None)
    if trained is not None and (there or config.learner.warm_start is not None or named_base(trained) == base.path):
        return find_base(trained, base)
    return FoundBase(base)


def _adapters_of(run: Path) -> list[Path]:
    """List the folders in which a run keeps adapters, the last one first."""
    return [run / "adapter", *(folder / "learner" / "adapter" for folder in reversed(checkpoint.folders_in(run / "checkpoints")))]


def prepare_model(config: RunConfig | SftConfig, directory: RunDirectory, display: RunDisplay) -> str:
    """Make or find the base, and merge `model.adapter` into it if the settings say so. Models that an earlier start made are used again.

    Raises:
        ConfigError: an unknown `builtin:` model, a quantisation that cannot be had here, or an adapter that does not fit.
    """
    model = config.model
    require_bitsandbytes(model.quantization)
    path = model.path
    if path.startswith(BUILTIN):
        with display.phase(f"making {path}"):
            path = make_builtin_model(path, directory.path, directory.logs, config.seed)
    path = local_folder(path)  # adapters name their base by it, also to commands in another folder
    if model.adapter is None:
        return path
    with display.phase("comparing the base with that of model.adapter"):
        note = find_base(Path(model.adapter), Base(path, model.revision), insist=True).note
    if note:
        display.say(note)
    return _merged(config, path, directory, display) if model.merge_adapter else path


def _merged(config: RunConfig | SftConfig, path: str, directory: RunDirectory, display: RunDisplay) -> str:
    """Merge `model.adapter` into the model in `path`, unless an earlier start of the run has done it; returns the folder."""
    model, merged = config.model, directory.path / MERGED_MODEL
    assert model.adapter is not None
    facts = {"adapter": adapter_digest(Path(model.adapter)), "base": Base(path, model.revision).weights}
    if merged.exists():
        _require_same_adapter(merged, model.adapter)
        return str(merged)
    source = MergeSource(Path(model.adapter), path, merged, model.revision, model.trust_remote_code)
    with display.phase(f"merging {model.adapter} into {model.path}"):
        _, outcome = merge_adapter(source, dtype=model.dtype)
    directory.write(f"{MERGED_MODEL}/{MERGED_FROM}", json.dumps(facts))
    display.say(f"{outcome.modules} modules merged; log-probabilities differ by {outcome.mean_difference:.2g} nats on average")
    return str(merged)


def _require_same_adapter(merged: Path, adapter: str) -> None:
    made_from = _merged_from(merged).get("adapter")
    if made_from and made_from != adapter_digest(Path(adapter)):
        raise ConfigError(
            f"model.adapter {adapter} is not the adapter that was merged into {merged}, and a run goes on with the model that it began with; set "
            "model.adapter back, or begin anew with --resume none"
        )


def _require_merged_from(run: Path, base: Base) -> None:
    """Refuse a base that has changed since the run merged an adapter into it."""
    weights, found = _merged_from(run / MERGED_MODEL).get("base"), base.weights
    if weights and found and weights != found:
        raise ConfigError(
            f"{base.path} has other weights than when {run / MERGED_MODEL} was made of it, so that it is no longer the base of this run; restore it, "
            "or give its base by model.path"
        )


def _merged_from(merged: Path) -> dict[str, str | None]:
    """Read the digests of the adapter and the base of a merged model; empty for one of an older version."""
    try:
        found = json.loads((merged / MERGED_FROM).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def make_builtin_model(name: str, where: Path, logs: Path, seed: int) -> str:
    """Make a `builtin:` model in `where`, unless it is there already, and return its folder.

    Raises:
        ConfigError: there is no such model.
    """
    if name != TINY_MODEL:
        raise ConfigError(f"model.path {name} is not known: the only model that is made on the spot is {TINY_MODEL}")
    folder = where / BASE_MODEL
    if not (folder / "config.json").exists():
        log = logs / "prepare.log"
        try:
            call_in_process(_create_tiny_model, folder, seed, log=log)
        except ProcessEndedError as error:
            raise RollcastError(f"the process that makes {name} in {folder} {error}", log_tail=tail(log)) from None
    return str(folder)


def _create_tiny_model(folder: Path, seed: int, _progress: Callable[..., None]) -> None:
    from learner.model.tiny_model import create_tiny_model

    create_tiny_model(folder, seed)
