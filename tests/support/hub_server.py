"""A hub of Hugging Face on the loopback: files of repositories, and what its API says about them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pytest
from file_server import FileServer, Loopback, Quiet
from hub_cache import COMMIT, git_hash

PAGE = 1000
"""Entries of a listing that the hub gives in one answer."""
TOKEN = "hf_secret"
_TYPES = ("models", "datasets", "spaces")


class _HubHandler(Quiet):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer()

    def _answer(self) -> None:
        hub: Hub = self.server.owner
        is_file = "/resolve/" in self.path
        (hub.requests if is_file else hub.calls).append((self.command, self.path, self.headers["Authorization"]))
        if hub.refusals and (is_file or hub.refuses_calls):
            status, code = hub.refusals.pop(0)
            self.answer(status, X_Error_Code=code, Retry_After="0")
        elif is_file:
            self._send_file(hub)
        else:
            self._send_facts(hub)

    def _is_refused(self, hub: Hub, repository: str, *, reads: bool = False) -> bool:
        """Refuse what only a token may have; the hub doesn't say whether a private repository is there."""
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return False
        if repository in hub.private:
            self.answer(401, X_Error_Code="RepoNotFound")
            return True
        if reads and repository in hub.gated:
            self.answer(403, X_Error_Code="GatedRepo")
            return True
        return False

    def _send_file(self, hub: Hub) -> None:
        repository, _, rest = urlsplit(self.path).path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        revision, name = unquote(revision), unquote(name)
        if repository in hub.renamed:
            self.answer(307, Location=f"/{hub.renamed[repository]}/resolve/{rest}")
            return
        if self._is_refused(hub, repository, reads=True):
            return
        if (found := hub.files_of(repository, revision)) is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        if name not in found:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            return
        content, storage = found[name]
        known = {"X_Repo_Commit": COMMIT, "ETag": f'"{git_hash(content)}"'}
        if storage is not None:
            known |= {"X_Linked_Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Linked_Size": str(len(content))}
            self.answer(302, Location=storage.url(f"/signed/{name}"), **known)
            return
        status, body = 200, content
        if (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")) is not None:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if first >= len(content):
                self.answer(416, Content_Range=f"bytes */{len(content)}")
                return
            status, body = 206, content[first : last + 1]
            known["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self.answer(status, **known, Content_Length=str(len(body)))
        if self.command == "GET":
            self.wfile.write(bytes(byte ^ 1 for byte in body) if hub.corrupt else body)

    def _send_facts(self, hub: Hub) -> None:
        """Answer for a repository, or list its tree; the library asks for other things on its own account."""
        url = urlsplit(self.path)
        asked = re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", url.path)
        if asked is None or asked[1] not in _TYPES:
            self.answer(404)
            return
        repository = asked[2] if asked[1] == "models" else f"{asked[1]}/{asked[2]}"
        if self._is_refused(hub, repository):
            return
        if not hub.has(repository):
            self.answer(401, X_Error_Code="RepoNotFound")  # as for a private one
            return
        kind, revision, path = asked[3], unquote(asked[4] or "main"), unquote(asked[5] or "")
        if (found := hub.files_of(repository, revision)) is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif kind == "tree":
            query = parse_qs(url.query)
            entries = list(_tree(found, path, recursive=query.get("recursive") == ["true"]))
            if path and not entries:
                self.answer(404, X_Error_Code="EntryNotFound")
                return
            start = int(query.get("cursor", ["0"])[0])
            following = f"{hub.address}{url.path}?{re.sub('&?cursor=[0-9]+', '', url.query)}&cursor={start + PAGE}"
            more = {"Link": f'<{following}>; rel="next"'} if start + PAGE < len(entries) else {}
            self._send_json(entries[start : start + PAGE], **more)
        elif kind == "paths-info":
            paths = parse_qs(self.body.decode())["paths"]
            self._send_json([entry for entry in _tree(found, "", recursive=True) if entry["path"] in paths])
        else:
            self._send_json({"id": asked[2], "sha": COMMIT, "private": repository in hub.private, "tags": []})

    def _send_json(self, value: object, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.answer(200, Content_Type="application/json", Content_Length=str(len(body)), **headers)
        self.wfile.write(body)


def _tree(files: dict[str, tuple[bytes, FileServer | None]], path: str, *, recursive: bool) -> Iterator[dict]:
    """Yield the entries below a folder as the hub lists them: folders and files by their paths in the repository."""
    beginning, folders = f"{path}/" if path else "", set()
    for name, (content, storage) in sorted(files.items()):
        if not name.startswith(beginning):
            continue
        parts = name[len(beginning) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            if (folder := beginning + "/".join(parts[:depth])) not in folders:
                folders.add(folder)
                yield {"type": "directory", "path": folder, "size": 0, "oid": git_hash(folder.encode())}
        if len(parts) == 1 or recursive:
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
            if storage is not None:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            yield entry


class Hub(Loopback):
    """A hub: its files (HEAD and GET), its repositories, and their trees. A context manager.

    Repositories are called as in its addresses: `org/model`, `datasets/me/pets`.

    Attributes:
        requests: Method, path and Authorization header of every request for a file.
        calls: The same of every other request.
        refusals: Status and error code of the next answers, one entry each.
        refuses_calls: Whether these answer requests for repositories and trees, too.
        renamed: New names of repositories by their old ones.
        private: Repositories that are there for the token only.
        gated: Repositories whose files are there for the token only.
        corrupt: Whether other bytes of the same length are sent.
        files: By repository, revision and name, the content, and the server of large files that has it.
    """

    handler = _HubHandler

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str, str | None]] = []
        self.calls: list[tuple[str, str, str | None]] = []
        self.refusals: list[tuple[int, str]] = []
        self.refuses_calls = False
        self.renamed: dict[str, str] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.corrupt = False
        self.files: dict[tuple[str, str], dict[str, tuple[bytes, FileServer | None]]] = {}

    def put(
        self,
        repository: str,
        name: str,
        content: bytes,
        storage: FileServer | None = None,
        *,
        revision: str = "main",
    ) -> None:
        """Publish a file, named by git's hash; or one that `storage` serves, named by its SHA-256."""
        self.files.setdefault((repository, revision), {})[name] = content, storage

    def put_folder(self, repository: str, folder: Path, *, revision: str = "main") -> None:
        """Publish all files below a folder."""
        for path in (path for path in folder.rglob("*") if path.is_file()):
            self.put(repository, path.relative_to(folder).as_posix(), path.read_bytes(), revision=revision)

    def has(self, repository: str) -> bool:
        """Return whether there is such a repository."""
        return any(known == repository for known, _ in self.files)

    def files_of(self, repository: str, revision: str) -> dict[str, tuple[bytes, FileServer | None]] | None:
        """Return the files of a revision; None if there is none. Each repository has `main`, which may be empty."""
        if revision in ("main", COMMIT):
            return self.files.get((repository, "main"), {})
        return self.files.get((repository, revision))

    @property
    def served(self) -> list[str]:
        """The paths whose bytes were asked for."""
        return [path for method, path, _ in self.requests if method == "GET"]


def reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library ask this hub, without a token; in this process, and in those that it starts."""
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": os.devnull,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name, value in {"HF_ENDPOINT": hub.address, "HF_TOKEN_PATH": os.devnull}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
