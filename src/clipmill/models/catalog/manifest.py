"""`clipmill.json`: what a directory of exported graphs says of itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...errors import WeightsError

FILE = "clipmill.json"
FORMAT = 1

_DIGEST = "manifest_sha256"
"""The hash of all the rest: what is edited by hand would change vectors, or whose they are said to be, in silence."""

_NEEDED = ("model", "dim", "modalities", "kind", "runtime", "precision", "graphs", "files")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write what `read_manifest` returns."""
    whole = {"format": FORMAT, **manifest}
    text = json.dumps({**whole, _DIGEST: _digest(whole)}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a directory's manifest.

    Returns:
        Its values; None if there is none, or one that names the model and nothing else.

    Raises:
        WeightsError: If it cannot be read, was written for another version of clipmill, or changed since.
    """
    manifest = _read(folder)
    if manifest is None or set(manifest) == {"model"}:
        return None
    if manifest.get("format") != FORMAT:
        raise WeightsError(
            f"{str(folder / FILE)!r} has the format {manifest.get('format')!r}, and this version reads {FORMAT}; export"
            " the model again"
        )
    if missing := [name for name in _NEEDED if name not in manifest]:
        raise WeightsError(f"{str(folder / FILE)!r} lacks {', '.join(map(repr, missing))}; export the model again")
    if manifest.pop(_DIGEST, None) != _digest(manifest):
        raise WeightsError(
            f"{str(folder / FILE)!r} is not as `clipmill export` wrote it: what it says is part of the model; export it"
            " again (max_text_tokens and other options of a spec are given when it is loaded)"
        )
    for name in (*manifest["graphs"].values(), *manifest["files"]):
        if Path(name).name != name:
            raise WeightsError(f"{str(folder / FILE)!r} names {name!r}, which is no file of its directory")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def named_model(folder: Path) -> str | None:
    """Return the model that a directory's `clipmill.json` names, None without one."""
    manifest = _read(folder)
    return None if manifest is None else str(manifest.get("model", ""))


def _read(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        raise WeightsError(f"no directory {str(folder)!r} on this machine; `clipmill export` writes one")
    try:
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise WeightsError(f"{str(folder / FILE)!r} cannot be read: {err}") from err
    if not isinstance(manifest, dict):
        raise WeightsError(f"{str(folder / FILE)!r} holds no JSON object")
    return manifest
