"""What can go wrong with a job as a whole; what goes wrong with a row is in `failure`."""

from __future__ import annotations


class ClipmillError(Exception):
    """Base of every error that clipmill raises on purpose."""


class SpecError(ClipmillError, ValueError):
    """An encoder was described in a way that cannot work."""


class UnknownModelError(SpecError):
    """A model name is in no catalog; the message lists the nearest names."""


class WeightsError(ClipmillError, RuntimeError):
    """The weights of a model could not be found, fetched, read or fitted to its architecture."""


class DeviceError(ClipmillError, RuntimeError):
    """A device was asked for that this machine does not have."""


class OutOfMemoryError(ClipmillError, MemoryError):
    """One call of the model needed more memory than its device has; a smaller micro-batch may fit."""


class MissingExtraError(ClipmillError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package!r}, which is not installed: pip install 'clipmill[{extra}]'", name=package
        )
        self._args = (package, extra, purpose)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self._args


class DatasetError(ClipmillError, RuntimeError):
    """A dataset cannot be read or written as asked: it exists, is incomplete, or its parts do not agree."""


class EmbeddingError(ClipmillError, ValueError):
    """Rows failed in a call that promised a vector for each of them.

    Attributes:
        failures: The failures, keyed by the position of the row in the call.
    """

    def __init__(self, failures: dict[int, object]) -> None:
        first, failure = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(
            f"row {first} could not be embedded{more}: {failure}; use encoder.embed(...) to get failures as data"
        )
        self.failures = failures

    def __reduce__(self) -> tuple[type, tuple[dict[int, object]]]:
        return type(self), (self.failures,)
