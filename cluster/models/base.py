"""The base model of a run: found, made, merged or dequantised."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.models.merge import MergeSource, merge_adapter
from cluster.models.own_process import ProcessEndedError, call_in_process
from cluster.models.starting_adapter import doubt_about_base
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from configs.contracts.errors import ConfigError, RollcastError
from configs.contracts.logs import tail
from configs.schema.model import BASE_MODEL, BUILTIN, DEQUANTISED_MODEL, MERGED_MODEL, WARM_MODEL
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.model.quantised import require_bitsandbytes

TINY_MODEL = f"{BUILTIN}tiny_qwen2"


@contextmanager
def whole_folder(path: str) -> Iterator[Path]:
    """A folder to write that takes its name when it is complete."""
    unfinished = Path(f"{path}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    os.rename(unfinished, path)


def model_to_serve(config: RunConfig, folder: Path, logs: Path) -> str:
    """The model that the engines load to evaluate a run: what the run in `folder` has made of its base model, if it has made anything.

    A `builtin:` model that is not there is made.
    """
    made = [folder / DEQUANTISED_MODEL] * (config.model.serve_quantized == "dequantized")
    made += [folder / WARM_MODEL] * (config.learner.warm_start is not None)
    made += [folder / MERGED_MODEL] * config.model.merge_adapter
    there = next((path for path in made if path.exists()), None)
    if there is not None or not config.model.path.startswith(BUILTIN):
        return str(there or config.model.path)
    return make_builtin_model(config.model.path, folder, logs, config.seed)


def prepare_model(config: RunConfig | SftConfig, directory: RunDirectory, display: RunDisplay) -> str:
    """Make or find the base, and merge the adapter into it that is to be merged; what an earlier start of the run made is used again.

    Raises:
        ConfigError: an unknown `builtin:` model, a quantisation that cannot be had here, or an adapter that does not fit.
    """
    model = config.model
    require_bitsandbytes(model.quantization)
    path = model.path
    if path.startswith(BUILTIN):
        with display.phase(f"making {path}"):
            path = make_builtin_model(path, directory.path, directory.logs, config.seed)
    if model.adapter is not None and (doubt := doubt_about_base(Path(model.adapter), path)) is not None:
        display.say(doubt)
    if not model.merge_adapter:
        return path
    merged = directory.path / MERGED_MODEL
    if not merged.exists():
        assert model.adapter is not None
        source = MergeSource(Path(model.adapter), path, merged, model.revision, model.trust_remote_code)
        with display.phase(f"merging {model.adapter} into {model.path}"):
            _, outcome = merge_adapter(source, dtype=model.dtype)
        display.say(f"{outcome.modules} modules merged; log-probabilities differ by {outcome.mean_difference:.2g} nats on average")
    return str(merged)


def require_plain_weights(path: str, revision: str | None) -> None:
    """Refuse a model whose weights are quantised where it is published, by what its config.json says.

    Args:
        path: local folder or hub id, whose tokenizer could be loaded.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: they are.
    """
    from huggingface_hub import hf_hub_download

    folder = Path(path).expanduser()
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(path, "config.json", revision=revision))
        quantised = json.loads(file.read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError):
        return  # the engines and the learner say what is wrong with it
    if quantised:
        raise ConfigError(
            f"model.path {path} is quantised already ({quantised.get('quant_method', 'quantization_config')} in its config.json), and a run "
            "quantises plain weights itself, so that engines and learner can agree; give the original model, and for QLoRA set "
            "model.quantization to nf4"
        )


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
