"""The files that are published of a run, or of a model's folder: weights as they are, texts without paths and secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

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
"""Files of a folder that are published with its model, where they are there."""

SETTINGS_FILES = ("adapter_config.json", "config.json", "tokenizer_config.json")
"""Those that may name a folder of the machine. Vocabularies are left alone: what looks like a path there is a token."""

Content = Path | bytes


@dataclass
class Publication:
    """Files by their names in the repository."""

    files: dict[str, Content] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Files that lie beside them and are not published."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, the texts first."""
        found = {name: len(content) if isinstance(content, bytes) else content.stat().st_size for name, content in self.files.items()}
        return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def of_folder(folder: Path) -> Publication:
    """An adapter or a model by itself.

    Raises:
        ConfigError: it holds neither.
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
    """The model in `weights` (a run's adapter, that of a checkpoint, or a merged model) with card, settings, curves and report of the run.

    Raises:
        ConfigError: there are no weights, or the run's settings are those of another version.
    """
    found = of_model(weights)
    record, tree = read_run(run), read_settings(run / "config.yaml")
    config = config_of(tree, str(run / "config.yaml"))
    settings = dump_yaml(scrubbed(config.model_dump(mode="json")))
    found.files["config.yaml"] = settings.encode()
    svg = curves_svg(record)
    if svg is not None:
        found.files["curves.svg"] = svg.encode()
    found.files["README.md"] = model_card(config, card_facts(record, config, merged=merged, curves="curves.svg" if svg else "")).encode()
    found.files["report.html"] = scrubbed_text(_report(record, settings, config), run).encode()
    found.left_out = [name for name in found.left_out if name not in found.files]
    return found


def of_model(folder: Path) -> Publication:
    """Weights, tokenizer and settings of a model's folder."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    if not any(child.suffix in WEIGHTS for child in children):
        raise ConfigError(
            f"{folder} holds no weights (no .safetensors): give the folder of an adapter or of a merged model, or a run directory"
        )
    files = {child.name: _content(child) for child in children if child.is_file() and child.suffix in OF_A_MODEL}
    return Publication(files, [child.name for child in children if child.name not in files])


def run_card(run: Path, config: RunConfig) -> str:
    """The card of a run's adapter, as it lies in the run's directory."""
    return model_card(config, card_facts(read_run(run, running=False), config))


def card_facts(record: RunRecord, config: RunConfig, *, merged: bool = False, curves: str = "") -> CardFacts:
    """Read the facts of a card from a run directory."""
    held_out, steps = record.after or record.before, record.summary.get("steps")
    return CardFacts(
        steps=steps if isinstance(steps, int) else record.last_step,
        accuracy_before=record.before.accuracy if record.before else None,
        accuracy_after=record.after.accuracy if record.after else None,
        last_metrics=_last_metrics(record),
        held_out=held_out.prompts if held_out else 0,
        curves=curves,
        merged=merged,
    )


def _last_metrics(record: RunRecord) -> Mapping[str, float]:
    """Means over the last tenth of the steps at which a metric was logged."""
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
    """The file itself, or its text where that names a folder of the machine as the model's name."""
    if file.name not in SETTINGS_FILES:
        return file
    try:
        settings: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"{file} is not readable as JSON; save the model again") from None
    # Only names: what else ends in `_token` there is an end of a sequence, and no secret.
    clean = {name: scrubbed(value) if name.endswith("name_or_path") else value for name, value in settings.items()}
    return file if clean == settings else json.dumps(clean, indent=2, ensure_ascii=False).encode()
