"""Files of Hugging Face repositories, with errors that say what was looked for and where.

The hub's library transfers them, locks and gives a file its name when it is whole; it compares no hashes, so that is
done here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from ..cache import VARIABLE, cache_root
from ..errors import WeightsError
from ..towers.files import sha256_of
from .progress import is_observed, observer

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
    from huggingface_hub import try_to_load_from_cache

    repo_id, _, revision = repository.partition("@")
    for folder in _caches(cache_dir):
        found = try_to_load_from_cache(repo_id, filename, cache_dir=folder, revision=revision or None)
        if isinstance(found, str):
            if _is_whole(Path(found)):
                return Path(found)
            _log.warning("%s is not used: its content has another hash than the hub's", found)
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
    path = find_file(repository, filename, cache_dir) or _download(repository, filename, cache_dir)
    if path is not None:
        observer().finished(filename, path)
    return path


def _download(repository: str, filename: str, cache_dir: str | None) -> Path | None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo_id, _, revision = repository.partition("@")
    folder = cache_root(cache_dir) / "huggingface"
    options: dict[str, Any] = {"revision": revision or None, "cache_dir": folder}
    if is_observed():
        options["tqdm_class"] = _Bar
    try:
        path = Path(hf_hub_download(repo_id, filename, **options))
        if not _is_whole(path):
            path = Path(hf_hub_download(repo_id, filename, force_download=True, **options))
    except EntryNotFoundError as err:
        if not isinstance(err, LocalEntryNotFoundError):
            return None
        raise _failure(repository, filename, folder, err) from err
    except Exception as err:  # the library raises its own, httpx's and OSErrors: all mean that the file is not here
        raise _failure(repository, filename, folder, err) from err
    if not _is_whole(path):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"{filename!r} of {repository!r} arrived twice from {constants.ENDPOINT} with another hash than announced"
        )
    return path


def _failure(repository: str, filename: str, folder: Path, err: Exception) -> WeightsError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids it"
    else:
        cause = err.__cause__ or err  # the library's own text speaks at length of connections
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return WeightsError(
        f"{filename!r} of {repository!r} could not be fetched from {constants.ENDPOINT}: {reason} (local copies are"
        f" looked for in {folder} and {constants.HF_HUB_CACHE}; another cache: cache_dir or ${VARIABLE})"
    )


def _is_whole(path: Path) -> bool:
    """Tell whether a copy has the hash that the hub announced: its blob is named by it.

    Large files are named by their SHA-256, others by git's hash of their content.
    """
    announced = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", announced):
        return sha256_of(path) == announced
    if re.fullmatch(r"[0-9a-f]{40}", announced):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == announced
    return True


class _Bar:
    """What the hub's library takes for a progress bar, and tells the observer."""

    format_dict: dict[str, Any] = {}  # noqa: RUF012 - asked for the rate; there is none

    def __init__(self, *, desc: str = "", total: int | None = None, initial: int = 0, **_: Any) -> None:
        self.total, self.n = total, initial
        self._name = desc.partition(":")[0]
        observer().started(self._name, initial, total)

    def update(self, count: int = 1) -> None:
        self.n += count
        observer().advanced(self._name, count)

    def update_transfer(self, count: int) -> None:
        """Ignore what went over the wire: the bytes of the file are counted."""

    def __getattr__(self, name: str) -> Any:
        """Answer every other method of a bar, all about looks: which ones are called differs between releases."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None: ...
