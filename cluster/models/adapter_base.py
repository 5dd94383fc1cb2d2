"""Find the base that an adapter is served on, merged into or trained further on. Every command asks `find_base`.

    adapter ──names──► a folder or hub id      ──records──► digests of weights (`base_record`)
                             │                                   │
    command ──offers──► model.path, --base ──────────────► same weights? ──yes──► served          no ──► its own base, or refused

An adapter without a record (of an older version, or from elsewhere) is believed by the name that it gives, and the command says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.models.base_record import BaseRecord, read_record
from cluster.models.weights_digest import bytes_to_read, weights_digest
from configs.contracts.errors import ConfigError
from configs.schema.model import BUILTIN, DEQUANTISED_MODEL
from configs.schema.stages import last_stage_folder

SHOWN_DIGITS = 12
RUN_LEVELS = 4
"""Folders between an adapter and its run: `RUN/checkpoints/step-000050/learner/adapter` lies four below."""

MOVED_LEVELS, MOVED_PARTS = 8, 3
"""A base may have been moved together with its adapter. It is looked for in so many folders above the adapter, by so many last parts of its path."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Base:
    """A model that adapters go on, as engines load it."""

    path: str
    """Local folder or hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    @property
    def folder(self) -> Path | None:
        """The folder with its files on this machine; None for a hub model that was not downloaded. Asks no hub."""
        local = Path(self.path).expanduser()
        if local.is_dir():
            return local
        return _downloaded(self.path, self.revision) if is_hub_id(self.path) else None

    @property
    def commit(self) -> str | None:
        """The commit of a hub model, where it is known without asking the hub."""
        if not is_hub_id(self.path):
            return None
        if self.revision is not None and COMMIT.fullmatch(self.revision):
            return self.revision
        return self.folder.name if self.folder is not None else None

    @property
    def weights(self) -> str | None:
        """The digest of its weights; None where they are not on this machine."""
        return weights_digest(self.folder) if self.folder is not None else None


@dataclass(frozen=True, slots=True)
class FoundBase:
    """The base of an adapter, and what a user should know about the choice."""

    base: Base
    note: str = ""


def find_base(adapter: Path, offered: Base | None = None, *, insist: bool = False, option: str = "model.path") -> FoundBase:
    """Find the base that an adapter was trained on.

    Args:
        adapter: a PEFT folder.
        offered: the base that the command's settings name.
        insist: use no other than the offered one; otherwise the adapter's own comes first.
        option: the setting by which a user offers a base, for errors.

    Raises:
        ConfigError: the offered base has other weights than the adapter was trained on; or the adapter's own is not there.
    """
    asked = _Search(adapter, named_base(adapter), read_record(adapter), offered, option)
    if insist and offered is not None:
        return asked.accept(offered)
    return asked.by_record(asked.record) if asked.record is not None else asked.by_name()


def bytes_to_compare(adapter: Path, offered: Base) -> int:
    """Count the bytes of weights that `find_base` would read."""
    folders = {base.folder for base in (offered, Base(named_base(adapter)))}
    return sum(bytes_to_read(folder) for folder in folders if folder is not None)


def record_of(learner_base: Base, served_path: str) -> BaseRecord:
    """Record a base for the adapters that are trained on it.

    Args:
        learner_base: the model that the learner loads.
        served_path: the model that the engines load.
    """
    weights = learner_base.weights
    served = weights if served_path == learner_base.path else Base(served_path).weights
    return BaseRecord(weights, served if served != weights else None, learner_base.commit)


def local_folder(path: str) -> str:
    """Return the absolute path of a model folder; a hub id as it is."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def named_base(adapter: Path) -> str:
    """Read the folder or hub id that an adapter names as its base; empty where it names none."""
    return str(mapping_in(adapter / "adapter_config.json").get("base_model_name_or_path") or "")


def require_same_name(adapter: Path, named: str, base: str, option: str) -> None:
    """Refuse a base that is another model of the hub than the one that the adapter names. Of a local folder a name tells nothing.

    Raises:
        ConfigError: it is another.
    """
    if is_hub_id(named) and is_hub_id(base) and named != base:
        raise ConfigError(
            f"adapter {adapter} was trained on {named}, and {option} is {base}: on another model of the same shape it makes one that nobody "
            f"trained; set {option} to {named}, or to a folder that holds it"
        )


def adapter_digest(adapter: Path) -> str:
    """Compute a digest of all that an adapter does to a base: its tensors, and the scale that they are multiplied by."""
    settings = mapping_in(adapter / "adapter_config.json")
    scale = [settings.get(name) for name in ("r", "lora_alpha", "use_rslora")]
    return hashlib.sha256(f"{weights_digest(adapter)} {scale}".encode()).hexdigest()


def is_hub_id(name: str) -> bool:
    """Return True for a name such as `Qwen/Qwen2.5-0.5B` that is no folder here."""
    local = name.startswith((BUILTIN, "/", ".", "~", "…")) or name.count("/") > 1
    return bool(name) and not local and not Path(name).is_dir()


def run_of(adapter: Path) -> Path | None:
    """Find the directory of the run that an adapter lies in; of a run of stages, that of its last stage."""
    run = next((folder for folder in adapter.absolute().parents[:RUN_LEVELS] if (folder / "config.yaml").is_file()), None)
    stage = last_stage_folder(mapping_in(run / "config.yaml")) if run else None
    return run / stage if run and stage else run


def mapping_in(file: Path) -> dict[str, object]:
    """Read a YAML or JSON file that holds a mapping. A run of another version may have keys that the schema does not know.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read ({type(error).__name__}); restore it, or give the adapter folder and --base") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds no settings; restore it, or give the adapter folder and --base")
    return found


def _downloaded(repo_id: str, revision: str | None) -> Path | None:
    """Find the folder of a hub model in the local cache, at the revision; None if it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def _digits(digest: str | None) -> str:
    return f"{digest[:SHOWN_DIGITS]}…" if digest else "unknown"


@dataclass(frozen=True, slots=True)
class _Search:
    """One search for the base of an adapter."""

    adapter: Path
    named: str
    record: BaseRecord | None
    offered: Base | None
    option: str

    def accept(self, base: Base) -> FoundBase:
        """Take the offered base, unless its weights are known to be others than those that the adapter was trained on."""
        if self.record is None:
            return FoundBase(base, self._doubt(base))
        agrees = _agrees(self.record, base)
        if agrees is False:
            raise self._other_weights(self.record, base)
        return FoundBase(base, "" if agrees else self._unseen(base))

    def by_record(self, record: BaseRecord) -> FoundBase:
        """Take the first base that has the recorded weights: the adapter's own, or the offered one."""
        bases = [*self._own_bases(), *([self.offered] if self.offered else [])]
        verdicts = [(base, _agrees(record, base)) for base in bases]
        found = next((base for base, agrees in verdicts if agrees), None)
        if found is not None:
            return FoundBase(found)
        unseen = next((base for base, agrees in verdicts if agrees is None), None)
        if unseen is not None:
            return FoundBase(unseen, self._unseen(unseen))
        if bases:
            raise self._other_weights(record, bases[0])
        raise self._not_there()

    def by_name(self) -> FoundBase:
        """Take the base that the adapter names, or else the offered one."""
        base = next(self._own_bases(), self.offered)
        if base is None:
            raise self._not_there()
        return FoundBase(base, self._doubt(base))

    def _own_bases(self) -> Iterator[Base]:
        """Yield the bases that the adapter may mean, in the order in which they are tried."""
        run = run_of(self.adapter)
        model = mapping_in(run / "config.yaml").get("model") if run else None
        if run and isinstance(model, dict) and model.get("serve_quantized") == "dequantized":
            yield self._dequantised(run)
        elif is_hub_id(self.named):
            asked = self.offered if self.record is None and self.offered and self.offered.path == self.named else None
            yield asked or Base(self.named, self.record.commit if self.record else None)
        elif self.named:
            yield from (Base(str(folder)) for folder in dict.fromkeys(self._folders()))

    def _dequantised(self, run: Path) -> Base:
        folder = run / DEQUANTISED_MODEL
        if not folder.is_dir():
            raise ConfigError(
                f"the engines of {run} served {folder}, which is gone: an adapter is served on the weights that it was trained with; to use the "
                f"unquantised ones, set {self.option} to {self.named}"
            )
        return Base(str(folder))

    def _folders(self) -> Iterator[Path]:
        """Yield the folder that the adapter names, and folders where it may lie if it was moved together with the adapter."""
        named = Path(self.named).expanduser()
        if named.is_dir():
            yield named.absolute()
        for above in self.adapter.absolute().parents[:MOVED_LEVELS]:
            for count in range(1, min(MOVED_PARTS, len(named.parts)) + 1):
                folder = above.joinpath(*named.parts[-count:])
                # A folder is known by its weights; without a record, only what lies in a run's directory may be meant.
                if folder.is_dir() and (self.record is not None or (folder.parent / "config.yaml").is_file()):
                    yield folder

    def _other_weights(self, record: BaseRecord, base: Base) -> ConfigError:
        trained = f"adapter {self.adapter} was trained on {self.named}"
        rule = "on other weights it makes a model that nobody trained"
        if base.path == self.named and record.commit and is_hub_id(base.path):
            moved = f"which has moved on to {base.commit}" if base.commit else "which is given at another revision"
            return ConfigError(f"{trained} at commit {record.commit}, {moved}: {rule}; set model.revision to {record.commit}")
        digests = f"with the weights {_digits(record.weights)}"
        own = next((each.path for each in self._own_bases() if _agrees(record, each)), None)
        if own is not None:
            remedy = f"set {self.option} to {own}, or leave it out"
        elif base.path == self.named or self.offered is None:
            remedy = f"restore it, or set {self.option} to a folder that holds those weights"
        else:
            remedy = f"set {self.option} to a folder that holds those weights"
        return ConfigError(f"{trained} {digests}, and {base.path} has {_digits(base.weights)}: {rule}; {remedy}")

    def _not_there(self) -> ConfigError:
        if not self.named:
            return ConfigError(f"adapter {self.adapter} does not name its base model; give it with {self.option}")
        return ConfigError(
            f"adapter {self.adapter} names {self.named} as its base model, which is no folder of this machine; give it with {self.option}"
        )

    def _unseen(self, base: Base) -> str:
        return (
            f"the weights of {base.path} are not on this machine yet, so that it is not known whether they are those that the adapter "
            f"{self.adapter} was trained on"
        )

    def _doubt(self, base: Base) -> str:
        """Say how far the base of an adapter without a record is known.

        Raises:
            ConfigError: adapter and settings name different models of the hub.
        """
        require_same_name(self.adapter, self.named, base.path, self.option)
        theirs, ours = Base(self.named).weights if self.named else None, base.weights
        if theirs and ours and theirs != ours and Path(base.path).name != DEQUANTISED_MODEL:
            return (
                f"WARNING: the adapter {self.adapter} was trained on {self.named}, whose weights are not those of {base.path}: on another model "
                f"it makes one that nobody trained; unless that is meant, give {self.named} instead"
            )
        return f"the adapter {self.adapter} has no record of its base's weights: that {base.path} is its base is believed by the name"


def _agrees(record: BaseRecord, base: Base) -> bool | None:
    """Return True if a base is the recorded one, and None if nobody can tell."""
    weights, commit = base.weights, base.commit
    if record.weights and weights:
        return weights in (record.weights, record.served_weights)
    if record.commit and commit:
        return record.commit == commit
    return None
