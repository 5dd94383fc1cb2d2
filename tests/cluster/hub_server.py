"""A hub on the loopback interface, for the real huggingface_hub client: repositories, branches, preupload, LFS, commits, trees, downloads.

Clients are separate processes with `environment(...)`, because the client reads HF_ENDPOINT when it is imported. This server does not speak xet's
storage protocol; a hub without xet takes LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
"""Tokens of the user `me`: one may write, the other may only read."""

USER = "me"


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    """Branch -> files."""
    large: set[str] = field(default_factory=set)
    """Files that were uploaded by LFS."""
    commits: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """Branch, message and changed files."""

    def sha(self, branch: str) -> str:
        return hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()


@dataclass
class Hub:
    """The state of the server. A closed `gate` holds back every upload of a large file; `broken` makes the hub answer 500 to commits."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each upload that the gate holds back."""
    broken: bool = False

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[repo_id].branches[branch]

    def environment(self, folder: Path, token: str | None = WRITER) -> dict[str, str]:
        """Environment variables of a client process; `folder` becomes its HF_HOME."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | own | ({"HF_TOKEN": token} if token else {})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub with an open gate until the block ends."""
    hub = Hub()
    hub.gate.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing to the terminal."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.headers.get("Content-Length") else self._chunks()
        try:
            for method, pattern, respond in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    return respond(self, body, *found.groups())
            raise _RefusedError(404, f"no such address: {path}")
        except _RefusedError as refused:
            self.send(refused.status, {"error": refused.message}, {"X-Error-Message": refused.message})

    def _chunks(self) -> bytes:
        """Read a body of unknown length; the client sends large files like this."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def token(self) -> str:
        found = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if found not in (WRITER, READER):
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        return found

    def writable(self, repo_id: str) -> None:
        if self.token() != WRITER or repo_id.partition("/")[0] != USER:
            raise _RefusedError(403, f"You don't have the rights to write to {repo_id}")

    def repository(self, repo_id: str) -> Repository:
        found = self.hub.repositories.get(repo_id)
        if found is None:
            raise _RefusedError(404, "Repository not found")
        return found


def _whoami(request: _Handler, _: bytes) -> None:
    request.token()
    request.send(200, {"type": "user", "name": USER, "fullname": USER, "orgs": []})


def _create(request: _Handler, body: bytes) -> None:
    wanted = json.loads(body)
    repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
    request.writable(repo_id)
    url = {"url": f"{request.hub.endpoint}/{repo_id}", "name": repo_id}
    if repo_id in request.hub.repositories:
        return request.send(409, {"error": "You already created this model repo", **url})
    request.hub.repositories[repo_id] = Repository(private=wanted.get("visibility") == "private" or wanted.get("private") is True)
    return request.send(200, url)


def _branch(request: _Handler, _: bytes, repo_id: str, branch: str) -> None:
    request.writable(repo_id)
    branches = request.repository(repo_id).branches
    if branch in branches:
        return request.send(409, {"error": "Reference already exists"})
    branches[branch] = dict(branches["main"])
    return request.send(200, {})


def _validate(request: _Handler, body: bytes) -> None:
    """Read the front matter of a card, which must be YAML with the keys that a hub reads."""
    content = json.loads(body)["content"]
    try:
        front = yaml.safe_load(content.split("---\n")[1])
        assert isinstance(front, dict) and isinstance(front["library_name"], str) and isinstance(front["tags"], list)
    except (yaml.YAMLError, IndexError, KeyError, AssertionError) as error:
        return request.send(400, {"errors": [{"message": repr(error)}], "warnings": []})
    return request.send(200, {"errors": [], "warnings": []})


def _preupload(request: _Handler, body: bytes, repo_id: str, branch: str) -> None:
    request.writable(repo_id)
    there = request.repository(repo_id).branches.get(branch, {})
    request.send(200, {"files": [_mode(file, there) for file in json.loads(body)["files"]]})


def _mode(file: dict[str, Any], there: dict[str, bytes]) -> dict[str, Any]:
    large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
    found: dict[str, Any] = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if file["path"] in there:
        found["oid"] = _oid(there[file["path"]], large=large)
    return found


def _oid(content: bytes, *, large: bool) -> str:
    return hashlib.sha256(content).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs_batch(request: _Handler, body: bytes, repo_id: str) -> None:
    request.writable(repo_id)
    objects = []
    for wanted in json.loads(body)["objects"]:
        upload = {"upload": {"href": f"{request.hub.endpoint}/lfs/{wanted['oid']}", "header": {}}}
        objects.append(wanted | ({} if wanted["oid"] in request.hub.blobs else {"actions": upload}))
    request.send(200, {"transfer": "basic", "objects": objects})


def _lfs_put(request: _Handler, body: bytes, oid: str) -> None:
    if not request.hub.gate.is_set():
        request.hub.held.release()
        request.hub.gate.wait()
    if hashlib.sha256(body).hexdigest() != oid:
        raise _RefusedError(400, "the content does not have this hash")
    request.hub.blobs[oid] = body
    request.send(200, b"")


def _commit(request: _Handler, body: bytes, repo_id: str, branch: str) -> None:
    request.writable(repo_id)
    if request.hub.broken:
        raise _RefusedError(500, "Internal Error - We're working hard to fix this as soon as possible!")
    repository, message, changed = request.repository(repo_id), "", []
    files = repository.branches.get(branch)
    if files is None:
        raise _RefusedError(404, "Revision not found")
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            message = value["summary"]
            continue
        if line["key"] == "lfsFile":
            files[value["path"]] = request.hub.blobs[value["oid"]]
            repository.large.add(value["path"])
        else:
            files[value["path"]] = base64.b64decode(value["content"])
        changed.append(value["path"])
    repository.commits.append((branch, message, tuple(changed)))
    oid = repository.sha(branch)
    request.send(200, {"success": True, "commitOid": oid, "commitUrl": f"{request.hub.endpoint}/{repo_id}/commit/{oid}"})


def _info(request: _Handler, _: bytes, repo_id: str, branch: str | None = None) -> None:
    request.token()
    repository = request.repository(repo_id)
    request.send(200, {"id": repo_id, "sha": repository.sha(branch or "main"), "private": repository.private, "tags": [], "siblings": []})


def _at(repository: Repository, revision: str) -> dict[str, bytes]:
    """Return the files of a branch, given its name or the hash of its newest commit."""
    for branch, files in repository.branches.items():
        if revision in (branch, repository.sha(branch)):
            return files
    raise _RefusedError(404, "Revision not found")


def _tree(request: _Handler, _: bytes, repo_id: str, revision: str) -> None:
    request.token()
    repository = request.repository(repo_id)
    found = []
    for path, content in _at(repository, revision).items():
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _oid(content, large=False)}
        if path in repository.large:
            entry["lfs"] = {"oid": _oid(content, large=True), "size": len(content), "pointerSize": 130}
        found.append(entry)
    request.send(200, found)


def _resolve(request: _Handler, _: bytes, repo_id: str, revision: str, path: str) -> None:
    request.token()
    repository = request.repository(repo_id)
    content = _at(repository, revision)[path]
    etag = _oid(content, large=path in repository.large)
    request.send(200, content, {"X-Repo-Commit": repository.sha("main"), "ETag": f'"{etag}"', "Content-Type": "application/octet-stream"})


REPO = r"([\w.-]+/[\w.-]+?)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate),
    ("POST", f"/api/models/{REPO}/branch/(.+)", _branch),
    ("POST", f"/api/models/{REPO}/preupload/(.+)", _preupload),
    ("POST", f"/api/models/{REPO}/commit/(.+)", _commit),
    ("GET", f"/api/models/{REPO}/revision/(.+)", _info),
    ("GET", f"/api/models/{REPO}/tree/([^/]+)", _tree),
    ("GET", f"/api/models/{REPO}", _info),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _lfs_put),
    ("HEAD GET", f"/{REPO}/resolve/([^/]+)/(.+)", _resolve),
)
