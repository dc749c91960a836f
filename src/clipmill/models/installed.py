"""Versions of installed packages."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version_of(distribution: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    return {name: version for name in distributions if (version := version_of(name)) is not None}
