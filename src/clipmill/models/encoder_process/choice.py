"""Whether the model of a spec runs in the encoder process of its host."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ...messages import setting
from ...threads import CpuShare
from ..source import ModelSource
from ..spec import EncoderSpec
from .place import Unavailable, check_available

_log = logging.getLogger("clipmill")

_COPY = 1.4
"""Memory of a further worker's copy, in sizes of the weights: measured 0.9 (torch) to 1.4 (OpenVINO) for ViT-B-32."""
_SHARE = 0.25
"""The part of the memory that copies may take before `auto` prefers one copy."""


def takes_process(spec: EncoderSpec, source: ModelSource, cpus: int | None) -> bool:
    """Decide for a spec, and log the reason where it is not obvious.

    Args:
        spec: As planned.
        source: Its model.
        cpus: A `CpuShare` where the engine knows how many workers share this host.
    """
    if spec.encoder_process == "off":
        return False
    if spec.encoder_process == "auto":
        wanted, reason = _auto(spec, source, cpus)
        _log.info("%s: %s (auto): %s", spec.model, "one encoder process" if wanted else "in this process", reason)
        if not wanted:
            return False
    try:
        check_available()
    except Unavailable as err:
        say_in_process(spec, str(err))
        return False
    return True


def say_in_process(spec: EncoderSpec, reason: str) -> None:
    """Log that a model runs in this process, although an encoder process was wanted."""
    _log.warning(
        "%s runs in this process, not in " + setting("encoder_process", "per_host") + ": %s", spec.model, reason
    )


def _auto(spec: EncoderSpec, source: ModelSource, cpus: int | None) -> tuple[bool, str]:
    if spec.runtime == "torch":  # measured: an encoder process saves a tenth of the memory of four workers
        return False, "with torch, workers share the pages of a weights file"
    if not isinstance(cpus, CpuShare):
        return False, "the number of workers on this host is not known"
    processes, memory = cpus.processes, memory_bytes()
    if processes < 2:
        return False, "one worker on this host"
    if memory is None:
        return False, "the memory of this host is not known"
    weights = sum(path.stat().st_size for path in source.files if path.is_file())
    copies = int(processes * weights * _COPY)
    said = f"{processes} workers, copies of {copies / 2**30:.1f} of {memory / 2**30:.1f} GiB"
    return copies > _SHARE * memory, said


def memory_bytes() -> int | None:
    """Return the memory of this host or its container, None if it is not known.

    The whole of it, not what is free: workers that start one after the other decide alike.
    """
    limits = []
    try:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(limits)
