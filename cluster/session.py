"""Join a Ray cluster, or start a private one for this run with token authentication and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import select
import shutil
import socket
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psutil

from cluster.machine import runs_here
from cluster.placement import Node, Placement, place, roles
from cluster.stopping import signals_held_back
from configs.contracts import private_folders
from configs.contracts.errors import PlacementError, RayLostError, RollcastError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from rollcast import WORKER_HOOK

Result = TypeVar("Result")

FOLDER_PREFIX = "rollcast-"
"""Start of the names of the folders under /tmp that hold a private Ray: its token, which nobody else can read or replace, and Ray's files."""

OWNER = "owner.lock"
"""File in that folder, which the driver keeps locked while it lives."""

LOOPBACK = "127.0.0.1"
"""Address of a private Ray's node: its processes listen on no other interface."""

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What ranks and engines ask for the interface on which they listen for one another."""

RAY_FOLDER = "ray"
"""Ray's own files in that folder. Ray lets every user write into it; the folder above keeps them out."""

WORKER_ENVIRONMENT = {"worker_process_setup_hook": WORKER_HOOK}
"""Each worker finds the packages of this project before it unpickles anything."""

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a cluster's head to accept a connection."""


@dataclass
class RaySession:
    """A connection to Ray for the duration of one run; use it as a context manager.

    In local mode, Ray's files are in a private folder, its token is readable by its owner only, and its logs are copied to
    `log_dir/ray` at the end. A joined cluster is left as it was found.
    """

    config: RunConfig | SftConfig
    log_dir: Path
    namespace: str
    learner: bool = True
    """False reserves nothing for a learner: a model is only served."""
    dashboard_url: str = ""
    _folder: Path | None = None
    _owner: int = -1
    """Descriptor of the lock that keeps the folder while this process lives."""
    _raylet: int = 0
    """Process id of a private Ray's raylet."""
    _vital: dict[str, int] = field(default_factory=dict)
    """Processes of a private Ray that must not die, by name: a pidfd each."""
    _environment_before: dict[str, str | None] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return runs_here(self.config)

    def __enter__(self) -> RaySession:
        require_no_ray()
        # Errors of remote calls are handled where the calls are awaited. Calls given up at the end of a run may fail unnoticed.
        self._set_environment(RAY_USAGE_STATS_ENABLED="0", RAY_IGNORE_UNHANDLED_ERRORS="1")
        try:
            with signals_held_back():
                self._start_local() if self.is_local else self._join()
        except BaseException:
            self._end() if self._folder is not None else self._clean_up()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        import ray

        with signals_held_back():
            below = self._below_raylet()
            ray.shutdown()
            for left in below:  # Ray's agents notice only after a minute that their raylet did not end in order
                with suppress(psutil.NoSuchProcess):
                    left.kill()
            self._clean_up()

    def _below_raylet(self) -> list[psutil.Process]:
        """The processes that the private Ray's raylet has started; none where the raylet is gone."""
        try:
            return psutil.Process(self._raylet).children() if self._raylet else []
        except psutil.NoSuchProcess:
            return []

    def placement(self) -> Placement:
        """Assign every process of the run to a node of the cluster.

        Raises:
            PlacementError: the cluster has less than the run asks for.
        """
        import ray

        nodes = [
            Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        return place(self.config, nodes, self.learner)

    def shortage(self) -> str:
        """Name what the cluster lacks for this run at this moment; nothing if its live nodes have room for every process."""
        try:
            self.placement()
        except PlacementError as error:
            return error.message
        return ""

    async def watched(self, work: Coroutine[object, object, Result]) -> Result:
        """Await `work`, and cancel it when a process of the private Ray dies: its calls would wait for ever, or Ray would end this process.

        Raises:
            RayLostError: a process of Ray died.
        """
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def cancel() -> None:
            self._unwatch(loop)
            task.cancel()

        for descriptor in self._vital.values():
            loop.add_reader(descriptor, cancel)
        try:
            return await task
        except (asyncio.CancelledError, Exception):
            if died := [name for name, descriptor in self._vital.items() if select.select([descriptor], [], [], 0)[0]]:
                raise RayLostError(
                    f"Ray's {died[0]} died, which every process of the run needs; look for its end in {self.log_dir / 'ray'} and in the kernel's log "
                    "(out of memory?), and run the same command again to go on from the last checkpoint"
                ) from None
            raise
        finally:
            self._unwatch(loop)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        for descriptor in self._vital.values():
            loop.remove_reader(descriptor)

    def _start_local(self) -> None:
        # Ray puts its sockets into this folder, and the path of a socket has at most 107 characters: keep it short.
        private_folders.remove_abandoned(Path("/tmp"), FOLDER_PREFIX, OWNER)
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir="/tmp"))
        self._owner = private_folders.hold(self._folder, OWNER)
        self._authenticate(self._folder)
        import ray

        need = roles(self.config, self.learner)
        with suppress(FileNotFoundError):
            self._check_shared_memory()
        with _node_on_loopback():
            context = ray.init(
                address="local",
                # On a small machine the roles share its cores; this number only has to let Ray place every process.
                num_cpus=max(os.cpu_count() or 1, int(need.cpus + 0.999)),
                namespace=self.namespace,
                include_dashboard=self.config.cluster.dashboard,
                dashboard_host=LOOPBACK,
                object_store_memory=self.config.cluster.object_store_memory_bytes,
                runtime_env=WORKER_ENVIRONMENT | {"env_vars": _local_variables()},
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(self._folder / RAY_FOLDER),
            )
        private_folders.require_private(self._folder)
        vital = dict(_vital_processes())
        self._raylet = vital["raylet"]
        self._vital = {name: os.pidfd_open(pid) for name, pid in vital.items()}
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else ""

    def _join(self) -> None:
        address = self.config.cluster.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", address)
        self._authenticate(None)
        _refuse_other_hook()
        import ray

        try:
            _require_listener(address)
            ray.init(
                address=address, namespace=self.namespace, runtime_env=WORKER_ENVIRONMENT, log_to_driver=False, logging_level=logging.ERROR
            )
        except (ConnectionError, OSError) as error:
            raise PlacementError(
                f"no Ray cluster answered at {address} ({error}): start one with `ray start --head` and pass its token by RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH, or use cluster.address=local"
            ) from error

    def _authenticate(self, folder: Path | None) -> None:
        """Turn on token authentication for what this session starts; a joined cluster keeps its own rule."""
        if self.config.cluster.insecure_no_auth:
            self._set_environment(RAY_AUTH_MODE="disabled")
        elif folder is not None:
            token = folder / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            self._set_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
        elif "RAY_AUTH_MODE" not in os.environ and (os.environ.get("RAY_AUTH_TOKEN_PATH") or (Path.home() / ".ray/auth_token").exists()):
            # Without this, a driver that joins by address ignores the token file.
            self._set_environment(RAY_AUTH_MODE="token")
        _reread_authentication()

    def _check_shared_memory(self) -> None:
        free = shutil.disk_usage("/dev/shm").free
        wanted = self.config.cluster.object_store_memory_bytes
        if free < wanted:
            raise RollcastError(
                f"/dev/shm has {free >> 20} MiB free but cluster.object_store_memory_bytes asks for {wanted >> 20} MiB: lower it, or give "
                "the container more shared memory (--shm-size)"
            )

    def _set_environment(self, **variables: str) -> None:
        for name, value in variables.items():
            self._environment_before.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def _clean_up(self) -> None:
        for name, value in self._environment_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "RAY_AUTH_MODE" in self._environment_before:
            _reread_authentication()  # a Ray that the user starts next in this process has a token of its own, or none
        self._environment_before.clear()
        for descriptor in self._vital.values():
            os.close(descriptor)
        self._vital.clear()
        if self._folder is None:
            return
        logs = next(iter(self._folder.glob(f"{RAY_FOLDER}/session_2*/logs")), None)
        if logs is not None and self.log_dir.is_dir():  # copytree would make a run directory that is gone
            try:
                shutil.copytree(logs, self.log_dir / "ray", dirs_exist_ok=True, ignore_dangling_symlinks=True)
            except OSError as error:
                print(f"WARNING: Ray's logs are lost, as {self.log_dir} cannot be written ({type(error).__name__})")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1


def require_no_ray() -> None:
    """Refuse a process that is connected to Ray already, before anything is started: a run has Ray to itself, and ends it at its end.

    Raises:
        PlacementError: the process is connected.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise PlacementError(
            f"this process is connected to Ray already (node {ray.util.get_node_ip_address()}), and a run starts or joins Ray itself: call "
            "ray.shutdown() before, and set cluster.address for a run on an existing cluster"
        )


def _vital_processes() -> Iterator[tuple[str, int]]:
    """Names and process ids of the processes without which the Ray that this process has started cannot go on."""
    from ray._private import ray_constants, worker

    processes = worker._global_node.all_processes  # pyright: ignore[reportAttributeAccessIssue]
    for name in (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET):
        yield from ((name, found.process.pid) for found in processes[name])


def _local_variables() -> dict[str, str]:
    """Environment of the workers of a private Ray, where the user has not said otherwise."""
    wanted: dict[str, str] = dict.fromkeys(INTERFACE_VARIABLES, "lo")
    # torch would load compiled code from /tmp/torchinductor_<user>, where another user may have put some
    wanted["TORCHINDUCTOR_CACHE_DIR"] = str(Path.home() / ".cache/rollcast/torchinductor")
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


@contextmanager
def _node_on_loopback() -> Iterator[None]:
    """Make the Ray that starts meanwhile take the loopback as its node's address; it turns a given 127.0.0.1 into the machine's outer address.

    Its own switch for that, made for macOS and Windows, is read when Ray is imported, which has happened before.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _reread_authentication() -> None:
    """Make Ray read its environment again: it reads it once, at import, and keeps the token."""
    from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _refuse_other_hook() -> None:
    """Refuse a submitted job whose runtime environment has a hook of its own: Ray would refuse ours, without naming the remedy.

    Raises:
        PlacementError: it has one.
    """
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    [(name, ours)] = WORKER_ENVIRONMENT.items()
    hook = (submitted.get("runtime_env") or {}).get(name)
    if hook is not None and os.environ.get("RAY_OVERRIDE_JOB_RUNTIME_ENV") != "1":
        raise PlacementError(
            f"the job's runtime environment sets {name} to {hook}, and rollcast needs its own there ({ours}): leave it out, or submit the job "
            "with the environment variable RAY_OVERRIDE_JOB_RUNTIME_ENV=1 to run only rollcast's"
        )


def _require_listener(address: str) -> None:
    """Raise OSError at once where nothing listens at host:port; Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
