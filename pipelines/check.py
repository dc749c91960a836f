"""One line of `clipmill doctor`: what was examined, the verdict, what was found, and the way out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "warning", "problem", "absent"]
"""`absent`: it is optional and not installed. Only a `problem` makes `clipmill doctor` exit with 1."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One finding about this machine.

    Attributes:
        name: What was examined.
        verdict: How it is.
        finding: What was found. It holds no token, password or address.
        hint: What to do about it; None if nothing is to be done.
    """

    name: str
    verdict: Verdict
    finding: str
    hint: str | None = None


def ok(name: str, finding: str) -> Check:
    """Return a check that found everything well."""
    return Check(name, "ok", finding)


def absent(name: str, finding: str, hint: str | None = None) -> Check:
    """Return a check of something optional that this machine does not have."""
    return Check(name, "absent", finding, hint)


def warning(name: str, finding: str, hint: str) -> Check:
    """Return a check of something that works, and may be slow, or fail later or elsewhere."""
    return Check(name, "warning", finding, hint)


def problem(name: str, finding: str, hint: str) -> Check:
    """Return a check of something that does not work."""
    return Check(name, "problem", finding, hint)


def not_installed(name: str, extra: str) -> Check:
    """Return the check of a package or runtime that nobody installed."""
    return absent(name, "not installed", f"pip install 'clipmill[{extra}]'" if extra else None)


def shown_path(path: str | Path) -> str:
    """Return a path as it may be published: the home directory, which has a person's name, is `~`."""
    path = Path(path)
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (RuntimeError, ValueError):  # no home, or not in it
        return str(path)


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
