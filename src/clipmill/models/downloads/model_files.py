"""Files of a place: a directory of this machine, or a repository on the hub. Told apart here and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from . import hub

CONFIG = "config.json"
_INDEX = ".index.json"
WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
"""Names of weights, whole or in parts, in the order in which transformers prefers them."""


def is_directory(place: str) -> bool:
    """Tell whether a place is a directory of this machine; directories have been made absolute."""
    return os.path.isabs(place)


def find_file(place: str, name: str, cache_dir: str | None = None) -> Path:
    """Return a file of a place, downloading it if it is not here yet.

    Args:
        place: Absolute path of a directory, or `organisation/name[@revision]`.
        name: Name in it.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If there is no such file, or it cannot be had.
    """
    if not is_directory(place):
        return hub.fetch_file(place, name, cache_dir)
    path = Path(place) / name
    if path.is_file():
        return path
    _check_directory(place)
    raise WeightsError(f"no {name!r} in the directory {place!r}")


def find_any(place: str, names: Sequence[str], cache_dir: str | None = None) -> Iterator[Path]:
    """Find those of several files that a place has, one by one: first what is here, then what must be downloaded.

    Raises:
        WeightsError: If there is no such directory, or the repository cannot be asked.
    """
    if is_directory(place):
        _check_directory(place)
        yield from (path for path in (Path(place) / name for name in names) if path.is_file())
        return
    here = {name: found for name in names if (found := hub.find_file(place, name, cache_dir))}
    yield from here.values()
    for name in names:
        if name not in here and (fetched := hub.fetch_optional_file(place, name, cache_dir)):
            yield fetched


def find_first(place: str, names: Sequence[str], cache_dir: str | None = None) -> Path | None:
    """Return the first that `find_any` finds, or None."""
    return next(find_any(place, names, cache_dir), None)


def _check_directory(place: str) -> None:
    if not Path(place).is_dir():
        raise WeightsError(f"no directory at {place!r} on this machine")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        WeightsError: If it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise WeightsError(f"{str(path)!r} is no JSON: {err}") from err
    if not isinstance(found, dict):
        raise WeightsError(f"{str(path)!r} holds {type(found).__name__}, not an object")
    return found


def find_weights(place: str, cache_dir: str | None = None) -> tuple[Path, ...]:
    """Return the files with a model's weights: safetensors if there are, else pickled; whole, else in parts.

    Raises:
        WeightsError: If there are none, naming what was looked for; or if a part is missing.
    """
    path = find_first(place, WEIGHTS, cache_dir)
    if path is None:
        raise WeightsError(f"no weights in {place!r}: looked for {', '.join(WEIGHTS)}; random weights are never run")
    return _parts(place, path, cache_dir) if path.name.endswith(_INDEX) else (path,)


def _parts(place: str, index: Path, cache_dir: str | None) -> tuple[Path, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_plain(name) for name in names.values()):
        raise WeightsError(f"{str(index)!r} has no 'weight_map' from names of weights to names of files beside it")
    return tuple(find_file(place, name, cache_dir) for name in sorted(set(names.values())))


def _is_plain(name: Any) -> bool:
    """Tell whether an index, which strangers may have written, names a file of its own folder."""
    return isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..")
