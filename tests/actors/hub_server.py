"""A server that speaks as much of the hub's protocol as it takes to read data sets: `HF_ENDPOINT` of the processes that are tested."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Repositories = Mapping[str, Mapping[str, bytes]]
"""Id of a data set -> path -> content."""


@contextmanager
def serve_hub(repositories: Repositories) -> Iterator[str]:
    """The address of a hub that has these data sets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            for prefix, answer in (("api/datasets/", self._api), ("datasets/", self._file)):
                if path.startswith(prefix):
                    owner, name, *rest = path.removeprefix(prefix).split("/")
                    files = repositories.get(f"{owner}/{name}")
                    return self._missing("RepoNotFound") if files is None else answer(f"{owner}/{name}", files, rest)
            return self._missing("EntryNotFound")

        do_HEAD = do_POST = do_GET

        def _api(self, repository: str, files: Mapping[str, bytes], rest: list[str]) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if rest[:1] == ["tree"]:
                deep = "recursive=true" in urlsplit(self.path).query.lower()
                return self._json(list(entries(files, "/".join(rest[2:]), everything=deep)))
            if rest[:1] == ["paths-info"]:
                wanted = json.loads(asked)["paths"]
                return self._json([entry for entry in entries(files, "", everything=True) if entry["path"] in wanted])
            siblings = [{"rfilename": path} for path in files]
            facts = {
                "id": repository,
                "sha": COMMIT,
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
            }
            return self._json(facts | {"siblings": siblings, "lastModified": "2025-01-01T00:00:00.000Z"})

        def _file(self, repository: str, files: Mapping[str, bytes], rest: list[str]) -> None:
            content = files.get("/".join(rest[2:]))
            return self._missing("EntryNotFound") if content is None else self._send(content, "application/octet-stream")

        def _missing(self, code: str) -> None:
            self._send(b"{}", "application/json", 404, {"X-Error-Code": code})

        def _json(self, value: Any) -> None:
            self._send(json.dumps(value).encode(), "application/json")

        def _send(self, content: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
            first, last = 0, len(content) - 1
            if status == 200 and (span := self.headers.get("Range")):
                start, _, end = span.removeprefix("bytes=").partition("-")
                first, last, status = int(start), min(int(end or last), last), 206
            self.send_response(status)
            extra = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if status == 206 else {}
            part = content[first : last + 1]
            facts = {"Content-Type": kind, "Content-Length": str(len(part)), "ETag": f'"{digest(content)}"', "X-Repo-Commit": COMMIT}
            for name, value in (facts | extra | dict(headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def entries(files: Mapping[str, bytes], folder: str, *, everything: bool = False) -> Iterator[dict[str, Any]]:
    """Files and folders in a folder of a repository, or below it."""
    below = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
    for path, content in below.items():
        if everything or str(PurePosixPath(path).parent) in (folder or ".", folder):
            yield {"type": "file", "path": path, "size": len(content), "oid": digest(content)}
    parents = {str(parent) for path in below for parent in PurePosixPath(path).parents if str(parent) not in (".", folder)}
    for parent in sorted(parents):
        if everything or str(PurePosixPath(parent).parent) in (folder or ".", folder):
            yield {"type": "directory", "path": parent, "oid": digest(parent.encode())}
