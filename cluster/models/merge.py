"""`rollcast merge`: fold an adapter into its base, and write the result as a folder to serve. torch runs in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cluster.models.adapter_base import Base, find_base, local_folder, mapping_in, named_base
from cluster.models.own_process import ProcessEndedError, call_in_process
from cluster.models.starting_adapter import plain_lora
from configs.contracts.errors import ConfigError, RollcastError
from configs.contracts.logs import tail
from configs.schema.model import DEQUANTISED_MODEL
from configs.schema.stages import last_stage_folder
from learner.model.merging import TOLERANCE, MergeJob, MergeOutcome, Progress, merge

Dtype = Literal["bfloat16", "float16", "float32"]
__all__ = ["TOLERANCE", "MergeOutcome", "MergeSource", "find_source", "merge_adapter"]

CHECK_ROWS = 4
"""Number of a run's completions on which its merged model is checked."""


@dataclass(frozen=True, slots=True)
class MergeSource:
    """An adapter to merge, and its base."""

    adapter: Path
    base: str
    output: Path
    """Folder of the merged model, unless the command names another one."""
    revision: str | None = None
    trust_remote_code: bool = False
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on the choice of the base, to be shown."""


def find_source(path: Path, base: str | None = None) -> MergeSource:
    """Find the adapter and the base to merge, from a run directory or a PEFT folder.

    A run's base is the model that its adapter was trained on and served with: what the learner loaded, or of a quantised base that was
    served dequantised, that one.

    Args:
        base: folder or hub id of the base, instead of the one that the run or the adapter names.

    Raises:
        ConfigError: it is neither, or says no base.
    """
    path = path.absolute()
    if (path / "adapter_config.json").is_file():
        return _of_adapter(path, base)
    if not (path / "config.yaml").is_file():
        raise ConfigError(
            f"{path} is neither a run directory (it has no config.yaml) nor an adapter (no adapter_config.json); "
            "give the out_dir of a run, or a PEFT folder"
        )
    if not (path / "adapter" / "adapter_config.json").is_file():
        raise ConfigError(
            f"{path} has no adapter yet: a run leaves it when it ends; resume the run, or give a checkpoint's adapter, as in "
            f"{path}/checkpoints/step-000050/learner/adapter"
        )
    return _of_run(path, base)


def merge_adapter(
    source: MergeSource,
    output: Path | None = None,
    *,
    dtype: Dtype = "bfloat16",
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[Path, MergeOutcome]:
    """Merge in a process of its own, so that the caller never imports torch. The folder appears complete and checked, or not at all.

    Raises:
        ConfigError: the adapter is for another base, the folder is taken, the disk is too small, or the base cannot be loaded.
        AdapterError: the merged model is not the adapted one.
        RollcastError: the process died.
    """
    output = (output or source.output).absolute()
    plain_lora(source.adapter, source.base)
    _refuse_taken(output, source, overwrite)
    job = MergeJob(source.adapter, source.base, output, dtype, source.revision, source.trust_remote_code, source.texts)
    with _whole(output) as unfinished:
        outcome = _in_a_process(replace(job, folder=unfinished), progress)
    return output, outcome


def _of_adapter(adapter: Path, base: str | None) -> MergeSource:
    return _with_base(MergeSource(adapter, "", adapter.with_name(f"{adapter.name}-merged")), base)


def _of_run(run: Path, base: str | None) -> MergeSource:
    settings = mapping_in(run / "config.yaml")
    if stage := last_stage_folder(settings):
        return replace(_of_run(run / stage, base), output=run / "merged")
    given = settings.get("model")
    model = given if isinstance(given, dict) else {}
    path, revision = str(model.get("path") or ""), model.get("revision")
    own = Base(path, str(revision) if revision else None) if path == named_base(run / "adapter") else None
    texts = _completed_texts(run / "completions")
    source = MergeSource(run / "adapter", "", run / "merged", None, bool(model.get("trust_remote_code")), texts)
    return _with_base(source, base, own)


def _with_base(source: MergeSource, asked: str | None, own: Base | None = None) -> MergeSource:
    """Put the base into a source: the one that is asked for, or else the adapter's own.

    Args:
        own: the base that the run's settings name, if the adapter names it too.
    """
    offered = Base(local_folder(asked)) if asked else own
    found = find_base(source.adapter, offered, insist=asked is not None, option="--base")
    notes = [found.note] if found.note else []
    if asked is None and Path(found.base.path).name == DEQUANTISED_MODEL:
        notes.append("the base is what nf4 made of the model, which the engines served; --base merges into the original")
    return replace(source, base=found.base.path, revision=found.base.revision, notes=tuple(notes))


def _completed_texts(folder: Path) -> tuple[str, ...]:
    """Read prompts with their completions from the last step that the run logged."""
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("step-*.parquet"), reverse=True):
        rows = pq.read_table(file, columns=["prompt", "completion"]).slice(0, CHECK_ROWS).to_pylist()
        if rows:
            return tuple(f"{row['prompt']}{row['completion']}" for row in rows)
    return ()


def _refuse_taken(output: Path, source: MergeSource, overwrite: bool) -> None:
    kept = [source.adapter.resolve(), *([Path(source.base).resolve()] if Path(source.base).exists() else [])]
    if any(folder == output.resolve() or output.resolve() in folder.parents for folder in kept):
        raise ConfigError(f"{output} holds the adapter or its base, which would be overwritten; name another folder with --output")
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise ConfigError(f"{output} exists and is not empty: name another folder with --output, or replace it with --overwrite")


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Give a folder to write, which then replaces `output` by one rename. After a failure nothing of it is left."""
    unfinished, replaced = output.with_name(f"{output.name}.tmp"), output.with_name(f"{output.name}.old")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        yield unfinished
        if output.exists():
            os.rename(output, replaced)
        os.rename(unfinished, output)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); name another folder with --output") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _in_a_process(job: MergeJob, progress: Progress) -> MergeOutcome:
    with TemporaryDirectory(prefix="rollcast-merge-") as folder:
        log = Path(folder) / "merge.log"
        try:
            return call_in_process(merge, job, log=log, progress=progress)
        except ProcessEndedError as error:
            raise _ended(job, error.exitcode, tail(log)) from None


def _ended(job: MergeJob, exitcode: int, log_tail: str) -> RollcastError:
    if exitcode < 0:
        reason = (
            f"was killed by signal {-exitcode}: most often the machine has too little memory for one copy of {job.base}; use a larger one"
        )
    else:
        reason = f"failed with exit code {exitcode}; its last lines say why"
    return RollcastError(f"the process that merges {job.base} {reason}", log_tail=log_tail)
