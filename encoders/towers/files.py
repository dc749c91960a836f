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


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, computed once and kept beside it (`.<name>.sha256`) with its size and time.

    Where the file's folder cannot be written, the hash is computed at every call.
    """
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = path.with_name(f".{path.name}.sha256")
    try:
        known = json.loads(note.read_text())
        if all(known[key] == value for key, value in stamp.items()):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            json.dump({**stamp, "sha256": digest}, draft)
        os.chmod(draft.name, 0o644)  # other users' workers read the same weights
        os.replace(draft.name, note)
    except OSError:
        pass  # a read-only folder: the hash is right all the same
    return digest
