"""The bucket of an object store, or the repository of a hub, that a URI names."""

from __future__ import annotations

import re

from ..files.drivers import DRIVERS
from ..files.hub import SCHEME as HUB
from ..files.hub import split_repository
from .uri import scheme_of

# Stricter than the drivers, which read a bucket from spellings such as `s3:///name` and from what follows an escape.
_BUCKET = re.compile(r"([A-Za-z0-9]+)://([\w.$-]+(?:@[\w.-]+)?)(?:/(.*))?", re.ASCII | re.DOTALL)


def bucket_of(uri: str) -> str | None:
    """Return the bucket of an object store that a URI names, such as `gs://photos`; None if it names none clearly.

    Schemes of one store are equal: `s3a://photos/1.jpg` is in `s3://photos`. In Azure's stores, a container with its
    account (`container@account.dfs.core.windows.net`) is another bucket than the container alone. On a hub, a
    repository is the bucket, with all its revisions: `hf://datasets/me/pets`.
    """
    bucket, _ = split_bucket(uri) or (None, "")
    return bucket


def split_bucket(uri: str) -> tuple[str, str] | None:
    """Return what `bucket_of` does, and the path behind it, which may begin with `@` and a revision."""
    if scheme_of(uri) == HUB:
        bucket, path = split_repository(uri) or ("", "")
        return (f"{HUB}://{bucket}", path) if bucket and not _leads_up(path) else None
    match = _BUCKET.fullmatch(uri)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in DRIVERS or _leads_up(match[3] or "") or ".." in match[2]:
        return None
    first = next(name for name, driver in DRIVERS.items() if driver == DRIVERS[scheme])
    return f"{first}://{match[2]}", match[3] or ""


def _leads_up(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))
