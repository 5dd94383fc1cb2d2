"""The files to publish of a run or of a model folder: weights unchanged, texts without local paths and secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cluster.models.base_record import BaseRecord, read_record
from cluster.output.scrub import scrubbed, scrubbed_text
from cluster.publish.curves_image import curves_svg
from cluster.publish.model_card import SHOWN_METRICS, CardFacts, model_card
from cluster.report.page import render
from cluster.report.record import RunRecord, read_run
from configs.contracts.errors import ConfigError
from configs.loading import config_of, read_settings
from configs.schema.run import RunConfig
from configs.yaml_files import dump_yaml

WEIGHTS = (".safetensors",)
OF_A_MODEL = (*WEIGHTS, ".json", ".jinja", ".model", ".txt", ".tiktoken")
TEXTS = ("README.md", "config.yaml", "report.html", "curves.svg")
"""Files of a folder that are published with its model, if they exist."""

SETTINGS_FILES = ("adapter_config.json", "config.json", "tokenizer_config.json")
"""Files that may name a local folder. Vocabularies are not searched: a token may look like a path."""

Content = Path | bytes


@dataclass
class Publication:
    """The files to publish, by their names in the repository."""

    files: dict[str, Content] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Files of the same folder that are not published."""

    def sizes(self) -> dict[str, int]:
        """Sizes of all files in bytes, smallest first."""
        found = {name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in self.files.items()}
        return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def of_folder(folder: Path) -> Publication:
    """Collect the files of a folder with an adapter or a model.

    Raises:
        ConfigError: the folder holds no weights.
    """
    found = of_model(folder)
    for name in TEXTS:
        if (folder / name).is_file():
            found.files[name] = scrubbed_text((folder / name).read_text(encoding="utf-8", errors="replace"), folder.parent).encode()
    if "README.md" not in found.files:
        library = "peft" if "adapter_config.json" in found.files else "transformers"
        found.files["README.md"] = f"---\nlibrary_name: {library}\ntags: [rollcast]\n---\n".encode()
    found.left_out = [name for name in found.left_out if name not in found.files]
    return found


def of_run(run: Path, weights: Path, *, merged: bool) -> Publication:
    """Collect the model in `weights`, with the card, settings, curves and report of the run.

    Args:
        weights: folder of the run's final adapter, of a checkpoint's adapter, or of the merged model.

    Raises:
        ConfigError: there are no weights, or this version of rollcast cannot read the run's settings.
    """
    found = of_model(weights)
    record, tree = read_run(run), read_settings(run / "config.yaml")
    config = config_of(tree, str(run / "config.yaml"))
    settings = dump_yaml(scrubbed(config.model_dump(mode="json")))
    found.files["config.yaml"] = settings.encode()
    svg = curves_svg(record)
    if svg is not None:
        found.files["curves.svg"] = svg.encode()
    facts = card_facts(record, None if merged else read_record(weights), curves="curves.svg" if svg else "", merged=merged)
    found.files["README.md"] = model_card(config, facts).encode()
    found.files["report.html"] = scrubbed_text(_report(record, settings, config), run).encode()
    found.left_out = [name for name in found.left_out if name not in found.files]
    return found


def of_model(folder: Path) -> Publication:
    """Collect weights, tokenizer and settings of a model folder."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    if not any(child.suffix in WEIGHTS for child in children):
        raise ConfigError(
            f"{folder} holds no weights (no .safetensors): give the folder of an adapter or of a merged model, or a run directory"
        )
    files = {child.name: _content(child) for child in children if child.is_file() and child.suffix in OF_A_MODEL}
    return Publication(files, [child.name for child in children if child.name not in files])


def run_card(run: Path, config: RunConfig) -> str:
    """Write the card that a run puts beside its adapter."""
    return model_card(config, card_facts(read_run(run, running=False), read_record(run / "adapter")))


def card_facts(record: RunRecord, base: BaseRecord | None, *, curves: str = "", merged: bool = False) -> CardFacts:
    """Read the facts of a card from a run directory.

    Args:
        base: of the adapter.
    """
    steps = record.summary.get("steps")
    return CardFacts(
        steps=steps if isinstance(steps, int) else record.last_step,
        before=record.before,
        after=record.after,
        last_metrics=_last_metrics(record),
        curves=curves,
        merged=merged,
        base=base,
    )


def _last_metrics(record: RunRecord) -> Mapping[str, float]:
    """Average each metric of the card over the last tenth of the steps at which it was logged."""
    found = {}
    for name in SHOWN_METRICS.keys() & record.metrics.keys():
        values = record.metrics[name].values
        last = values[-max(1, len(values) // 10) :]
        if np.isfinite(last).any():
            found[name] = float(last[np.isfinite(last)].mean())
    return found


def _report(record: RunRecord, settings: str, config: RunConfig) -> str:
    return render([replace(record, settings_text=settings, settings=scrubbed(config.model_dump(mode="json")))])


def _content(file: Path) -> Content:
    """Return the file itself, or, if it gives a local folder as the name of a model, its text without that."""
    if file.name not in SETTINGS_FILES:
        return file
    try:
        settings: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"{file} is not readable as JSON; save the model again") from None
    # Only these keys: others that end in `_token`, such as `eos_token`, are no secrets.
    clean = {name: scrubbed(value) if name.endswith("name_or_path") else value for name, value in settings.items()}
    return file if clean == settings else json.dumps(clean, indent=2, ensure_ascii=False).encode()
