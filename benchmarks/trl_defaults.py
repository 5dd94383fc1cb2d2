"""Read the defaults of TRL's published versions from their wheels, and compare them with those that conversions write into a run.

    python -m benchmarks.trl_defaults                 print the table of docs/recipes.md; exit code 1 if a default of ours is another
    python -m benchmarks.trl_defaults 0.18.2 1.16.0   of these versions

Nothing is installed: `pip download --no-deps` fetches each wheel, and its source is parsed. Needs a package index.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from zipfile import ZipFile

from configs.recipes import grpo_keys, sft_keys

VERSIONS = ["0.14.0", "0.15.2", "0.16.1", "0.17.0", "0.18.2", "0.19.1", "0.20.0", "0.21.0", "0.22.2", "0.23.1", "0.24.0", "1.0.0", "1.16.0"]
WRITTEN_FOR = "0.18.2"
"""Open-R1 pins TRL 0.18: what its recipes leave out was a default of this version."""

GRPO = [
    "beta",
    "epsilon",
    "learning_rate",
    "loss_type",
    "max_completion_length",
    "max_prompt_length",
    "num_generations",
    "scale_rewards",
    "temperature",
]
SFT = ["learning_rate", "max_length", "gradient_checkpointing"]
FILES = {"GRPO": (GRPO, "trl/trainer/grpo_config.py"), "SFT": (SFT, "trl/trainer/sft_config.py")}
AS_HERE: Mapping[object, object] = {True: "group", False: "none"}
"""TRL's `scale_rewards` -> ours."""

Defaults = Mapping[str, object]
"""`GRPO beta` -> default."""


def defaults_of(version: str, folder: Path) -> Defaults:
    """Read the defaults of one version; a setting that it does not have is left out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"trl=={version}", "-d", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ZipFile(next(folder.glob(f"trl-{version}-*.whl"))) as wheel:
        names = wheel.namelist()
        shared = dict(_fields(wheel.read("trl/trainer/base_config.py"))) if "trl/trainer/base_config.py" in names else {}
        found: dict[str, object] = {}
        for kind, (settings, file) in FILES.items():
            fields = shared | dict(_fields(wheel.read(file)))
            found |= {f"{kind} {setting}": fields[setting] for setting in settings if setting in fields}
    return found


def _fields(source: bytes) -> Iterator[tuple[str, object]]:
    """Yield the fields of every class, with the defaults that are written as constants."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            for keyword in node.value.keywords:
                if keyword.arg == "default":
                    try:
                        yield node.target.id, ast.literal_eval(keyword.value)
                    except ValueError:
                        continue


def markdown(found: Mapping[str, Defaults]) -> str:
    """Write one line for each default that changed between the versions."""
    lines = ["| setting | default of TRL |", "|---|---|"]
    for setting in (f"{kind} {name}" for kind, (names, _) in FILES.items() for name in names):
        spans = []
        for value, group in groupby(found, key=lambda version: found[version].get(setting, "none such")):
            versions = list(group)
            spans.append((value, versions[0].rpartition(".")[0], versions[-1].rpartition(".")[0]))
        if len(spans) > 1:
            shown = "; ".join(f"{value} in {first} to {last}" if first != last else f"{value} in {first}" for value, first, last in spans)
            lines.append(f"| {setting} | {shown} |")
    return "\n".join(lines)


def differences(found: Defaults) -> Iterator[str]:
    """Yield each default of ours that is another than TRL's."""
    ours = {f"GRPO {key.rpartition('.')[2]}": value for key, value in grpo_keys.DEFAULTS.items()}
    ours |= {f"SFT {key.rpartition('.')[2]}": value for key, value in sft_keys.TRL_DEFAULTS.items()}
    for setting, value in found.items():
        theirs = AS_HERE[value] if setting == "GRPO scale_rewards" and isinstance(value, bool) else value
        if ours.get(setting) != theirs:
            yield f"{setting}: {theirs!r} in TRL {WRITTEN_FOR}, {ours.get(setting)!r} here"


def main(versions: Sequence[str]) -> int:
    """Print the table and the differences; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        found = {version: defaults_of(version, Path(folder)) for version in versions}
    print(markdown(found))
    wrong = list(differences(found.get(WRITTEN_FOR, {})))
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or VERSIONS))
