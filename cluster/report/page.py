"""`report.html`: one file that shows one run, or several overlaid. It loads nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.report import facts
from cluster.report.charts import draw_sections
from cluster.report.record import RunRecord, name_apart, read_run
from cluster.report.samples import read_samples, shown
from configs.contracts.errors import RunDirectoryError

FILE_NAME = "report.html"
SETTINGS_CHARACTERS = 100_000
HERE = Path(__file__).parent


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one run, or of several overlaid.

    Args:
        folders: run directories.
        output: file to write; by default `report.html` in the run directory, or in the current folder for several runs.

    Raises:
        RunDirectoryError: a folder holds no run, or the file cannot be written.
    """
    distinct = list(dict.fromkeys(folder.absolute() for folder in folders))
    runs = [read_run(folder) for folder in distinct]
    file = output or (distinct[0] / FILE_NAME if len(distinct) == 1 else Path(FILE_NAME))
    try:
        write_page(file, render(runs))
    except OSError as error:
        raise RunDirectoryError(f"{file} cannot be written ({error.strerror}): name another file with --output") from error
    return file


def leave_report(folder: Path, say: Callable[[str], None], runs: Sequence[Path] = ()) -> Path | None:
    """Write the report of a run that has just ended into its directory; returns its path.

    An error is printed, not raised: a finished run must not fail because of its report.

    Args:
        runs: run directories to overlay, for a run of stages.
    """
    try:
        write_page(folder / FILE_NAME, render([read_run(run, running=False) for run in runs or (folder,)]))
    except Exception as error:
        say(f"{FILE_NAME} was not written ({type(error).__name__}: {error}): try rollcast report {folder}")
        return None
    return folder / FILE_NAME


def write_page(file: Path, page: str) -> None:
    """Write a page whole or not at all."""
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(file)


def render(runs: Sequence[RunRecord]) -> str:
    """Make the page of these runs."""
    name_apart(runs)
    return render_page(
        HERE,
        "page",
        title=f"{runs[0].label} – rollcast report" if len(runs) == 1 else f"{len(runs)} runs – rollcast report",
        runs=runs,
        facts=facts,
        sampled=not all(run.supervised for run in runs),
        headlines=list(dict.fromkeys(fact.name for run in runs for fact in facts.headline(run))),
        sections=draw_sections(runs),
        samples={run.label: read_samples(run.path / "completions", 3 if len(runs) == 1 else 1) for run in runs},
        differing=facts.differing_settings(runs),
        settings_characters=SETTINGS_CHARACTERS,
    )


def render_page(folder: Path, name: str, **values: object) -> str:
    """Render `<name>.html.jinja` of a folder with the common style sheet and the folder's `<name>.js`. The page may load nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, HERE]), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    style, script = (HERE / "page.css").read_text(), (folder / f"{name}.js").read_text()
    template = environment.get_template(f"{name}.html.jinja")
    return template.render(style=style, script=script, style_hash=_hash(style), script_hash=_hash(script), **values)


def _hash(text: str) -> str:
    """Compute the hash by which a content security policy allows an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
