"""rollcast.py: names that never clash, in every kind of process that a command starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.prompts.rendering import read_template
from configs.contracts.errors import DataError
from tests import REPOSITORY
from tests.runs.training import SMALL
from tests.user_project import FRONT_DOOR, environment, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("user"))


def python(project: Path, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python in the user's project."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=timeout_s, check=False)


def test_without_the_front_door_the_folders_of_the_user_win(project: Path) -> None:
    assert "this is the configs of the user" in python(project, "-c", "import configs.loading").stderr


def test_the_command_line_finds_its_own_packages(project: Path) -> None:
    shown = python(project, "-c", "import rollcast; rollcast.main()", "train", f"{REPOSITORY}/configs/quickstart.yaml", "--dry-run")
    assert shown.returncode == 0 and "builtin:tiny_qwen2" in shown.stdout, shown.stderr


def test_a_process_of_its_own_finds_them_and_runs_no_main_file_again(project: Path) -> None:
    (project / "script.py").write_text(
        "import rollcast\n"
        "from pathlib import Path\n"
        "from cluster.models.base import make_builtin_model\n"
        "print('once')\n"
        "print(make_builtin_model('builtin:tiny_qwen2', Path('model'), Path('logs'), 0))\n"
    )
    done = python(project, "script.py")
    assert done.returncode == 0 and done.stdout.count("once") == 1, done.stderr
    assert (project / "model/base_model/config.json").is_file()


def test_a_missing_module_under_an_own_name_tells_whose_the_name_is(project: Path) -> None:
    told = "'configs' is rollcast's own package in "
    for code in ("import rollcast, configs.mine", "import rollcast\nfrom configs import mine"):
        assert told in python(project, "-c", code).stderr


def test_a_package_that_was_imported_before_is_named(project: Path) -> None:
    code = f"import sys, types; sys.modules['rewards'] = types.ModuleType('rewards'); sys.modules['rewards'].__path__ = [{str(project)!r}]"
    told = python(project, "-c", f"{code}\nimport rollcast").stderr
    assert f"a package 'rewards' from {project} is imported already" in told and "import rollcast first" in told


def test_the_import_loads_no_library() -> None:
    code = "import sys; before = set(sys.modules); import rollcast; print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert not {"ray", "torch", "numpy", "typer", "pydantic", "configs", "cluster"} & set(json.loads(loaded.replace("'", '"')))


def test_help_lists_every_command_and_completion(project: Path) -> None:
    shown = python(project, FRONT_DOOR, "--help").stdout
    assert all(word in shown for word in ("--version", "--install-completion", " init ", " doctor ", " train "))


def test_a_packaged_template_is_found_without_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Assistant" in read_template("configs/templates/deepseek_r1_distill.jinja")
    with pytest.raises(DataError, match="neither a Jinja template nor a readable file"):
        read_template("configs/templates/none.jinja")


def test_a_file_of_the_users_never_stands_for_a_packaged_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/templates/vicuna.jinja"
    mine = tmp_path / name
    mine.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    mine.write_bytes((REPOSITORY / name).read_bytes())
    assert "USER: " in read_template(name)
    mine.write_text("{{ mine }}")
    with pytest.raises(
        DataError, match=f"another file of this name; give ./{name} for that file, or {REPOSITORY / name} for the packaged one"
    ):
        read_template(name)
    assert read_template(f"./{name}") == "{{ mine }}" and "USER: " in read_template(str(REPOSITORY / name))


@pytest.mark.slow
def test_a_run_in_such_a_project_trains(project: Path) -> None:
    """Ray's workers, vLLM's own process, learner ranks, graders and the process that makes the model."""
    settings = [*SMALL, "learner.max_steps=1", "data.eval_samples=0", "rewards.functions=[judge.py:judge, tag_count]", "out_dir=trained"]
    done = python(project, FRONT_DOOR, "train", f"{REPOSITORY}/configs/quickstart.yaml", *settings, timeout_s=400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads((project / "trained" / "summary.json").read_text())["exit_reason"] == "finished"
