"""As much of Hugging Face as `modelzoo.checkpoints.hub` asks for, over folders of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # of every repository and revision


class FakeHub(ThreadingHTTPServer):
    """Serves `repos` (owner/name to a folder) and remembers which files were fetched."""

    def __init__(self, repos: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.fetched: list[str] = []

    def environment(self, home: Path) -> dict[str, str]:
        """Give the environment of a process that talks to this hub; its cache is in `home`."""
        return environment(home, f"http://127.0.0.1:{self.server_port}")


def environment(home: Path, endpoint: str = "http://127.0.0.1:9") -> dict[str, str]:
    """Give the environment of a process that asks `endpoint`, where by default nobody answers."""
    cleared = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**cleared, **quiet, "HF_HOME": str(home), "HF_ENDPOINT": endpoint}


@contextmanager
def serving(repos: Mapping[str, Path]) -> Iterator[FakeHub]:
    """Serve while the block runs."""
    server = FakeHub(repos)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path.lstrip("/")
        repo = "/".join(path.removeprefix("api/models/").split("/")[:2])
        if repo not in self.server.repos:
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        folder = self.server.repos[repo]
        if "/tree/" in path:
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            entries = [
                {
                    "type": "file",
                    "path": file.relative_to(folder).as_posix(),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            return self.answer(200, json.dumps(entries).encode(), {})
        if path.startswith("api/models/"):
            return self.answer(200, json.dumps({"id": repo, "sha": COMMIT}).encode(), {})
        name = path.split(f"/resolve/{COMMIT}/")[1]
        if self.command == "GET":
            self.server.fetched.append(name)
        content = (folder / name).read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return self.answer(200, content, headers)

    def answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
