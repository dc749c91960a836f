"""Find files of Hugging Face repositories in the caches of this machine, or fetch them once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...files.cache import cache_root
from ...files.json_text import parse_json
from ..progress import observer
from .repository import RepositoryFile, download_file, is_whole

_log = logging.getLogger("clipmill")

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def fetch_file(repository: str, filename: str, cache_dir: str | None = None) -> Path:
    """Return the local copy of a repository's file, downloading it if there is none.

    An existing copy is used without asking the hub for a newer one, also from the hub library's own cache (`HF_HOME`).
    To pin a version, give a revision.

    Args:
        repository: `organisation/name[@revision]`.
        filename: Name in the repository.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If the file cannot be fetched; the message has host, repository and file.
    """
    path = fetch_optional_file(repository, filename, cache_dir)
    if path is None:
        raise WeightsError(f"{filename!r} could not be fetched: {repository!r} has no such file")
    return path


def fetch_optional_file(repository: str, filename: str, cache_dir: str | None = None) -> Path | None:
    """Like `fetch_file`, but return None if the repository does not have the file.

    Raises:
        WeightsError: If the repository cannot be reached.
    """
    path = find_file(repository, filename, cache_dir)
    if path is None:
        path = download_file(RepositoryFile.of(repository, filename), _caches(cache_dir)[0])
    if path is not None:
        observer().finished(filename, path)
    return path


def find_file(repository: str, filename: str, cache_dir: str | None = None) -> Path | None:
    """Return the local copy of a repository's file if there is a complete one, without network access."""
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
        WeightsError: If there is none, or it does not describe a model.
    """
    path = fetch_optional_file(repository, CONFIG_FILE, cache_dir)
    if path is None:
        raise WeightsError(
            f"{repository!r} has no {CONFIG_FILE}, so it is no repository of open_clip",
            hint=f"a model of transformers is 'hf:{repository}'",
        )
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise WeightsError(f"{str(path)!r} is not valid JSON: {err}") from err
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise WeightsError(f"{CONFIG_FILE} of {repository!r} has no 'model_cfg': not a repository of open_clip")
    return config


def fetch_weights(repository: str, cache_dir: str | None = None) -> Path:
    """Return the weights of an open_clip repository: the safetensors file, else the pickled one.

    Raises:
        WeightsError: If neither can be fetched.
    """
    if found := find_weights(repository, cache_dir):
        return found
    for filename in WEIGHT_FILES:
        if path := fetch_optional_file(repository, filename, cache_dir):
            return path
    raise WeightsError(f"weights could not be fetched: {repository!r} has neither {' nor '.join(WEIGHT_FILES)}")


def find_weights(repository: str, cache_dir: str | None = None) -> Path | None:
    """Return the local copy of an open_clip repository's weights; None if there is no complete one."""
    found = (find_file(repository, filename, cache_dir) for filename in WEIGHT_FILES)
    return next((path for path in found if path is not None), None)


def _caches(cache_dir: str | None) -> list[Path]:
    """Return the caches to search: ours, `cache_dir` itself as a cache of the hub's library, and the library's own."""
    from huggingface_hub import constants

    root = cache_root(cache_dir)
    return [root / "huggingface", root, Path(constants.HF_HUB_CACHE)]
