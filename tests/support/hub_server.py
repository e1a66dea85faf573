"""A server on 127.0.0.1 with the addresses of the Hugging Face hub that its client uses, for models only."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.http_server import answering


@dataclass
class Repository:
    """A repository: its commits, and the commit of each branch and tag."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    is_private: bool = False
    is_gated: bool = False
    licence: str | None = "apache-2.0"

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files instead of all others to a branch; return its hash."""
        parent = self.references.get(branch, "")
        content = parent.encode() + b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = dict(files)
        self.references[branch] = commit
        return commit

    def at(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit; None where there is none."""
        return self.references.get(revision, revision if revision in self.commits else None)


@dataclass
class HubServer:
    """What the server has and does.

    Args:
        repositories: by "owner/name".
        token: the token that opens private and gated repositories, and may write.
        cuts: bytes after which the next downloads end early, one a download.
        status: a status for every answer.
        refusals: status and message for requests whose path ends in a text.
        damages: whether the bytes of files differ from their hashes.
        page: whether every answer is a web page.
        pause: set to let downloads begin.
        requests: method and path of each request, and its token.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_secret"
    cuts: list[int] = field(default_factory=list)
    status: int | None = None
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    damages: bool = False
    page: bool = False
    pause: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def __post_init__(self) -> None:
        self.pause.set()

    def downloads(self) -> list[str]:
        """The paths of the requests for the bytes of large files."""
        return [path for method, path, _ in self.requests if method == "GET" and path.startswith("/cdn/")]


def is_large(name: str) -> bool:
    return not name.endswith((".md", ".txt", ".json", ".yaml"))


class Handler(BaseHTTPRequestHandler):
    """Answers one request; ``hub`` is set in a subclass for each server."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bearer = self.headers.get("Authorization")
        self.token = bearer.removeprefix("Bearer ") if bearer else None
        hub.requests.append((self.command, path, self.token))
        if hub.status is not None:
            return self.send(hub.status, {"error": "no"})
        for end, (status, message) in hub.refusals.items():
            if path.endswith(end):
                return self.send(status, {"error": message})
        if hub.page:
            return self.send(200, b"<html>log in</html>", {"Content-Type": "text/html"})
        for pattern, action in (
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self.commit),
            (r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self.branch),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.information),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/cdn/(\w+)", self.large_file),
            (r"/upload/(\w+)", self.upload),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda: self.send(200, {"errors": [], "warnings": []})),
        ):
            if match := re.fullmatch(pattern, path):
                return action(*(group and unquote(group) for group in match.groups()))
        return self.send(404, {"error": "no such address"})

    def repository(self, name: str, writes: bool = False) -> Repository | None:
        """The repository, or None after a refusal was sent."""
        repository, is_known = self.hub.repositories.get(name), self.token == self.hub.token
        if repository is None or (repository.is_private and not is_known):
            status = 404 if is_known else 401  # as the hub answers, which does not tell what is private
            self.send(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"} if is_known else {})
        elif (writes and not is_known) or (repository.is_gated and not is_known and "/api/" not in self.path):
            self.send(403, {"error": "Access is restricted"}, {} if writes else {"X-Error-Code": "GatedRepo"})
        else:
            return repository
        return None

    def information(self, name: str, revision: str | None) -> None:
        if (repository := self.repository(name)) is None:
            return
        commit = repository.at(revision or "main")
        if commit is None:
            return self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": file, "size": len(data)} for file, data in repository.commits[commit].items()]
        card = {} if repository.licence is None else {"license": repository.licence}
        self.send(
            200,
            {
                "_id": "0",
                "id": name,
                "modelId": name,
                "sha": commit,
                "siblings": siblings,
                "private": repository.is_private,
                "gated": "auto" if repository.is_gated else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "cardData": card,
            },
        )

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self.repository(name)) is None:
            return
        commit = repository.at(revision)
        if commit is None:
            return self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        data = repository.commits[commit].get(file)
        if data is None:
            return self.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if not is_large(file):
            return self.send(200, data, headers | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        digest = hashlib.sha256(data).hexdigest()
        self.hub.uploads[digest] = data
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": f'"{digest[:8]}"'}
        # another host, as large files have: there the client sends no token
        address = self.hub.address.replace("127.0.0.1", "localhost")
        return self.send(302, b"", headers | {"Location": f"{address}/cdn/{digest}"})

    def large_file(self, digest: str) -> None:
        self.hub.pause.wait(30)
        data = self.hub.uploads[digest]
        if self.hub.damages:
            data = bytes(len(data))
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match[1]) if match else 0
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data[start:] if cut is None else data[start : start + cut])
        self.close_connection = cut is not None

    def create(self) -> None:
        if self.token != self.hub.token:
            return self.send(401, {"error": "Invalid username or password."})
        order = json.loads(self.body)
        name = f"{order['organization']}/{order['name']}"
        if name in self.hub.repositories:
            return self.send(409, {"error": "exists", "url": f"{self.hub.address}/{name}"})
        repository = Repository(is_private=order.get("visibility") == "private")
        repository.commit({".gitattributes": b""})
        self.hub.repositories[name] = repository
        return self.send(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def branch(self, name: str, branch: str) -> None:
        if (repository := self.repository(name, writes=True)) is not None:
            if branch in repository.references:
                return self.send(409, {"error": "exists"})
            repository.references[branch] = repository.references["main"]
            self.send(200, {})
        return None

    def preupload(self, name: str, revision: str) -> None:
        if (repository := self.repository(name, writes=True)) is not None:
            if repository.at(revision) is None:
                return self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self.send(200, {"files": files})
        return None

    def batch(self, name: str) -> None:
        if self.repository(name, writes=True) is not None:
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.address}/upload/{entry['oid']}", "header": {}}}}
                for entry in json.loads(self.body)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, digest: str) -> None:
        self.hub.uploads[digest] = self.body
        self.send(200, {})

    def commit(self, name: str, revision: str) -> None:
        if (repository := self.repository(name, writes=True)) is None:
            return
        files = dict(repository.commits[repository.references[revision]])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        commit = repository.commit(files, revision)
        self.send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def send(self, status: int, content: dict[str, object] | bytes, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = {} if isinstance(content, bytes) else {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in {**kind, **(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # of a client that ended
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def hub_serving() -> Iterator[HubServer]:
    """Serve repositories until the block ends."""
    server = HubServer()
    with answering(type("Bound", (Handler,), {"hub": server}), server.pause) as server.address:
        yield server


def use(server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub, which reads its settings once, use a server, and an empty cache in ``home``."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VIDACT_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """The variables that make another process use a server, and a cache below ``home``."""
    return {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
