"""Weight files as files: their kind and their hash, told without torch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive, as OpenAI published its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


_unwritten: dict[tuple[str, str, int, int], str] = {}
"""Hashes of files in folders that cannot be written, by kind, path, size and time: for this process alone."""


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, computed once and kept beside it (`.<name>.sha256`) with its size and time.

    Where the file's folder cannot be written, the hash is computed once a process.
    """
    return digest_of(path, "sha256")


def digest_of(path: Path, kind: str) -> str:
    """Do what `sha256_of` says, for another kind of hash.

    Args:
        path: The file.
        kind: What `hashlib` calls it: `sha256` or `md5`.
    """
    stamp = _stamp_of(path)
    try:
        known = json.loads(_note_of(path, kind).read_text())
        if all(known[key] == value for key, value in stamp.items()):
            return str(known[kind])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if digest := _unwritten.get((kind, str(path), stamp["size"], stamp["mtime_ns"])):
        return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if _stamp_of(path) == stamp:  # else it was written meanwhile: this is no hash of what is there now
        remember_digest(path, kind, digest)
    return digest


def remember_digest(path: Path, kind: str, digest: str) -> None:
    """Keep a file's hash beside it, for `digest_of`.

    Args:
        path: The file, as it is now.
        kind: `sha256` or `md5`.
        digest: The hash in hexadecimal digits.
    """
    stamp = _stamp_of(path)
    draft = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            json.dump({**stamp, kind: digest}, draft)
        os.chmod(draft.name, 0o644)  # other users' workers read the same weights
        os.replace(draft.name, _note_of(path, kind))
    except OSError:  # a read-only folder, or a full disk: the hash is right all the same
        if draft is not None:
            Path(draft.name).unlink(missing_ok=True)
        _unwritten[kind, str(path), stamp["size"], stamp["mtime_ns"]] = digest


def _stamp_of(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _note_of(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
