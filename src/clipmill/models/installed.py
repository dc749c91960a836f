"""Versions of installed packages, and whether those of the extra `torch` are there."""

from __future__ import annotations

import functools
import importlib.metadata

from ..errors import MissingExtraError, is_installed

_TORCH_EXTRA = {"torch": "torch", "open_clip": "open_clip_torch"}
"""The packages that build networks, by their modules."""


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


def require_torch(purpose: str) -> None:
    """Check that the packages that build networks are installed, without importing them.

    An import that fails for another reason, such as too little memory, keeps its own error.

    Args:
        purpose: What needs them, for the message.

    Raises:
        MissingExtraError: If one is not installed.
    """
    for module, package in _TORCH_EXTRA.items():
        if not is_installed(module):
            raise MissingExtraError(package, "torch", purpose)
