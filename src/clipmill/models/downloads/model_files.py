"""Find files of a place, which is a directory on this machine or a repository on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...files.json_text import parse_json
from . import hub

CONFIG = "config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Files in which transformers stores how inputs are prepared: the first since version 5, for a whole processor."""
_INDEX = ".index.json"
WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
"""Names of weights, single or sharded, in transformers' order of preference."""
_IRRELEVANT = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
_CODE = frozenset({"auto_map", "use_kernels", "kernel_config", "allow_all_kernels"})
"""Entries that name code, like those that end with `implementation`. Others with "kernel" in them are sizes."""


def is_directory(place: str) -> bool:
    """Return whether a place is a directory on this machine; directories have absolute paths."""
    return os.path.isabs(place)


def find_file(place: str, name: str, cache_dir: str | None = None) -> Path:
    """Return a file of a place, downloading it if it is not cached.

    Args:
        place: Absolute path of a directory, or `organisation/name[@revision]`.
        name: Name of the file.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If there is no such file, or it cannot be fetched.
    """
    if not is_directory(place):
        return hub.fetch_file(place, name, cache_dir)
    path = Path(place) / name
    if path.is_file():
        return path
    _check_directory(place)
    raise WeightsError(f"no {name!r} in the directory {place!r}")


def find_any(place: str, names: Sequence[str], cache_dir: str | None = None) -> Iterator[Path]:
    """Yield the files that a place has out of several: first the local ones, then those to download.

    Raises:
        WeightsError: If there is no such directory, or the repository cannot be reached.
    """
    if is_directory(place):
        _check_directory(place)
        yield from (path for path in (Path(place) / name for name in names) if path.is_file())
        return
    local = {name: found for name in names if (found := hub.find_file(place, name, cache_dir))}
    yield from local.values()
    for name in names:
        if name not in local and (fetched := hub.fetch_optional_file(place, name, cache_dir)):
            yield fetched


def find_first(place: str, names: Sequence[str], cache_dir: str | None = None) -> Path | None:
    """Return the first result of `find_any`, or None."""
    return next(find_any(place, names, cache_dir), None)


def _check_directory(place: str) -> None:
    if not Path(place).is_dir():
        raise WeightsError(f"there is no directory {place!r} on this machine")


def find_processor(place: str, part: str, cache_dir: str | None = None) -> tuple[dict[str, Any], Path] | None:
    """Return the settings of a processor of transformers, and their file; None if a place has none.

    Args:
        place: Directory or repository.
        part: Its name in a whole processor, which may lack it: `image_processor` or `feature_extractor`.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If a file is invalid, or the repository cannot be reached.
    """
    for path in find_any(place, PROCESSOR_FILES, cache_dir):
        values = read_json(path)
        if path.name == PROCESSOR_FILES[0]:
            values = values.get(part) or {}  # older ones have no entry
        if not isinstance(values, dict):
            raise WeightsError(f"{str(path)!r} has {part}={values!r}; it must be an object with settings")
        if values:
            return values, path
    return None


def relevant_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a configuration of transformers that may affect a model in float32; none names code."""
    return {
        name: relevant_settings(value) if isinstance(value, dict) else value
        for name, value in without_code(values).items()
        if name not in _IRRELEVANT
    }


def without_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without entries that make transformers import code: of a repository, or of a kernel."""
    return {
        name: without_code(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in _CODE and not name.endswith("implementation")
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        WeightsError: If it is not a JSON object.
    """
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise WeightsError(f"{str(path)!r} is not valid JSON: {err}") from err
    if not isinstance(found, dict):
        raise WeightsError(f"{str(path)!r} has {type(found).__name__}, not an object")
    return found


def find_weights(place: str, cache_dir: str | None = None) -> tuple[Path, ...]:
    """Return the files with a model's weights, in transformers' order of preference; several if they are sharded.

    Raises:
        WeightsError: If there are none, or a shard is missing.
    """
    path = find_first(place, WEIGHTS, cache_dir)
    if path is None:
        raise WeightsError(f"no weights in {place!r}: looked for {', '.join(WEIGHTS)}; random weights are never used")
    return _shards(place, path, cache_dir) if path.name.endswith(_INDEX) else (path,)


def _shards(place: str, index: Path, cache_dir: str | None) -> tuple[Path, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_plain(name) for name in names.values()):
        raise WeightsError(f"{str(index)!r} has no 'weight_map' from names of weights to names of files next to it")
    return tuple(find_file(place, name, cache_dir) for name in sorted(set(names.values())))


def _is_plain(name: Any) -> bool:
    """Return whether a name from an index, which is untrusted, is that of a file in the same folder."""
    return isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..")
