"""Format and hash of weight files, without torch; and the error for odd values in the files beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ClipmillError, WeightsError
from ..files.atomic import write_atomic
from ..files.json_text import parse_json


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the format of OpenAI's published weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextlib.contextmanager
def description_errors(model: str) -> Iterator[None]:
    """Turn errors of reading a model's description into a `WeightsError`: its JSON files are untrusted.

    Args:
        model: The model's name, for the message.
    """
    try:
        yield
    except ClipmillError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as err:
        raise WeightsError(
            f"a file that describes {model!r} has a value that no model has: {type(err).__name__}: {str(err)[:300]}"
        ) from err


_unsaved: dict[tuple[str, str, int, int], str] = {}
"""Hashes of files in read-only folders, by kind, path, size and time; only for this process."""


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, computed once and stored next to it (`.<name>.sha256`) with its size and time.

    If the folder is read-only, the hash is computed once per process.
    """
    return digest_of(path, "sha256")


def digest_of(path: Path, kind: str) -> str:
    """Return a file's hash of any kind, stored like that of `sha256_of`.

    Args:
        path: The file.
        kind: The name of the hash in `hashlib`: `sha256` or `md5`.
    """
    stamp = _stamp_of(path)
    try:
        known = parse_json(_note_of(path, kind).read_text())
        if all(known[key] == value for key, value in stamp.items()):
            return str(known[kind])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if digest := _unsaved.get((kind, str(path), stamp["size"], stamp["mtime_ns"])):
        return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if _stamp_of(path) == stamp:  # else it was written meanwhile, and the hash is out of date
        remember_digest(path, kind, digest)
    return digest


def remember_digest(path: Path, kind: str, digest: str) -> None:
    """Store a file's hash next to it, for `digest_of`.

    Args:
        path: The file.
        kind: `sha256` or `md5`.
        digest: The hash in hexadecimal digits.
    """
    stamp = _stamp_of(path)
    try:
        write_atomic(_note_of(path, kind), json.dumps({**stamp, kind: digest}))
    except OSError:  # a read-only folder, or a full disk: the hash is still valid
        _unsaved[kind, str(path), stamp["size"], stamp["mtime_ns"]] = digest


def _stamp_of(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _note_of(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
