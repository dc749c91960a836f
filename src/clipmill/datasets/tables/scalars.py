"""Converts single Arrow values to Python; audio samples become arrays, as Python floats take ten times the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ...encoders.item import AUDIO_FIELDS, AUDIO_RATES, AUDIO_SAMPLES
from ...files.times import PER_SECOND, duration_text
from .column_types import BOOL8, field_names, is_list_type, is_uuid

_TO_MICROSECONDS = len("2026-01-02T03:04:05.000006")


def read_scalar(scalar: pa.Scalar) -> Any:
    """Convert an Arrow scalar to a Python value; the samples in an audio struct become an array of their dtype.

    Samples with several channels become a list of arrays. Samples with nulls become a list, since an array cannot hold
    nulls. A string that is not UTF-8 raises `UnicodeDecodeError`.
    """
    kind = scalar.type
    if not scalar.is_valid or not holds_audio(kind):
        return scalar.as_py()
    if not pa.types.is_struct(kind):
        return [read_scalar(element) for element in scalar.values]
    samples = AUDIO_SAMPLES if _is_audio(kind) else ()
    return {name: (_read_samples if name in samples else read_scalar)(scalar[name]) for name in field_names(kind)}


def inner_values(array: pa.Array) -> int:
    """Return how many values the lists and maps in an array hold, however deep; samples of audio do not count."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return inner_values(array.storage)
    if pa.types.is_struct(kind):
        return 0 if _is_audio(kind) else sum(map(inner_values, array.flatten()))
    if pa.types.is_map(kind):
        return 2 * int(array.offsets[-1].as_py() - array.offsets[0].as_py())
    if not is_list_type(kind):
        return 0
    inner = array.flatten()
    return len(inner) + inner_values(inner)


def printable_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python values; those that Python cannot hold are texts, as of `printable`.

    A string that is not UTF-8 raises `UnicodeDecodeError`.
    """
    if not holds_fine_times(column.type):
        with contextlib.suppress(OverflowError, ValueError):
            values: list[Any] = column.to_pylist()
            return values
    return [printable(scalar) for scalar in column]


def printable_rows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with columns, whose values are those of `printable_values`."""
    columns = map(printable_values, table.columns)
    return (dict(zip(table.schema.names, values, strict=True)) for values in zip(*columns, strict=True))


def printable(scalar: pa.Scalar) -> Any:
    """Convert an Arrow scalar to a Python value; dates and times that Python cannot hold, in structs too, become texts.

    These are times with nanoseconds (`00:00:00.000000001`), dates beyond the year 9999 (`9000000 days since
    1970-01-01`), and durations of over 3 million years (`9000000000000000 s`).
    """
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType) and not (is_uuid(kind) or isinstance(kind, BOOL8)):
        return printable(scalar.value)
    if pa.types.is_struct(kind):
        return {name: printable(scalar[name]) for name in field_names(kind)}
    if pa.types.is_map(kind):
        return [(printable(entry["key"]), printable(entry["value"])) for entry in scalar.values]
    if is_list_type(kind):
        return [printable(element) for element in scalar.values]
    if pa.types.is_dictionary(kind):
        return printable(scalar.value)
    if _is_fine_time(kind):
        return scalar.cast(pa.string()).as_py()
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError):
        if pa.types.is_timestamp(kind) and kind.unit == "ns":  # where pandas, which has nanoseconds, is not installed
            moment = pa.scalar(scalar.value // 1000, pa.timestamp("us", kind.tz)).as_py()
            text: str = moment.isoformat(timespec="microseconds")
            return f"{text[:_TO_MICROSECONDS]}{scalar.value % 1000:03d}{text[_TO_MICROSECONDS:]}"
        if pa.types.is_duration(kind):
            return duration_text(scalar.value * (10**9 // PER_SECOND[kind.unit]))
        unit = kind.unit if pa.types.is_timestamp(kind) else "days" if pa.types.is_date32(kind) else "ms"
        return f"{scalar.value} {unit} since 1970-01-01{' UTC' if getattr(kind, 'tz', None) else ''}"


def _is_fine_time(kind: pa.DataType) -> bool:
    """Return whether a type is a time of day in nanoseconds; Python's have microseconds."""
    return bool(pa.types.is_time64(kind) and kind.unit == "ns")


def holds_fine_times(kind: pa.DataType) -> bool:
    """Return whether a type is, or contains, a time of day in nanoseconds."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_fine_times(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_fine_times(kind.value_type)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return _is_fine_time(kind) or any(map(holds_fine_times, inner))


def holds_audio(kind: pa.DataType) -> bool:
    """Return whether a type is, or contains, a struct of samples and their sample rate."""
    if pa.types.is_struct(kind):
        return _is_audio(kind) or any(holds_audio(field.type) for field in kind)
    return is_list_type(kind) and holds_audio(kind.value_type)


def _is_audio(struct: pa.StructType) -> bool:
    names = set(field_names(struct))
    return names <= AUDIO_FIELDS and not names.isdisjoint(AUDIO_SAMPLES) and not names.isdisjoint(AUDIO_RATES)


def _read_samples(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid or not is_list_type(scalar.type):
        return scalar.as_py()
    if is_list_type(scalar.type.value_type):
        return [_read_samples(channel) for channel in scalar.values]
    return scalar.as_py() if scalar.values.null_count else scalar.values.to_numpy(zero_copy_only=False)
