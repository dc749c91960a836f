"""`clipmill.json`: the manifest of a directory of exported graphs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...files.json_shape import is_inside, mismatches
from ...files.json_text import parse_json

FILE = "clipmill.json"
FORMAT = 1

_DIGEST = "manifest_sha256"
"""The hash of all other entries: an edit by hand would silently change the vectors or their provenance."""


_SHAPE = {
    **dict.fromkeys(("model", "kind", "runtime", "precision"), str),
    "dim": int,
    "modalities": [("text", "image", "audio").__contains__],
    "graphs": {str: str},
    "files": {str: str},
    "image?": ({"image_size": int, "mean": [float], "std": [float]}, None),
    "text?": (
        {
            "tokenizer": {"context_length?": (int, None), "max_tokens?": (int, None)},
            "fixed_length": bool,
            "masked": bool,
        },
        None,
    ),
    "audio?": (
        {
            "sample_rate": int,
            "mel?": (
                {
                    "window_samples": int,
                    "bins": int,
                    "fft": int,
                    "hop": int,
                    "low": float,
                    "high": float,
                    "padding": str,
                },
                None,
            ),
        },
        None,
    ),
    "parameters?": (int, None),
    "licence?": (str, None),
    "least_dimensions?": (int, None),
    "calibration_sha256?": str,
}
"""What is read of a manifest; graphs and files are names by model input, and hashes by name."""


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, for `read_manifest`."""
    whole = {"format": FORMAT, **manifest}
    text = json.dumps({**whole, _DIGEST: _digest(whole)}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a directory's manifest.

    Returns:
        Its values; None if there is no manifest, or one with nothing but the model's name.

    Raises:
        WeightsError: If it cannot be read, has another format, or was edited.
    """
    manifest = _read(folder)
    if manifest is None or set(manifest) == {"model"}:
        return None
    if manifest.get("format") != FORMAT:
        raise WeightsError(
            f"{str(folder / FILE)!r} has the format {manifest.get('format')!r}, and this version reads {FORMAT}; export"
            " the model again"
        )
    if wrong := mismatches(manifest, _SHAPE):
        raise WeightsError(
            f"{str(folder / FILE)!r} lacks valid values of {', '.join(map(repr, wrong))}; export the model again"
        )
    if manifest.pop(_DIGEST, None) != _digest(manifest):
        raise WeightsError(
            f"{str(folder / FILE)!r} was changed since `clipmill export` wrote it; export the model"
            " again (max_text_tokens and other options of a spec are given when it is loaded)"
        )
    _check_names(manifest, folder)
    return manifest


def _check_names(manifest: dict[str, Any], folder: Path) -> None:
    """Raise `WeightsError` for a file outside of the directory, or for a graph whose files are not all listed."""
    graphs, files = list(manifest["graphs"].values()), list(manifest["files"])
    for name in (*graphs, *files):
        if not is_inside(name) or "/" in name:
            raise WeightsError(f"{str(folder / FILE)!r} names {name!r}, which is not a file in its directory")
    for name in graphs:
        own = [name, str(Path(name).with_suffix(".bin"))] if name.endswith(".xml") else [name]
        if not name.endswith((".onnx", ".xml")) or not set(own) <= set(files):
            raise WeightsError(
                f"{str(folder / FILE)!r} has the graph {name!r}; it must end with .onnx or .xml, and its files must"
                f" include {' and '.join(own)} with their hashes"
            )


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def named_model(folder: Path) -> str | None:
    """Return the model's name in a directory's `clipmill.json`; None without one."""
    manifest = _read(folder)
    return None if manifest is None else str(manifest.get("model", ""))


def _read(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        raise WeightsError(f"no directory {str(folder)!r} on this machine; `clipmill export` writes one")
    try:
        manifest = parse_json((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise WeightsError(f"{str(folder / FILE)!r} cannot be read: {err}") from err
    if not isinstance(manifest, dict):
        raise WeightsError(f"{str(folder / FILE)!r} is not a JSON object")
    return manifest
