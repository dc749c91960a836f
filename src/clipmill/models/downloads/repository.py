"""Download one file of a Hugging Face repository into a cache with the layout of the hub's library.

A repository's folder has `blobs/<hash>`, `snapshots/<commit>/<file>`, which links to a blob, `refs/<revision>` with a
commit, and `.no_exist/<commit>/<file>` for files that the repository lacks. So other programs find our copies there.

The library provides a file's metadata and manages the cache. Only the content is downloaded like that of all other URLs
(`urls`): the library's own transfer starts over in every process and after a storage error, has no minimum speed, and
publishes a file without checking its hash. It finds the blob that we have put there, and downloads nothing itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ...files.hub import hub_refusal
from ...files.retries import TransientFetchError, is_transient_status, read_retry_after
from ..weight_files import remember_digest, sha256_of
from .copies import by_hand, is_offline, only_one, safe_name
from .transfer import hash_of, retried
from .urls import download


@dataclasses.dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file of a repository, and its paths in caches.

    Attributes:
        repo_id: `organisation/name`.
        revision: A branch, tag or commit.
        name: The file's path in the repository.
    """

    repo_id: str
    revision: str
    name: str

    @classmethod
    def of(cls, repository: str, name: str) -> RepositoryFile:
        """Return the file of a repository, which may be followed by `@revision`.

        Raises:
            WeightsError: If the name or the revision is not a plain relative path.
        """
        repo_id, _, revision = repository.partition("@")
        file = cls(repo_id, revision or "main", name)
        for path in (file.revision, name):  # both become part of local paths
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise WeightsError(f"{path!r} is not a valid path in the repository {repository!r}")
        return file

    def home_in(self, cache: Path) -> Path:
        """Return the repository's folder in a cache."""
        return cache / f"models--{self.repo_id.replace('/', '--')}"

    def place_in(self, cache: Path) -> Path:
        """Return the path of the file in a cache, for the commit that the cache has for the revision."""
        return self.home_in(cache) / "snapshots" / self.commit_in(cache) / self.name

    def is_known_missing_in(self, cache: Path) -> bool:
        """Return whether a cache has a note that the repository does not have this file."""
        return (self.home_in(cache) / ".no_exist" / self.commit_in(cache) / self.name).is_file()

    def commit_in(self, cache: Path) -> str:
        """Return the commit that a cache has for the revision; the revision itself if it has none."""
        try:
            return (self.home_in(cache) / "refs" / self.revision).read_text().strip() or self.revision
        except OSError:
            return self.revision


def is_whole(place: Path) -> bool:
    """Return whether a copy has the hash that the hub announced, which is the name of its blob.

    Only one link is followed: the library may make the blob itself a link to a file with another kind of name.
    """
    return _has_hash(place, _announced(place))


def _announced(place: Path) -> str:
    return Path(os.readlink(place)).name if place.is_symlink() else ""


def _has_hash(path: Path, announced: str) -> bool:
    kind = _kind_of(announced)
    if kind is None:
        return True
    return (sha256_of(path) if kind == "sha256" else hash_of(path, kind)) == announced


def _kind_of(etag: str) -> str | None:
    """Return the kind of hash in an etag of the hub: SHA-256 for large files, that of git for others."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return "sha256"
    return "git" if re.fullmatch(r"[0-9a-f]{40}", etag) else None


def download_file(file: RepositoryFile, cache: Path) -> Path | None:
    """Download a file into a cache, with resume, a check of its hash, and a lock between processes.

    Args:
        file: The file; a complete copy in the cache is not fetched again.
        cache: The cache's folder.

    Returns:
        Its path in the cache; None if the repository does not have it, which is noted in the cache for offline use.

    Raises:
        WeightsError: If it cannot be fetched; the message has host, repository, file, and the path for a manual copy.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if is_offline():
        if file.is_known_missing_in(cache):
            return None
        raise _failure(file, cache, "HF_HUB_OFFLINE is set")
    try:
        metadata = retried(lambda: _request_metadata(file), None, f"{file.name} of {file.repo_id}")
        return _fetch(file, metadata, cache)
    except RemoteEntryNotFoundError as err:
        # If the revision has moved, the cache keeps its older commit, so that the files of that commit are still found.
        if file.commit_in(cache) in (file.revision, err.response.headers.get("X-Repo-Commit")):
            with contextlib.suppress(Exception):  # only the note is lost: the next process asks the hub again
                _update_cache(file, cache)
        return None
    except (WeightsError, TransientFetchError) as err:
        raise _failure(file, cache, str(err)) from err
    except OSError as err:
        raise _failure(file, cache, f"the cache is not writable: {err}") from err


def _request_metadata(file: RepositoryFile) -> Any:
    """Return the hub's metadata of a file: commit, etag, size, location."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _hub_errors(file):
        url = hf_hub_url(file.repo_id, file.name, revision=file.revision)
        metadata = get_hf_file_metadata(url, library_name="clipmill")
    if not all(word and word == safe_name(word) for word in (metadata.commit_hash, metadata.etag)):
        raise WeightsError("the response has no commit or hash of the file; it may come from a proxy, not the hub")
    return metadata


def _fetch(file: RepositoryFile, metadata: Any, cache: Path) -> Path:
    """Download a file to its path in the cache, unless another process has done so meanwhile."""
    blob = file.home_in(cache) / "blobs" / metadata.etag
    with only_one(blob, file.name):
        place = file.place_in(cache)
        if place.is_file() and is_whole(place):
            return place
        if not (blob.is_file() and _has_hash(blob, metadata.etag)):
            _fetch_blob(file, metadata, blob)
        with _hub_errors(file):
            _update_cache(file, cache)
        place = file.place_in(cache)
        if _kind_of(metadata.etag) == "sha256" and _announced(place) == metadata.etag:
            remember_digest(place, "sha256", metadata.etag)
        if not is_whole(place):  # the revision moved between the two requests, and the library fetched the file
            raise _other_hash(_announced(place))
        return place


def _fetch_blob(file: RepositoryFile, metadata: Any, blob: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, imported lazily there

    url = hf_hub_url(file.repo_id, file.name, revision=metadata.commit_hash)  # pinned to the commit of the metadata
    headers = build_hf_headers(library_name="clipmill")
    kind = _kind_of(metadata.etag)
    expected = metadata.etag if kind else None
    if download(url, blob, expected, kind=kind or "", name=file.name, headers=headers) is None:
        raise _other_hash(metadata.etag)


def _update_cache(file: RepositoryFile, cache: Path) -> None:
    """Let the library link the blob and store the revision's commit; or note a missing file, and raise."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(file.repo_id, file.name, revision=file.revision, cache_dir=cache, library_name="clipmill")


def _other_hash(announced: str) -> WeightsError:
    return WeightsError(f"the received file does not have the hash that the hub announced ({announced})")


@contextlib.contextmanager
def _hub_errors(file: RepositoryFile) -> Iterator[None]:
    """Turn the library's errors into ours, except the one for a file that the repository lacks."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.RemoteEntryNotFoundError:
        raise
    except errors.HfHubHTTPError as err:
        if (refusal := hub_refusal(err, f"{constants.ENDPOINT}/{file.repo_id}", file.revision)) is not None:
            raise WeightsError(refusal) from err
        status = err.response.status_code
        if is_transient_status(status):
            wait_s = read_retry_after(err.response.headers.get("Retry-After", ""))
            raise TransientFetchError(f"status {status}", wait_s) from err
        raise WeightsError(f"the server answered with status {status} ({err.response.reason_phrase})") from err
    except ValueError as err:  # a name that the library rejects
        raise WeightsError(_first_line(err)) from err
    except Exception as err:  # the errors of the library's HTTP client, which change between releases
        raise TransientFetchError(_first_line(err)) from err


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _failure(file: RepositoryFile, cache: Path, reason: str) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"{file.name!r} of {file.repo_id!r} could not be fetched from {constants.ENDPOINT}: {reason} (searched for"
        f" local copies in {cache} and {constants.HF_HUB_CACHE}){by_hand(file.place_in(cache))}",
        hint=f"there is a directory of that name here, which is './{file.repo_id}' (as a model 'hf:./{file.repo_id}')"
        if Path(file.repo_id).is_dir()
        else None,
    )
