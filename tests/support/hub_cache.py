"""Repositories in a cache of the Hugging Face hub's own layout, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    """Return what git names a file's content by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def put_repository(cache: Path, repository: str, files: Mapping[str, bytes], *, large: tuple[str, ...] = ()) -> Path:
    """Write a repository's files as the hub's library keeps them: blobs under their hashes, links beside their names.

    Args:
        cache: The cache's folder.
        repository: `organisation/name`, or a name alone.
        files: Content by name.
        large: Names of files that the hub keeps by their SHA-256; others have git's hash.

    Returns:
        The folder with the names.
    """
    home = cache / f"models--{repository.replace('/', '--')}"
    folder = home / "snapshots" / COMMIT
    for place in (home / "refs", home / "blobs", folder):
        place.mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        blob = home / "blobs" / (hashlib.sha256(content).hexdigest() if name in large else git_hash(content))
        blob.write_bytes(content)
        (folder / name).symlink_to(blob)
    return folder
