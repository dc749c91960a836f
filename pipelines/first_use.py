"""The first use of a model on this machine: shown on the terminal while somebody waits, or done ahead of time."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from ..encoders import Encoder, EncoderSpec, load_encoder
from ..errors import SpecError
from ..files.cache import cache_root
from ..messages import setting
from ..models.progress import observed_by


def load_shown(spec: EncoderSpec) -> Encoder:
    """Load an encoder as `load_encoder` does, and show on a terminal what takes long."""
    if not sys.stderr.isatty():
        return load_encoder(spec)
    from .bars import Bars  # late: rich takes long to import

    with Bars() as bars, observed_by(bars):
        return load_encoder(spec)


def prepare_model(spec: EncoderSpec) -> dict[str, Any]:
    """Do what the first use of a model on this machine does, so that later ones start fast.

    Its files are downloaded, its graphs are made, checked and compiled, with progress on a terminal.

    Args:
        spec: Runtime and precision may be `auto`.

    Returns:
        `name`, `runtime`, `precision`, `device`, `checked_cosine` (None without a check), `directory` of the graphs
        (None if the runtime is torch, which has none), `made` (whether they were made now), `bytes` of them and of
        what is compiled, and `seconds`.

    Raises:
        SpecError: If nothing can be prepared for this model, or the cache is not writable.
        WeightsError: If weights are not available, or no graph can be made.
        MissingExtraError: If a package is not installed.
    """
    if spec.ref.family in ("fake", "custom"):
        raise SpecError(f"{spec.model} has nothing to prepare: it has no graphs")
    from ..models.runtimes import GRAPH_KINDS
    from ..models.runtimes.store import Store, is_writable
    from ..models.towers import check_runnable, find_source
    from .bars import Bars

    cache = cache_root(spec.cache_dir) / "graphs"
    if not is_writable(cache):
        raise SpecError(
            f"the cache {str(cache)!r} is not writable, so nothing that is prepared could be kept",
            hint="name another one with " + setting("cache_dir", "DIR"),
        )
    check_runnable(spec)
    started = time.perf_counter()
    before = {path.name for path in cache.iterdir()}
    with Bars() as bars, observed_by(bars):
        found = load_encoder(dataclasses.replace(spec, encoder_process="off")).resolved
    store, kind = Store(find_source(spec), spec.cache_dir), GRAPH_KINDS.get((found["runtime"], found["precision"]))
    folders = [] if kind is None else [store.graphs(kind).folder, store.compiled(kind)]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {
        "name": spec.model,
        "runtime": found["runtime"],
        "precision": found["precision"],
        "device": found["device"],
        "checked_cosine": found.get("checked_cosine"),
        "directory": str(folders[0]) if folders else None,
        "made": bool(folders) and folders[0].parent == cache and folders[0].name not in before,
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": round(time.perf_counter() - started, 1),
    }


def prepared_text(found: dict[str, Any]) -> str:
    """Return what `prepare_model` returned as lines for people."""
    runs = f"{found['name']} runs with {found['runtime']} {found['precision']} on {found['device']}"
    if found["directory"] is None:
        return f"{runs}: its weights are there, and no graphs are needed ({found['seconds']} s)"
    state = "graphs made, checked and compiled" if found["made"] else "its graphs were there already"
    cosine = "" if found["checked_cosine"] is None else f"\nsmallest cosine against float32: {found['checked_cosine']}"
    from rich.filesize import decimal

    return f"{runs}: {state}, {decimal(found['bytes'])}, in {found['seconds']} s{cosine}\n{found['directory']}"
