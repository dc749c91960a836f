"""Files of Hugging Face repositories, with errors that say what was looked for and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import WeightsError

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def fetch_file(repository: str, filename: str, cache_dir: str | None = None) -> Path:
    """Return the local copy of a repository's file, downloading it if it is not in the cache.

    Args:
        repository: `organisation/name`, with `@revision` if one is wanted.
        filename: Name in the repository.
        cache_dir: Where copies are kept; None means the library's own place.

    Raises:
        WeightsError: If the file cannot be had, naming host, repository and file.
    """
    from huggingface_hub import constants, hf_hub_download

    repo_id, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision or None, cache_dir=cache_dir))
    except Exception as err:  # the library raises its own, httpx's and OSErrors: all mean that the file is not here
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise WeightsError(
            f"{filename!r} of {repository!r} could not be fetched from {constants.ENDPOINT}: {reason}"
            f" (local copies are looked for in {cache_dir or constants.HF_HUB_CACHE})"
        ) from err


def fetch_config(repository: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Return the parsed `open_clip_config.json` of a repository.

    Raises:
        WeightsError: If there is none, or it describes no model.
    """
    config = json.loads(fetch_file(repository, CONFIG_FILE, cache_dir).read_text(encoding="utf-8"))
    if "model_cfg" not in config:
        raise WeightsError(f"{CONFIG_FILE} of {repository!r} has no 'model_cfg': not a repository of open_clip")
    return config


def fetch_weights(repository: str, cache_dir: str | None = None) -> Path:
    """Return the weights of an open_clip repository: safetensors if there are, else the pickled file.

    Raises:
        WeightsError: If neither can be had; the message is that of the first try.
    """
    first_error: WeightsError | None = None
    for filename in WEIGHT_FILES:
        try:
            return fetch_file(repository, filename, cache_dir)
        except WeightsError as err:
            first_error = first_error or err
    assert first_error is not None
    raise first_error
