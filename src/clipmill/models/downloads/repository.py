"""One file of a Hugging Face repository, brought into a cache of the hub library's own layout.

A repository's folder holds `blobs/<hash>`, `snapshots/<commit>/<file>`, which links to a blob, `refs/<revision>` with
a commit, and `.no_exist/<commit>/<file>` for what was asked for in vain. So other programs find our copies there.

The library answers what a file is and keeps the cache. Only the bytes come as those of all other URLs do (`urls`): the
library's own transfer begins anew in every process and after an error of the storage, has no least speed, and gives a
file its name without comparing its hash. It finds the blob that we have put there, and downloads nothing itself.
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
from ...files.retries import TransientFetchError, is_transient_status, read_retry_after
from ..weight_files import remember_digest, sha256_of
from .copies import by_hand, is_offline, only_one, safe_name
from .transfer import hash_of, retried
from .urls import download


@dataclasses.dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file of a repository, and its places in caches.

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
            WeightsError: If the name or the revision is no plain path.
        """
        repo_id, _, revision = repository.partition("@")
        file = cls(repo_id, revision or "main", name)
        for path in (file.revision, name):  # both become paths of this machine
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise WeightsError(f"{path!r} names nothing in the repository {repository!r}")
        return file

    def home_in(self, cache: Path) -> Path:
        """Return the repository's folder in a cache."""
        return cache / f"models--{self.repo_id.replace('/', '--')}"

    def place_in(self, cache: Path) -> Path:
        """Return where a cache has the file, if it has it, in the commit that it knows the revision to be."""
        return self.home_in(cache) / "snapshots" / self.commit_in(cache) / self.name

    def is_known_missing_in(self, cache: Path) -> bool:
        """Tell whether a cache has noted that the repository does not have this file."""
        return (self.home_in(cache) / ".no_exist" / self.commit_in(cache) / self.name).is_file()

    def commit_in(self, cache: Path) -> str:
        """Return the commit that a cache knows the revision to be; the revision itself where it knows none."""
        try:
            return (self.home_in(cache) / "refs" / self.revision).read_text().strip() or self.revision
        except OSError:
            return self.revision


def is_whole(place: Path) -> bool:
    """Tell whether a copy has the hash that the hub announced: its blob is named by it.

    Only one link is followed: the library may make the blob itself a link, to a file with a name of another kind.
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
    """Return what hash the hub names a file by: large files by SHA-256, others as git does."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return "sha256"
    return "git" if re.fullmatch(r"[0-9a-f]{40}", etag) else None


def bring(file: RepositoryFile, cache: Path) -> Path | None:
    """Download a file into a cache: resumed, compared with the hub's hash, by one process of this machine at a time.

    Args:
        file: What to fetch; a copy that is there already and whole is not fetched again.
        cache: The cache's folder.

    Returns:
        Its path in the cache; None if the repository does not have it, which is noted for times without a network.

    Raises:
        WeightsError: If it cannot be had, with host, repository, file, and the path to put it at by hand.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if is_offline():
        if file.is_known_missing_in(cache):
            return None
        raise _failure(file, cache, "HF_HUB_OFFLINE forbids it")
    try:
        facts = retried(lambda: _ask(file), None, f"{file.name} of {file.repo_id}")
        return _fetch(file, facts, cache)
    except RemoteEntryNotFoundError as err:
        # A revision that has moved on keeps the commit that the cache knows: what is here of it must still be found.
        if file.commit_in(cache) in (file.revision, err.response.headers.get("X-Repo-Commit")):
            with contextlib.suppress(Exception):  # nothing but the note is lost: the next process asks again
                _enter(file, cache)
        return None
    except (WeightsError, TransientFetchError) as err:
        raise _failure(file, cache, str(err)) from err
    except OSError as err:
        raise _failure(file, cache, f"the cache cannot be written: {err}") from err


def _ask(file: RepositoryFile) -> Any:
    """Return what the hub says of a file: commit, etag, size, location."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _hub_errors(file):
        url = hf_hub_url(file.repo_id, file.name, revision=file.revision)
        facts = get_hf_file_metadata(url, library_name="clipmill")
    if not all(word and word == safe_name(word) for word in (facts.commit_hash, facts.etag)):
        raise WeightsError("the server names no commit or no hash of the file: it is no hub, or a proxy's message")
    return facts


def _fetch(file: RepositoryFile, facts: Any, cache: Path) -> Path:
    """Bring what the hub has described to its place, unless another process has done so by now."""
    blob = file.home_in(cache) / "blobs" / facts.etag
    with only_one(blob, file.name):
        place = file.place_in(cache)
        if place.is_file() and is_whole(place):
            return place
        if not (blob.is_file() and _has_hash(blob, facts.etag)):
            _fetch_blob(file, facts, blob)
        with _hub_errors(file):
            _enter(file, cache)
        place = file.place_in(cache)
        if _kind_of(facts.etag) == "sha256" and _announced(place) == facts.etag:
            remember_digest(place, "sha256", facts.etag)
        if not is_whole(place):  # the revision moved between the two questions, and the library has fetched the file
            raise _other_hash(_announced(place))
        return place


def _fetch_blob(file: RepositoryFile, facts: Any, blob: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, imported lazily there

    url = hf_hub_url(file.repo_id, file.name, revision=facts.commit_hash)  # never another commit's bytes
    headers = build_hf_headers(library_name="clipmill")
    kind = _kind_of(facts.etag)
    expected = facts.etag if kind else None
    if download(url, blob, expected, kind=kind or "", name=file.name, headers=headers) is None:
        raise _other_hash(facts.etag)


def _enter(file: RepositoryFile, cache: Path) -> None:
    """Let the library link the blob and note the revision's commit; or note, and raise, that there is no such file."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(file.repo_id, file.name, revision=file.revision, cache_dir=cache, library_name="clipmill")


def _other_hash(announced: str) -> WeightsError:
    return WeightsError(f"what arrived has another hash than the hub announced ({announced})")


@contextlib.contextmanager
def _hub_errors(file: RepositoryFile) -> Iterator[None]:
    """Turn the library's errors into ours, but for the one about a file that a repository lacks."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{file.repo_id}"
    try:
        yield
    except errors.RemoteEntryNotFoundError:
        raise
    except errors.GatedRepoError as err:
        reason = f"the repository is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account"
        raise WeightsError(reason) from err
    except errors.RepositoryNotFoundError as err:
        reason = f"there is no repository at {page}, or it is private and HF_TOKEN does not open it"
        raise WeightsError(reason) from err
    except errors.RevisionNotFoundError as err:
        raise WeightsError(f"the repository has no revision {file.revision!r}") from err
    except errors.HfHubHTTPError as err:
        status = err.response.status_code
        if is_transient_status(status):
            wait_s = read_retry_after(err.response.headers.get("Retry-After", ""))
            raise TransientFetchError(f"status {status}", wait_s) from err
        raise WeightsError(f"the server answered with status {status} ({err.response.reason_phrase})") from err
    except ValueError as err:  # a name that the library does not take
        raise WeightsError(_first_line(err)) from err
    except Exception as err:  # whatever the library's HTTP client raises, which changes with its releases
        raise TransientFetchError(_first_line(err)) from err


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _failure(file: RepositoryFile, cache: Path, reason: str) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"{file.name!r} of {file.repo_id!r} could not be fetched from {constants.ENDPOINT}: {reason} (local copies are"
        f" looked for in {cache} and {constants.HF_HUB_CACHE}){by_hand(file.place_in(cache))}"
    )
