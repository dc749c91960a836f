"""The URL of a vector database, and its credentials, which no message shows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ClipmillError, DatasetError, SpecError
from ...messages import setting

MODULES = {"postgresql": "postgres", "qdrant": "qdrant", "milvus": "milvus", "lancedb": "lance"}
"""The module of each scheme."""
EXAMPLES = "postgresql://user@host/database, qdrant://host, milvus://host, lancedb:///folder"
_OTHER_NAMES = {"postgres": "postgresql"}
_TRANSPORTS = {"qdrant": ("http", "https"), "milvus": ("http", "https")}
_HIDDEN = "***"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A vector database.

    Attributes:
        scheme: One of `MODULES`.
        over: What follows `+` in the scheme: `https`, or the scheme of an object store; empty if nothing does.
        host: None for a database in a local folder or file.
        path: What follows the host, with its slash.
        options: What follows `?`.
        shown: The URL without its credentials.
    """

    scheme: str
    over: str
    host: str | None
    port: int | None
    user: str | None
    password: str | None = dataclasses.field(repr=False)
    path: str
    options: Mapping[str, str]
    shown: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a URL; raise `SpecError` for one of no database, without showing what may be a password."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise SpecError(setting("to") + " is not a valid URL; write one such as " + EXAMPLES) from None
        given, _, over = parts.scheme.partition("+")
        scheme = _OTHER_NAMES.get(given, given)
        if scheme not in MODULES:
            raise SpecError(
                setting("to")
                + f" has the scheme {given!r}, and must be the URL of a vector database, such as {EXAMPLES}"
            )
        if over and over not in _TRANSPORTS.get(scheme, () if scheme == "postgresql" else (over,)):
            raise SpecError(setting("to") + f" has the scheme {parts.scheme!r}; {given} does not go over {over!r}")
        if not (parts.hostname or parts.path.strip("/")):
            raise SpecError(setting("to") + f" names no host and no path; write one such as {EXAMPLES}")
        at = parts.netloc.rpartition("@")[2]
        shown = f"{parts.scheme}:" + ("//" if url.partition(":")[2].startswith("//") else "") + at + parts.path
        return cls(
            scheme=scheme,
            over=over,
            host=parts.hostname,
            port=port,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            path=unquote(parts.path),
            options=dict(parse_qsl(parts.query, keep_blank_values=True)),
            shown=shown,
        )

    def check_options(self, *allowed: str) -> None:
        """Raise `SpecError` for an option after `?` that the database's store does not know."""
        if unknown := sorted(set(self.options) - set(allowed)):
            known = f"known: {', '.join(allowed)}" if allowed else "it takes none"
            raise SpecError(setting("to") + f" has the unknown option {unknown[0]!r} after '?'; {known}")

    def secret(self, variable: str) -> str | None:
        """Return the password of the URL, else that of an environment variable, if there is one."""
        return self.password or os.environ.get(variable) or None

    @contextlib.contextmanager
    def errors(self, doing: str, *secrets: str | None) -> Iterator[None]:
        """Turn errors of a client into `DatasetError`s that name the database and hide the secrets."""
        try:
            yield
        except ClipmillError:
            raise
        except Exception as err:  # each client has its own types
            hidden = sorted(filter(None, {self.password, *secrets}), key=len, reverse=True)
            said = f"{type(err).__name__}: {err}"
            masked = said
            for secret in hidden:
                masked = masked.replace(secret, _HIDDEN)
            # The cause has the secret as well, and would be shown with the traceback.
            raise DatasetError(f"{self.shown}: cannot {doing}: {masked}") from (err if masked == said else None)
