"""Test a private Ray: it is authenticated, its token is private, its logs are kept, and nothing else is left behind."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.session import RaySession
from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig
from tests.runs.training import REPOSITORY


def config(**sections: dict) -> RunConfig:
    on_cpu = {
        "actors": {"gpus_per_worker": 0},
        "learner": {"gpus_per_rank": 0},
        "cluster": {"address": "local", "object_store_memory_bytes": 80 << 20},
    }
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, **on_cpu, **sections})


SCENARIO = """
import json, os, stat, subprocess, sys
from pathlib import Path
from configs.contracts.errors import PlacementError
from cluster.session import RaySession
from tests.cluster.test_session import config

logs = Path(sys.argv[1])
with RaySession(config(), logs, "rollcast-test") as session:
    assert session.placement().nodes
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    try:
        RaySession(config(actors={"gpus_per_worker": 3}), logs, "other").placement()
        refusal = ""
    except PlacementError as error:
        refusal = str(error)
    intruder = subprocess.run([sys.executable, "-IS", "-c", sys.argv[2], token], capture_output=True, text=True).stdout
    facts = {"intruder": intruder, "folder_permissions": stat.S_IMODE(token.parent.stat().st_mode)}
    facts |= {"mode": os.environ["RAY_AUTH_MODE"], "permissions": stat.S_IMODE(token.stat().st_mode), "folder": str(token.parent), "refusal": refusal}
facts["token_variable_left"] = "RAY_AUTH_TOKEN_PATH" in os.environ
print(json.dumps(facts))
"""

INTRUDER = """
import os, pathlib, sys
token = pathlib.Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
    for attempt in (token.read_text, token.unlink, lambda: os.rename(token, "/tmp/stolen"), lambda: os.listdir(token.parent),
                    lambda: os.rename(token.parent, "/tmp/stolen"), (token.parent / "ray" / "x").touch):
        try:
            attempt()
            print("it could", end="")
        except PermissionError:
            print(".", end="")
"""
"""Another user, who tries to read the token, to put its own in its place, and to leave a file in Ray's folder."""


def test_a_private_session_is_authenticated_and_leaves_nothing(tmp_path: Path) -> None:
    """Run in a separate process: a process can join Ray only once, and other tests have done so in this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (tmp_path / "logs").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SCENARIO, str(tmp_path / "logs"), INTRUDER],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    family: dict[int, psutil.Process] = {}
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
        time.sleep(0.1)
    assert process.returncode == 0
    assert process.stdout is not None
    facts = json.loads(process.stdout.read().splitlines()[-1])
    assert (facts["mode"], facts["permissions"], facts["token_variable_left"]) == ("token", 0o600, False)
    assert facts["folder_permissions"] == 0o700
    assert facts["intruder"] == ("......" if os.geteuid() == 0 else "")
    assert facts["refusal"].startswith("the run asks for 3 GPUs")
    assert not Path(facts["folder"]).exists()
    assert list((tmp_path / "logs" / "ray").glob("gcs_server*"))
    assert len(family) > 3
    _, alive = psutil.wait_procs(list(family.values()), timeout=10)
    assert not alive


@pytest.mark.usefixtures("no_ray")
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(PlacementError, match=r"no Ray cluster answered at 127\.0\.0\.1:1.*ray start --head"),
        RaySession(config(cluster={"address": "127.0.0.1:1"}), tmp_path, "t"),
    ):
        pass


@pytest.mark.usefixtures("no_ray")
def test_a_job_with_a_hook_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"worker_process_setup_hook": "mine.hook"}}))
    with (
        pytest.raises(PlacementError, match=r"sets worker_process_setup_hook to mine\.hook, .* leave it out"),
        RaySession(config(cluster={"address": "127.0.0.1:1"}), tmp_path, "n"),
    ):
        pass
    monkeypatch.setenv("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    with (
        pytest.raises(PlacementError, match="no Ray cluster answered"),
        RaySession(config(cluster={"address": "127.0.0.1:1"}), tmp_path, "n"),
    ):
        pass


KILLED = """
import asyncio, os, psutil, sys, time
from pathlib import Path
from configs.contracts.errors import RayLostError
from cluster.session import RaySession
from tests.cluster.test_session import config

async def work():
    next(each for each in psutil.Process().children(recursive=True) if each.name() == sys.argv[2]).kill()
    await asyncio.sleep(600)

try:
    with RaySession(config(), Path(sys.argv[1]), "rollcast-test") as session:
        family = psutil.Process().children(recursive=True)
        asyncio.run(session.watched(work()))
except RayLostError as error:
    print(error)
print(sorted(each.name() for each in psutil.wait_procs(family, timeout=20)[1]))
"""


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_the_death_of_a_process_of_ray_ends_what_waits_for_it(tmp_path: Path, name: str) -> None:
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith("RAY_")}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "logs"), name]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert re.search(f"^Ray's {name} died.*run the same command again", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
