"""What `rollcast push` puts on a hub: the real client against a server that speaks the hub's protocol.

What is pushed is downloaded again and compared byte for byte.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cluster.models.base_record import BaseRecord, write_record
from cluster.publish.folder import of_folder, of_run
from cluster.publish.push import collect
from configs.contracts.errors import ConfigError
from tests import REPOSITORY
from tests.cluster.hub_server import READER, WRITER, Hub, running_hub
from tests.cluster.models.test_merge import make_adapter
from tests.cluster.run_directories import make_run

SECRET = "a secret of a reward"
DOWNLOAD = "import sys; from huggingface_hub import snapshot_download; snapshot_download(sys.argv[1], local_dir=sys.argv[2])"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a local model: settings that hold a path and a secret, metrics, completions, and an adapter."""
    from learner.model.tiny_model import create_tiny_model

    folder = tmp_path_factory.mktemp("push")
    reward = f"{{name: 'examples/digit_share.py:digit_share', params: {{api_key: {SECRET}}}}}"
    settings = [
        f"model.path={folder}/base",
        "learner.warm_start=null",
        f"rewards.functions=[accuracy, {reward}]",
        "cluster.log_completions=true",
    ]
    made = make_run(folder / "run", settings=settings)
    make_adapter(made / "adapter", create_tiny_model(folder / "base", seed=0))
    (made / "adapter" / "optimizer.pt").write_bytes(b"no weights")
    return made


def push(hub: Hub, home: Path, *arguments: str, token: str | None = WRITER, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", "push", *arguments],
        cwd=REPOSITORY,
        env=hub.environment(home, token) | {"COLUMNS": "200"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def download(hub: Hub, home: Path, repo_id: str, folder: Path) -> Path:
    command = [sys.executable, "-c", DOWNLOAD, repo_id, str(folder)]
    subprocess.run(command, env=hub.environment(home), check=True, capture_output=True, timeout=120)
    return folder


def front_matter(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_an_adapter_is_pushed_and_downloaded_again(hub: Hub, run: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, str(run), "--repo-id", "grpo", "--private", "--message", "First")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.endpoint}/me/grpo" in done.stdout
    assert "not pushed: optimizer.pt" in done.stdout
    fetched = download(hub, tmp_path, "me/grpo", tmp_path / "fetched")
    for name in ("adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (fetched / name).read_bytes() == (run / "adapter" / name).read_bytes(), name
    repository = hub.repositories["me/grpo"]
    assert repository.private and repository.large == {"adapter_model.safetensors"}
    assert [(branch, message) for branch, message, _ in repository.commits] == [("main", "First")]
    listed = {"README.md", "config.yaml", "curves.svg", "report.html", "adapter_config.json"}
    assert listed < set(hub.files("me/grpo")) and all(name in done.stdout for name in listed)
    push(hub, tmp_path, str(run), "--repo-id", "me/grpo")
    assert len(repository.commits) == 1, "what has not changed makes no commit"


def test_the_card_says_what_was_done_and_what_came_of_it(run: Path) -> None:
    files = of_run(run, run / "adapter", merged=False).files
    card = files["README.md"]
    assert isinstance(card, bytes)
    front = front_matter(card)
    assert front["library_name"] == "peft" and "base_model" not in front, "a local folder is no model of the hub"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8
    text = card.decode()
    for said in ("builtin:addition", "0.800 (95 %: 0.490 to 0.943; 10 prompts)", "| `digit_share` | 1 |", "![curves", "learning_rate:"):
        assert said in text
    svg = files["curves.svg"]
    assert isinstance(svg, bytes) and svg.startswith(b"<svg") and b"Accuracy" in svg and b"var(--" not in svg


def test_no_path_and_no_secret_leaves_the_machine(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    summary = run / "adapter" / "adapter_config.json"
    assert str(run.parent) in summary.read_text() and SECRET in (run / "config.yaml").read_text(), "or this test could not fail"
    for name, content in of_run(run, run / "adapter", merged=False).files.items():
        raw = content if isinstance(content, bytes) else content.read_bytes()
        for kept in (str(run.parent), str(REPOSITORY), SECRET, WRITER):
            assert kept.encode() not in raw, f"{kept} is in {name}"


def test_a_run_that_has_a_key_of_an_earlier_version_is_pushed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = shutil.copytree(run, tmp_path / "older")
    settings = older / "config.yaml"
    settings.write_text(settings.read_text().replace("\nactors:\n", "\nactors:\n  on_new_adapter: swap\n", 1))
    assert "on_new_adapter: swap" in settings.read_text()
    pushed = of_run(older, older / "adapter", merged=False).files["config.yaml"]
    assert isinstance(pushed, bytes) and b"actors:" in pushed and b"on_new_adapter" not in pushed
    assert "actors.on_new_adapter is ignored" in capsys.readouterr().err


def test_an_adapter_of_another_base_does_not_get_the_card_of_the_run(run: Path, tmp_path: Path) -> None:
    copy, other = shutil.copytree(run, tmp_path / "copy"), shutil.copytree(run / "adapter", tmp_path / "other")
    console = Console(file=StringIO())
    write_record(copy / "adapter", BaseRecord("a" * 64))
    assert collect(copy, merged=False, adapter=other, console=console).files, "it says nothing of its base"
    write_record(other, BaseRecord("b" * 64))
    with pytest.raises(ConfigError, match=f"--adapter {other} was trained on the base .*; push its folder by itself"):
        collect(copy, merged=False, adapter=other, console=console)
    card = collect(copy, merged=False, adapter=None, console=console).files["README.md"]
    assert isinstance(card, bytes) and f"weights of the digest `{'a' * 64}`".encode() in card


def test_a_merged_model_is_pushed(hub: Hub, run: Path, tmp_path: Path) -> None:
    """It is merged first; the next time it is there."""
    done = push(hub, tmp_path, str(run), "--repo-id", "me/merged", "--merged", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert "nats on average" in done.stdout and f"{hub.endpoint}/me/merged/tree/v1" in done.stdout
    pushed = hub.files("me/merged", "v1")
    assert pushed["model.safetensors"] == (run / "merged" / "model.safetensors").read_bytes()
    assert {"config.json", "generation_config.json", "tokenizer.json"} < set(pushed) and "adapter_config.json" not in pushed
    assert front_matter(pushed["README.md"])["library_name"] == "transformers" and b"vllm serve me/merged" in pushed["README.md"]
    assert not hub.files("me/merged"), "the main branch has nothing of it"
    again = push(hub, tmp_path, str(run), "--repo-id", "me/merged", "--merged", "--dry-run")
    assert again.returncode == 0 and "nats on average" not in again.stdout


def test_a_dry_run_asks_nobody(hub: Hub, run: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, str(run), "--repo-id", "me/grpo", "--dry-run", token=None)
    assert done.returncode == 0 and "adapter_model.safetensors" in done.stdout and "nothing was pushed" in done.stdout
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo_id", "told"),
    [
        (None, "me/grpo", "there is no token to push to me/grpo.*export HF_TOKEN"),
        ("hf_" + "x" * 34, "me/grpo", "answers 401.*not valid there.*export HF_TOKEN"),
        (READER, "me/grpo", "answers 403.*may not write to me/grpo"),
        (WRITER, "else/grpo", "answers 403.*may not write to else/grpo"),
        (WRITER, "a/b/c", "is not a valid name of a repository.*user/name"),
    ],
)
def test_a_refusal_names_its_remedy(hub: Hub, run: Path, tmp_path: Path, token: str | None, repo_id: str, told: str) -> None:
    import re

    done = push(hub, tmp_path, str(run / "adapter"), "--repo-id", repo_id, token=token)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(told, done.stderr), done.stderr
    assert not hub.repositories


def test_no_network(hub: Hub, run: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        down = push(hub, tmp_path, str(run / "adapter"), "--repo-id", "me/grpo", HF_ENDPOINT=nobody)
    assert down.returncode == 1 and f"{nobody} does not answer" in down.stderr and "HF_ENDPOINT" in down.stderr
    offline = push(hub, tmp_path, str(run / "adapter"), "--repo-id", "me/grpo", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "HF_HUB_OFFLINE is set" in offline.stderr


def test_a_folder_by_itself(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "adapter", tmp_path / "adapter")
    (folder / "README.md").write_text(f"---\nlibrary_name: peft\n---\nmade in {tmp_path}\n")
    found = of_folder(folder)
    assert found.files["README.md"] == b"---\nlibrary_name: peft\n---\nmade in RUN\n"
    assert found.left_out == ["optimizer.pt"]
    assert sum(found.sizes().values()) > 0
    with pytest.raises(ConfigError, match=r"holds no weights \(no .safetensors\)"):
        of_folder(tmp_path)


def test_the_adapter_of_a_checkpoint(run: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from cluster.publish.push import collect

    earlier = tmp_path / "earlier"
    shutil.copytree(run / "adapter", earlier)
    console = Console(quiet=True)
    found = collect(run, merged=False, adapter=earlier, console=console)
    assert found.files["adapter_model.safetensors"] == earlier / "adapter_model.safetensors" and "report.html" in found.files
    with pytest.raises(ConfigError, match="give one of them"):
        collect(run, merged=True, adapter=earlier, console=console)
    with pytest.raises(ConfigError, match="is not a run directory"):
        collect(run / "adapter", merged=True, adapter=None, console=console)
    shutil.copy(run / "config.yaml", tmp_path)
    with pytest.raises(ConfigError, match="has no adapter yet"):
        collect(tmp_path, merged=False, adapter=None, console=console)
