"""The one directory of this machine that downloaded weights and graphs made from them are kept in."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CLIPMILL_CACHE"


def cache_root(cache_dir: str | None = None) -> Path:
    """Return the directory, which need not exist yet.

    Args:
        cache_dir: `cache_dir` of a spec; it wins over the environment's `CLIPMILL_CACHE`, and that over
            `$XDG_CACHE_HOME/clipmill` (`~/.cache/clipmill`).
    """
    if chosen := cache_dir or os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipmill"
