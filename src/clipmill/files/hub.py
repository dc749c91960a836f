"""The hub of Hugging Face: repositories in `hf://` URLs, and what errors of its library mean."""

from __future__ import annotations

import re

from ..errors import DatasetError

SCHEME = "hf"
_KINDS = "datasets|spaces|models|kernels|buckets"
# Stricter than the library: `@` and `%` mean something else to it in other places.
_REPOSITORY = re.compile(
    rf"(?i:hf)://((?:(?:{_KINDS})/)?(?!(?:{_KINDS})/)\w[\w.-]*/\w[\w.-]*)((?:@|/|$).*)", re.ASCII | re.DOTALL
)


def split_repository(url: str) -> tuple[str, str] | None:
    """Return the repository that an `hf://` URL names, such as `datasets/me/pets`, and the rest, with the revision.

    None if it names none clearly. A model's repository is `me/model`, with or without `models/` before it.
    """
    match = _REPOSITORY.fullmatch(url)
    return (match[1].removeprefix("models/"), match[2]) if match else None


def check_is_no_hub(url: str) -> None:
    """Raise `DatasetError` for an output on the hub, where each of its many small files would be a commit."""
    if url.lower().startswith(f"{SCHEME}://"):
        repository = (split_repository(url) or ("datasets/OWNER/NAME", ""))[0].removeprefix("datasets/")
        raise DatasetError(
            f"{url}: {SCHEME}:// is only read, since each file of the output would be a commit",
            hint=f"write to a folder and upload it: hf upload {repository} FOLDER --repo-type dataset"
            " --include 'part-*.parquet'",
        )


def hub_refusal(err: BaseException, page: str, revision: str = "") -> str | None:
    """Return why the hub does not give a file, and the way out; None for any other error.

    Args:
        err: An error of the hub's library, or what its file system makes of it: a `FileNotFoundError` from it.
        page: Where the repository is.
        revision: Its revision.
    """
    cause = err.__cause__ if isinstance(err, FileNotFoundError) else err
    if not type(cause).__module__.startswith("huggingface_hub."):
        return None
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        return f"the repository is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"there is no repository at {page}, or it is private: set HF_TOKEN to a token that may read it"
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision!r}"
    return None


def refusal_at(err: BaseException, url: str) -> str | None:
    """Return `hub_refusal` for an `hf://` URL; None for others, and for files that a repository does not have."""
    if (found := split_repository(url)) is None:
        return None
    from huggingface_hub import constants

    repository, rest = found
    revision = rest[1:].partition("/")[0] if rest.startswith("@") else "main"
    said = hub_refusal(err, f"{constants.ENDPOINT}/{repository}", revision)
    is_model = repository.count("/") == 1
    return f"{said} (a dataset is {SCHEME}://datasets/OWNER/NAME)" if said and is_model else said
