"""Files of Hugging Face repositories: found in the caches of this machine, else fetched once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...files.cache import cache_root
from .progress import observer
from .repository import RepositoryFile, bring, is_whole

_log = logging.getLogger("clipmill")

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def fetch_file(repository: str, filename: str, cache_dir: str | None = None) -> Path:
    """Return the local copy of a repository's file, downloading it if there is none.

    A copy that is here is used as it is, in the hub library's own cache (`HF_HOME`) too: the hub is not asked for a
    newer one. A name with a revision says which one is meant.

    Args:
        repository: `organisation/name`, with `@revision` if one is wanted.
        filename: Name in the repository.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If the file cannot be had, naming host, repository and file.
    """
    path = _fetch(repository, filename, cache_dir)
    if path is None:
        raise WeightsError(f"{filename!r} could not be fetched: there is no such file in {repository!r}")
    return path


def fetch_optional_file(repository: str, filename: str, cache_dir: str | None = None) -> Path | None:
    """Do what `fetch_file` does; return None for a file that the repository does not have.

    Raises:
        WeightsError: If the repository cannot be asked.
    """
    return _fetch(repository, filename, cache_dir)


def find_file(repository: str, filename: str, cache_dir: str | None = None) -> Path | None:
    """Return the copy of a repository's file that is here already and whole, asking nobody."""
    file = RepositoryFile.of(repository, filename)
    for folder in _caches(cache_dir):
        place = file.place_in(folder)
        if place.is_file():
            if is_whole(place):
                return place
            _log.warning("%s is not used: its content has another hash than the hub's", place)
    return None


def fetch_config(repository: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Return the parsed `open_clip_config.json` of a repository.

    Raises:
        WeightsError: If there is none, or it describes no model.
    """
    path = fetch_file(repository, CONFIG_FILE, cache_dir)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise WeightsError(f"{str(path)!r} is no JSON: {err}") from err
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise WeightsError(f"{CONFIG_FILE} of {repository!r} has no 'model_cfg': not a repository of open_clip")
    return config


def fetch_weights(repository: str, cache_dir: str | None = None) -> Path:
    """Return the weights of an open_clip repository: safetensors if there are, else the pickled file.

    Raises:
        WeightsError: If neither can be had; the message is that of the first try.
    """
    if here := find_weights(repository, cache_dir):
        return here
    for filename in WEIGHT_FILES:
        if path := fetch_optional_file(repository, filename, cache_dir):
            return path
    raise WeightsError(f"weights could not be fetched: {repository!r} has neither {' nor '.join(WEIGHT_FILES)}")


def find_weights(repository: str, cache_dir: str | None = None) -> Path | None:
    """Return the copy of an open_clip repository's weights that is here already and whole."""
    found = (find_file(repository, filename, cache_dir) for filename in WEIGHT_FILES)
    return next((path for path in found if path is not None), None)


def _caches(cache_dir: str | None) -> list[Path]:
    """Return where copies are looked for: our own cache, one of the hub library's that was named, and its own."""
    from huggingface_hub import constants

    root = cache_root(cache_dir)
    return [root / "huggingface", root, Path(constants.HF_HUB_CACHE)]


def _fetch(repository: str, filename: str, cache_dir: str | None) -> Path | None:
    path = find_file(repository, filename, cache_dir)
    if path is None:
        path = bring(RepositoryFile.of(repository, filename), _caches(cache_dir)[0])
    if path is not None:
        observer().finished(filename, path)
    return path
